#!/usr/bin/env bash
# Installs what is missing on Debian or Ubuntu: `setup.sh build`, `setup.sh demo` or `setup.sh test`. Safe to repeat.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-test}
# command it is looked for by, package that brings it
wanted=(cc:gcc cmake:cmake make:make)
case $purpose in
    build) ;;
    demo) wanted+=(curl:curl) ;;
    # initdb of PostgreSQL is on nobody's path; its client is, and comes with it
    # node, go and Python's cryptography run the samples of deploy/upstream-examples
    test) wanted+=(redis-server:redis-server node:nodejs go:golang-go initdb:postgresql setpriv:util-linux) ;;
    *)
        echo "setup: unknown purpose '$purpose': write build, demo or test" >&2
        exit 2
        ;;
esac

say() { echo "setup: $*"; }

# Debian keeps servers in sbin, and PostgreSQL's in a folder for each version: neither is on everybody's path.
servers=$(printf ':%s' /usr/local/sbin /usr/sbin /sbin /usr/lib/postgresql/*/bin)
has() { PATH="$PATH$servers" command -v "$1" >/dev/null 2>&1; }

check_toolchain() {
    if ! has cargo; then
        say "there is no Rust toolchain; install it from https://rustup.rs and repeat" >&2
        exit 1
    fi
    if ! cargo --version >/dev/null 2>&1; then
        say "installing the toolchain that rust-toolchain.toml names"
        rustup toolchain install
    fi
    [[ $purpose == test ]] || return 0
    local missing=()
    cargo fmt --version >/dev/null 2>&1 || missing+=(rustfmt)
    cargo clippy --version >/dev/null 2>&1 || missing+=(clippy)
    [[ ${#missing[@]} -gt 0 ]] || return 0
    if ! has rustup; then
        say "the Rust toolchain lacks ${missing[*]}; install them and repeat" >&2
        exit 1
    fi
    say "adding to the Rust toolchain: ${missing[*]}"
    rustup component add "${missing[@]}"
}

packages=()
for pair in "${wanted[@]}"; do
    has "${pair%%:*}" || packages+=("${pair##*:}")
done

has_cryptography() { /usr/bin/python3 -c 'import cryptography' >/dev/null 2>&1; }
if [[ $purpose == test ]] && ! has_cryptography; then packages+=(python3 python3-cryptography); fi

install_packages() {
    local as_root=()
    if [[ $(id -u) -ne 0 ]]; then
        if ! has sudo; then
            say "these packages are missing: ${packages[*]}; install them as root and repeat" >&2
            exit 1
        fi
        as_root=(sudo)
    fi

    # The tests start servers of their own; a package must not start one. Only where nobody has set a policy.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
        # shellcheck disable=SC2064 # expanded now on purpose: the locals are gone when the trap runs
        trap "${as_root[*]} rm -f $policy" EXIT
    fi

    say "installing with apt-get: ${packages[*]}"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
    "${apt[@]}" update
    "${apt[@]}" install -y --no-install-recommends "${packages[@]}"
}

if [[ ${#packages[@]} -gt 0 ]]; then
    if ! has apt-get; then
        say "this is not Debian or Ubuntu; install these and repeat: ${packages[*]}" >&2
        exit 1
    fi
    install_packages
fi

for pair in "${wanted[@]}"; do
    if ! has "${pair%%:*}"; then
        say "${pair%%:*} is still missing after installing ${pair##*:}" >&2
        exit 1
    fi
done
if [[ $purpose == test ]] && ! has_cryptography; then
    say "/usr/bin/python3 still has no cryptography after installing python3-cryptography" >&2
    exit 1
fi
# The tests build clusters with what Redis 7 brought.
check_redis() {
    [[ $purpose == test ]] || return 0
    local version
    version=$(PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" redis-server --version | sed -n 's/.* v=\([0-9]*\)\..*/\1/p')
    if [[ ${version:-0} -lt 7 ]]; then
        say "redis-server is of version ${version:-unknown}, and the tests need 7; install it from https://redis.io and repeat" >&2
        exit 1
    fi
}
check_redis
check_toolchain
say "everything for '$purpose' is here"
