#!/usr/bin/env bash
# Looks for undefined behaviour in the `unsafe` code: the CPU kernels and the mapped files. Needs a
# nightly compiler and is therefore no part of tools/check.sh.
#
#   tools/check_unsafe.sh [miri] [asan]      both by default
#
# miri interprets the tests of the kernels: pointers, uninitialised memory, races. asan runs the
# tests of layers, backbones, weights and the command, and the demo model from end to end, with every
# instruction set that the processor has.
# On two cores the first run builds for 30 minutes and needs 2 GB in target/unsafe; after that miri
# takes 20 minutes, and asan 7 for building this crate and 2 for its tests.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CHECK_TARGET_DIR:-$PWD/target/unsafe}
export CARGO_INCREMENTAL=0
host=$(rustc -vV | sed -n 's/^host: //p')

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "a nightly compiler is missing: rustup toolchain install nightly" >&2
    exit 1
fi

# interpret NAME FLAGS FILTER...
interpret() {
    echo "== miri, $1: ${*:3}"
    # Rayon's threads outlive the tests, and its queues keep tags in pointers. Two of them, or
    # nothing is shared.
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks -Zmiri-permissive-provenance $2" \
        RAYON_NUM_THREADS=2 \
        cargo +nightly miri test --no-default-features --lib -- "${@:3}"
}

check_miri() {
    if ! cargo +nightly miri --version >/dev/null 2>&1; then
        echo "miri is missing: rustup component add --toolchain nightly miri rust-src" >&2
        exit 1
    fi
    # Rayon's queues break the rules of stacked borrows, so what uses them is held to those of tree
    # borrows. The functions underneath are held to both.
    interpret portable "" nn::kernels::tile nn::kernels::pack
    interpret portable -Zmiri-tree-borrows nn::kernels
    # The flags make Miri a processor with these instructions. Of AVX-512 it lacks some that
    # attention needs, and the products of bf16.
    if [[ $host == x86_64-* ]]; then
        local avx2=-Ctarget-feature=+avx2,+fma
        interpret avx2 "-Zmiri-tree-borrows $avx2" nn::kernels
        interpret avx512 "-Zmiri-tree-borrows $avx2,+avx512f,+avx512dq,+avx512vl" \
            nn::kernels --skip nn::kernels::attention
    fi
}

check_asan() {
    # With a target named, build scripts and macros are built without the flag.
    export RUSTFLAGS=-Zsanitizer=address
    # A test asks for memory that no machine has, which must be an error and not an abort.
    export ASAN_OPTIONS=allocator_may_return_null=1
    local test=(cargo +nightly test --target "$host")
    "${test[@]}" --lib -- nn:: backbones:: weights::
    "${test[@]}" --bin sam3
    "${test[@]}" --test parity demo
}

checks=("$@")
for check in "${checks[@]:-miri asan}"; do
    for name in $check; do
        if ! declare -F "check_$name" >/dev/null; then
            echo "$name: give miri or asan" >&2
            exit 2
        fi
        ("check_$name")
    done
done
