#!/usr/bin/env bash
# Builds `sam3` for NVIDIA GPUs. Needs no GPU, no driver and no CUDA installation.
#
#   tools/cuda_build.sh [FEATURES] [cargo arguments, default: build --release]
#
# FEATURES is cuda (default), cudnn, flash-attn, or cudnn,flash-attn. With flash-attn, attention in half
# precision keeps no scores in memory; its build fetches the headers of CUTLASS from GitHub, and compiles
# 53 files of kernels in about 150 minutes of processor time. Interrupted, it begins again. These are no PTX:
# they run on GPUs of CUDA_COMPUTE_CAP's generation alone, 80 for 8.x, 90 for Hopper.
#
# The CUDA 13.0 compiler and libraries are fetched from PyPI (1 GB), or those of CUDA_HOME are used if
# it is set. The binary holds PTX for CUDA_COMPUTE_CAP (default 80: Ampere, and newer GPUs too), which
# the driver compiles when it is first used, so the GPU machine's driver must be of CUDA 13.0 or later.
#
# Plain `cargo build --features cuda` makes a binary that cannot start where CUDA is missing. This one
# loads CUDA when it is asked for a GPU: it starts everywhere and falls back to the CPU. On the GPU
# machine, the libraries must be on LD_LIBRARY_PATH; the last line printed says which.
#
# Everything lands under CARGO_TARGET_DIR (default target/cuda): 5 GB. A first build took
# 18 minutes of processor time.
set -euo pipefail
cd "$(dirname "$0")/.."

features=${1:-cuda}
shift || true
[[ $# -gt 0 ]] || set -- build --release
case "$features" in
cuda | cudnn | flash-attn | cudnn,flash-attn) ;;
*) echo "features $features: give cuda, cudnn, flash-attn, or cudnn,flash-attn" >&2 && exit 2 ;;
esac
cudnn=''
[[ $features != *cudnn* ]] || cudnn=-cudnn
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target/cuda}
mkdir -p "$CARGO_TARGET_DIR"
toolchain=$CARGO_TARGET_DIR/toolchain

# What torch 2.11.0+cu130 pins, plus the compiler of the same release.
wheels="nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88
    nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35"
[[ -z $cudnn ]] || wheels="$wheels nvidia-cudnn-cu13==9.19.0.56"

fetch_toolchain() {
    local downloads root=$toolchain/nvidia/cu13
    downloads=$(mktemp -d -p "$CARGO_TARGET_DIR")
    # shellcheck disable=SC2086  # a list of words
    ${PIP:-python3 -m pip} download -q --no-deps --only-binary=:all: -d "$downloads" $wheels
    for wheel in "$downloads"/*.whl; do
        python3 -m zipfile -e "$wheel" "$toolchain"
    done
    rm -r "$downloads"
    # Wheels keep no permissions, have lib but not lib64, and lib*.so.N but not lib*.so.
    chmod +x "$root"/bin/* "$root"/nvvm/bin/*
    ln -sfn lib "$root/lib64"
    if [[ -d $toolchain/nvidia/cudnn ]]; then
        ln -sf "$toolchain"/nvidia/cudnn/include/*.h "$root/include/"
        ln -sf "$toolchain"/nvidia/cudnn/lib/*.so* "$root/lib/"
    fi
    (
        cd "$root/lib"
        for library in *.so.*; do
            [[ $library == *alt* ]] || ln -sf "$library" "${library%%.so*}.so"
        done
    )
    touch "$toolchain/.complete$cudnn"
}

if [[ -z ${CUDA_HOME:-} ]]; then
    [[ -e $toolchain/.complete$cudnn ]] || fetch_toolchain
    CUDA_HOME=$toolchain/nvidia/cu13
fi
export CUDA_HOME CUDA_PATH=$CUDA_HOME NVCC=$CUDA_HOME/bin/nvcc PATH=$CUDA_HOME/bin:$PATH
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-80}
# Outside the folders that cargo names by hashes, so that kernels are not compiled again for a new lock file;
# one for each capability.
export CANDLE_FLASH_ATTN_BUILD_DIR=$CARGO_TARGET_DIR/flash-attn-$CUDA_COMPUTE_CAP
mkdir -p "$CANDLE_FLASH_ATTN_BUILD_DIR"
export CUDAFORGE_THREADS=${CUDAFORGE_THREADS:-$(nproc)} # files at a time; by itself it takes half the processors
nvcc --version | tail -2
SAM3_COMMIT=$(git rev-parse --short HEAD 2>/dev/null || true) # for the results of `sam3 bench`
export SAM3_COMMIT

# candle links the CUDA libraries; a copy of candle-core that differs in one word of its manifest loads
# them at run time instead.
version=$(sed -n '/^name = "candle-core"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
cargo fetch -q --locked
source=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/candle-core-"$version" | head -1)
patched=$CARGO_TARGET_DIR/candle-core-$version
if [[ ! -d $patched ]]; then
    cp -r "$source" "$patched"
    sed -i 's/"dynamic-linking"/"dynamic-loading"/' "$patched/Cargo.toml"
    grep -q '"dynamic-loading"' "$patched/Cargo.toml"
fi
# The static kernels of candle ask for libcudart.so: a linker script gives them the static runtime.
stand_ins=$CARGO_TARGET_DIR/stand-ins
mkdir -p "$stand_ins"
echo 'INPUT(libcudart_static.a -lrt -ldl -lpthread)' >"$stand_ins/libcudart.so"
export RUSTFLAGS="${RUSTFLAGS:-} -L native=$stand_ins -L native=$CUDA_HOME/lib64"

lock=$(mktemp)
cp Cargo.lock "$lock"
trap 'mv "$lock" Cargo.lock' EXIT # the patch is of this build only
cargo "$@" --features "$features" --config "patch.crates-io.candle-core.path='$patched'"

binary=$CARGO_TARGET_DIR/release/sam3
if [[ -x $binary ]]; then
    ls -l "$binary"
    readelf -d "$binary" | grep NEEDED
    echo "on the GPU machine: libcuda.so.1 (driver), libcublas.so.13, libcublasLt.so.13, libcurand.so.10" \
        "$([[ -z $cudnn ]] || echo and libcudnn.so.9)"
fi
