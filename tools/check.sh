#!/usr/bin/env bash
# What must hold before a change lands: format, lints, tests, documentation.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
cargo clippy --all-targets -- -D warnings
cargo clippy --lib --no-default-features -- -D warnings
cargo test
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --lib

# They build the standard library and candle again, so only when asked.
if [[ -n ${CHECK_TARGETS:-} ]]; then
    tools/check_targets.sh
else
    echo "not checked: the CUDA, Metal and WebAssembly builds (CHECK_TARGETS=1 does)"
fi
