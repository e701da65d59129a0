#!/usr/bin/env bash
# Type-checks what cannot be run on a plain Linux machine: the CUDA and Metal paths and the library
# for WebAssembly. Links nothing, compiles no GPU kernel, runs nothing.
#
#   tools/check_targets.sh [cuda] [metal] [wasm]      all three by default
#
# metal and wasm need the standard library's source of the very compiler that is installed; RUST_SRC
# names its `library` folder, else rustup's is taken, else Debian's rust-src package is fetched and
# unpacked. Where none is to be had, the check is skipped, which the last lines say.
# Everything lands under target/check (2 GB).
set -uo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CHECK_TARGET_DIR:-$PWD/target/check}
mkdir -p "$CARGO_TARGET_DIR"
summary=()
failed=0

# A compiler of nothing: candle's build scripts ask nvcc for its version and for kernels.
check_cuda() {
    local fake=$CARGO_TARGET_DIR/fake-cuda
    mkdir -p "$fake/bin" "$fake/include" "$fake/lib64"
    cat >"$fake/bin/nvcc" <<'NVCC'
#!/usr/bin/env bash
if [[ $* == *--version* ]]; then
    printf 'nvcc\n\n\nCuda compilation tools, release 13.0, V13.0.88\n'
    exit
fi
ptx=false sources=()
while (($#)); do
    case $1 in
    -o | --output-file) output=$2 && shift ;;
    --output-directory) folder=$2 && shift ;;
    --ptx | -ptx) ptx=true ;;
    *.cu) sources+=("$1") ;;
    esac
    shift
done
for source in "${sources[@]}"; do
    name=$(basename "$source" .cu)
    if $ptx; then
        echo "// no kernel" >"${output:-$folder/$name.ptx}"
    else
        cc -c -x c /dev/null -o "${output:-$folder/$name.o}"
    fi
done
[[ ${#sources[@]} -gt 0 || -z ${output:-} ]] || ar cr "$output"
NVCC
    # Fetches nothing: the build of candle-flash-attn asks for headers of CUTLASS.
    cat >"$fake/bin/git" <<'GIT'
#!/usr/bin/env bash
[[ $1 != clone ]] || mkdir -p "${!#}/include"
GIT
    chmod +x "$fake/bin/nvcc" "$fake/bin/git"
    local features
    for features in cuda flash-attn; do
        PATH=$fake/bin:$PATH NVCC=$fake/bin/nvcc CUDA_HOME=$fake CUDA_PATH=$fake CUDA_COMPUTE_CAP=90 \
            CUDAFORGE_HOME=$fake cargo check --features $features || return 1
    done
}

# A C compiler and archiver of nothing: the command line's TLS is partly C, and nothing is linked.
check_metal() {
    local fake=$CARGO_TARGET_DIR/fake-cc
    cat >"$fake" <<'CC'
#!/usr/bin/env bash
for word in "$@"; do
    case ${word#-o} in
    *.o | *.a) : >"${word#-o}" ;;
    esac
done
CC
    chmod +x "$fake"
    CC_aarch64_apple_darwin=$fake AR_aarch64_apple_darwin=$fake SDKROOT=/ \
        check_with_own_std aarch64-apple-darwin --features metal
}

check_wasm() {
    check_with_own_std wasm32-unknown-unknown --lib --no-default-features
}

# `-Z build-std` is of the nightly compiler; RUSTC_BOOTSTRAP lets a stable one do it.
check_with_own_std() {
    local target=$1 source
    shift
    if rustc --print target-libdir --target "$target" 2>/dev/null | xargs -I{} test -d {}; then
        cargo check --target "$target" "$@"
        return
    fi
    source=$(rust_src) || return 77
    RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT=$source \
        cargo check -Z build-std=std,panic_abort --target "$target" "$@"
}

# The folder of the standard library's source of the installed compiler.
rust_src() {
    local version candidate
    version=$(rustc --version | cut -d' ' -f2)
    for candidate in "${RUST_SRC:-}" "$(rustc --print sysroot)/lib/rustlib/src/rust/library" \
        "$CARGO_TARGET_DIR/rust-src/usr/src/rustc-$version/library"; do
        if [[ -d $candidate/std ]]; then
            echo "$candidate"
            return
        fi
    done
    fetch_rust_src "$version" >&2 && echo "$CARGO_TARGET_DIR/rust-src/usr/src/rustc-$version/library"
}

# From Debian, whose backports hold the latest few versions; nothing of the system is changed.
fetch_rust_src() {
    local apt=$CARGO_TARGET_DIR/apt suite options package
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    for suite in trixie-backports sid; do
        rm -rf "$apt" && mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
        echo "deb http://deb.debian.org/debian $suite main" >"$apt/sources.list"
        options=(-q -oDir::Etc::sourcelist="$apt/sources.list" -oDir::Etc::sourceparts=-
            -oDir::State::lists="$apt/lists" -oDir::Cache="$apt/cache")
        apt-get "${options[@]}" update || return 1
        package=$(apt-cache "${options[@]}" madison rust-src |
            awk -v v="$1" '$3 ~ "^" v "[+]" { print $3; exit }')
        [[ -n $package ]] || continue
        (cd "$apt" && apt-get "${options[@]}" download "rust-src=$package") || return 1
        dpkg -x "$apt"/rust-src_*.deb "$CARGO_TARGET_DIR/rust-src"
        rm -r "$apt"
        return
    done
    return 1
}

for target in "${@:-cuda metal wasm}"; do
    for name in $target; do
        if ! declare -F "check_$name" >/dev/null; then
            echo "$name: give cuda, metal or wasm" >&2
            exit 2
        fi
        SECONDS=0
        "check_$name"
        case $? in
        0) summary+=("$name: type-checks ($SECONDS s)") ;;
        77) summary+=("$name: SKIPPED, the source of $(rustc --version | cut -d' ' -f1,2) could not be had") ;;
        *) summary+=("$name: FAILED") && failed=1 ;;
        esac
    done
done
printf '%s\n' "${summary[@]}"
exit $failed
