#!/usr/bin/env bash
# What must hold before a change lands: format, lints, tests, documentation.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo fmt --check
cargo clippy --all-targets -- -D warnings
cargo clippy --lib --no-default-features -- -D warnings
cargo clippy --all-targets --no-default-features --features cli -- -D warnings # without the server
cargo test
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
cargo run -q --example text_on_folder -- tests/scenes
cargo run -q --example click_and_refine -- tests/scenes/shapes.png "$results/mask.png"
cargo run -q --example everything_to_coco -- tests/scenes/shapes.png "$results/coco.json"
# The way of GPUs: candle's operations in place of the CPU's kernels.
CANDLE_SAM3_CPU=candle cargo test --lib
# Weights of 8 bits have no such way.
CANDLE_SAM3_CPU=candle cargo test --test cli --test dataset --test parity -- --skip eight_bits \
    --skip unseen_scenes_are_answered_well
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --lib

tools/check_page.sh

# They build the standard library and candle again, so only when asked.
if [[ -n ${CHECK_TARGETS:-} ]]; then
    tools/check_targets.sh
else
    echo "not checked: the CUDA, Metal and WebAssembly builds (CHECK_TARGETS=1 does)"
fi
