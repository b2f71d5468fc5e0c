# Two commands set up a fresh machine: `make demo` to see it work, `make test` to check it all.

SHELL := /bin/bash
# A machine that has just got its toolchain may not have a shell that knows it.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-check test reference fuzz bench bench-load bench-limits bench-revocations deny

help: ## Show this.
	@awk -F ': .*## ' '/^[a-z-]+: .*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing to build and test (cmake, redis-server, postgresql, node, go; Debian and Ubuntu).
	@scripts/setup.sh test

# The development profile: built in half the time of a release, and what `make test` needs is built with it.
demo: ## Build, and run the gateway with an embedded configuration; prints the curl lines to try.
	@scripts/setup.sh demo
	cargo build --locked -p portcullis
	@exec target/debug/portcullis demo

demo-check: ## Run those lines and fail unless each gives what it says.
	@scripts/setup.sh demo
	cargo build --locked -p portcullis
	@exec target/debug/portcullis demo --check

test: ## Install what is missing, build everything, run everything.
	@scripts/setup.sh test
	@scripts/test.sh

reference: ## Make docs/reference anew from the types.
	@scripts/setup.sh demo
	cargo build --locked -p portcullis
	@for page in settings codes metrics; do \
		target/debug/portcullis reference $$page > target/$$page.md && mv target/$$page.md docs/reference/ || exit; \
	done

# For example: make fuzz FUZZ='--seconds 600 --seed 2 --target token'
fuzz: ## Fuzz the reading of credentials and key sets, guided by coverage (a short run is part of `make test`).
	@scripts/setup.sh build
	RUSTC_WORKSPACE_WRAPPER="$(CURDIR)/fuzz/instrument" cargo run --locked -p portcullis-fuzz -- $(FUZZ)

bench: ## What each control costs by itself.
	@scripts/setup.sh build
	cargo bench --locked -p portcullis-benches --bench controls

# For example: make bench-load LOAD='--seconds 5 --protocols h1'
bench-load: ## The price of safety: bare Pingora, controls off, all controls on (LOAD='--smoke' takes seconds).
	@scripts/setup.sh build
	cargo run --release --locked -p portcullis-benches --bin load -- $(LOAD)

# For example: make bench-limits LIMITS='--modes faults'
bench-limits: ## What distributed limits promise: bounds, faults, fairness (LIMITS='--smoke' takes seconds).
	@scripts/setup.sh test
	PATH="$(PATH):/usr/local/sbin:/usr/sbin" cargo run --release --locked -p portcullis-benches --bin limits -- $(LIMITS)

# For example: make bench-revocations REVOCATIONS='--revocations 1000'
bench-revocations: ## How soon a revocation holds on three gateways that share a Redis.
	@scripts/setup.sh test
	PATH="$(PATH):/usr/local/sbin:/usr/sbin" cargo run --release --locked -p portcullis-benches --bin revocations -- $(REVOCATIONS)

deny: ## Licences, bans, sources and advisories (needs cargo-deny and, for advisories, the network).
	cargo deny check
