#!/bin/bash
# Runs every check and test, and counts them: the last line is `N passed, N failed, N skipped`. `make test` runs this.
set -uo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Not every installation of Rust has the formatter and the linter.
checks() {
    if cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1; then
        make --no-print-directory check
    else
        echo 'SKIPPED: format and lints: there is no rustfmt or no clippy. Try: rustup component add rustfmt clippy'
        echo 'check: 0 passed, 0 failed, 1 skipped'
        [ -z "${FERNVPN_REQUIRE_INTEROP:-}" ]
    fi
}
all() {
    local status=0
    tests/needs.sh test || echo 'going on without them: what needs them is skipped'
    make --no-print-directory build || return
    checks || status=1
    cargo test --locked --no-fail-fast || status=1
    make --no-print-directory check-portable || status=1
    make --no-print-directory --keep-going --jobs 2 --output-sync=target scripts || status=1
    return $status
}
all 2>&1 | tee "$log"
status=$?

# This adds up the last lines of cargo's tests ("test result: ok. 7 passed; ...") and of the scripts ("netns: 72 passed, ...").
# cargo counts a test that skips itself as passed, so that is corrected.
awk -v status=$status '
    /^(test result: [a-zA-Z]+\.|[a-z]+:) [0-9]+ passed/ {
        for (i = 2; i <= NF; i++) {
            if ($i ~ /^passed/) passed += $(i - 1)
            if ($i ~ /^failed/) failed += $(i - 1)
            if ($i ~ /^(ignored|skipped)/) skipped += $(i - 1)
        }
    }
    /^SKIPPED by / { passed--; skipped++ }
    END {
        if (status && !failed) failed = 1 # the build, format and lints count no tests
        printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped
    }' "$log"
exit $status
