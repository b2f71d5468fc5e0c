#!/usr/bin/env bash
# Everything that must hold, in the order of how soon it tells: format, lints, build, tests. `make test` calls it.
set -euo pipefail
cd "$(dirname "$0")/.."

# Where nobody edits and builds again, incremental state only costs disk and time.
if [[ -n ${CI:-} ]]; then export CARGO_INCREMENTAL=0; fi
# Debian keeps redis-server in a folder that is not on everybody's path.
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

log=$(mktemp)
tests_session=
stages=()
result=0

# Process ids of the tests' session: what they started and did not end. A session outlives its parent, and unlike an
# environment variable it cannot be overwritten, which redis-server does with its own.
left_behind() {
    local stat fields
    for stat in /proc/[0-9]*/stat; do
        fields=$(cat "$stat" 2>/dev/null) || continue
        # pid (name) state parent group session ...; the name may hold anything
        read -r -a fields <<<"${fields##*)}"
        if [[ ${fields[3]} == "$tests_session" && ${fields[0]} != Z ]]; then
            stat=${stat#/proc/}
            echo "${stat%/stat}"
        fi
    done
}

finish() {
    local pid
    if [[ -n $tests_session ]]; then
        for pid in $(left_behind); do
            echo "test: ending $(cat "/proc/$pid/comm" 2>/dev/null) $pid, which the tests left behind" >&2
            kill "$pid" 2>/dev/null || true
        done
    fi
    rm -f "$log"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stage NAME COMMAND...: runs it, notes how it went and how long it took.
stage() {
    local name=$1 start=$SECONDS mark=ok
    shift
    echo "== $name: $*"
    if ! "$@"; then
        mark=FAILED
        result=1
    fi
    stages+=("$(printf '%-7s %-8s %4d s' "$mark" "$name" $((SECONDS - start)))")
    [[ $mark == ok ]]
}

# Through a file and not through a pipe: a server that a test left behind would hold the pipe open for ever.
run_tests() {
    setsid cargo test --locked --workspace --no-fail-fast >"$log" 2>&1 </dev/null &
    tests_session=$!
    tail -n +1 -s 0.2 --pid="$tests_session" -f "$log" &
    local shown=$! status=0
    wait "$tests_session" || status=$?
    wait "$shown" || true
    return "$status"
}

# Sums cargo's `test result: ok. 12 passed; 0 failed; 0 ignored; ...` lines up.
counts() {
    awk '/^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i == "passed;") passed += $(i - 1)
            if ($i == "failed;") failed += $(i - 1)
            if ($i == "ignored;") ignored += $(i - 1)
        }
    } END { printf "%d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$log"
}

summary() {
    echo
    echo "== summary"
    printf '%s\n' "${stages[@]}"
    if [[ -s $log ]]; then
        counts
        grep -E '^test .* \.\.\. FAILED$' "$log" | sort -u || true
    fi
    if [[ $result -eq 0 ]]; then echo "all well"; else echo "NOT well"; fi
}

# Format and lints tell about the text and do not stop the rest; without a build there is nothing to test.
stage format cargo fmt --all --check || true
stage lints cargo clippy --locked --workspace --all-targets -- -D warnings || true
if stage build cargo build --locked --workspace --bins; then
    stage tests run_tests || true
fi
summary
exit "$result"
