#!/usr/bin/env bash
# The kernels for Arm, in an emulator: tests of layers and backbones with NEON, on a processor with
# dot products of bytes and on one without, and with plain code.
#
#   tools/check_arm.sh [arguments of the tests, default: nn:: backbones::]
#
# Needs rustup's aarch64-unknown-linux-gnu, and Debian's qemu-user, gcc-aarch64-linux-gnu and
# libc6-dev-arm64-cross: what is missing is named. Everything lands under target/arm (2 GB). It says
# nothing about speed, and is no part of tools/check.sh: the emulator takes 20 times as long.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
missing=()
command -v qemu-aarch64 >/dev/null || missing+=("qemu-user")
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=("gcc-aarch64-linux-gnu and libc6-dev-arm64-cross")
[[ -d $(rustc --print sysroot)/lib/rustlib/$target ]] || missing+=("rustup target add $target")
if [[ ${#missing[@]} -gt 0 ]]; then
    printf 'missing: %s\n' "${missing[@]}" >&2
    exit 2
fi

export CARGO_TARGET_DIR=${CHECK_TARGET_DIR:-$PWD/target/arm}
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
[[ $# -gt 0 ]] || set -- nn:: backbones::
for run in "max neon" "cortex-a53 neon" "max portable"; do
    read -r processor level <<<"$run"
    echo "== $level on $processor" >&2
    QEMU_CPU=$processor CANDLE_SAM3_CPU=$level \
        cargo test --target "$target" --lib --no-default-features --features demo -- "$@"
done
