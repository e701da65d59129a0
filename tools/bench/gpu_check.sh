#!/usr/bin/env bash
# Parity and speed of every released model on the GPU of this machine, without a download.
#
#   tools/bench/gpu_check.sh [--device cuda] [--dtypes "f32 bf16 f16"] [--iters 10] [VARIANT...]
#
# Builds nothing: SAM3 names the binary, else target/cuda/release/sam3 or target/release/sam3 is
# taken. For each model and number format, on random weights: every stage against f32 on the CPU
# (`bench --parity`), then the times of the stages. All goes to tools/bench/results/<gpu>.json, a
# list of what `sam3 bench --json` writes; a model that fails does not stop the others.
#
# CHECKPOINTS and REFERENCES may name folders with <name>.pt and <name>.safetensors, the stages that
# the official code recorded for it: those are then held against each other with `sam3 verify`.
set -uo pipefail
cd "$(dirname "$0")/../.."

device=cuda dtypes="f32 bf16 f16" iters=10 variants=()
while (($#)); do
    case $1 in
    --device | --dtypes | --iters)
        [[ $# -gt 1 ]] || { echo "$1 needs a value" >&2 && exit 2; }
        declare "${1#--}=$2" && shift
        ;;
    -*) echo "unknown option $1" >&2 && exit 2 ;;
    *) variants+=("$1") ;;
    esac
    shift
done
[[ ${#variants[@]} -gt 0 ]] || variants=(
    sam3 sam3-litetext-s0 sam3-litetext-s1 sam3-litetext-l
    efficientsam3-{rv,tv,ev}-m efficientsam3-stage1-{rv,tv,ev}-{s,m,l}-mc-s1
    mobile-sam sam-vit-{b,l,h}
)
for binary in "${SAM3:-}" target/cuda/release/sam3 target/release/sam3; do
    [[ -x $binary ]] && break
done
if [[ ! -x $binary ]]; then
    echo "no sam3 binary: set SAM3, or build one with tools/cuda_build.sh" >&2
    exit 2
fi

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
results=() failed=()
run() { # name, arguments of bench
    local name=$1
    shift
    echo "## $name"
    if "$binary" bench --quiet --device "$device" --json "$folder/$name.json" "$@"; then
        results+=("$folder/$name.json")
    else
        failed+=("$name")
        [[ -s $folder/$name.json ]] && results+=("$folder/$name.json")
    fi
    echo
}

run demo --iters 3 || true # opens the device, and tells what it is called
gpu=$(sed -n 's/^ *"device": "\(.*\)",$/\1/p' "$folder/demo.json" 2>/dev/null | head -1)
if [[ -z $gpu ]]; then
    echo "device $device does not open" >&2
    exit 1
fi
results=()
for variant in "${variants[@]}"; do
    for dtype in $dtypes; do
        run "$variant-$dtype" --random-weights "$variant" --dtype "$dtype" --parity \
            --warmup 2 --iters "$iters"
    done
done
if [[ -n ${CHECKPOINTS:-} && -n ${REFERENCES:-} ]]; then
    for reference in "$REFERENCES"/*.safetensors; do
        name=$(basename "$reference" .safetensors)
        for dtype in $dtypes; do
            echo "## verify $name in $dtype"
            "$binary" verify -m "$CHECKPOINTS/$name.pt" --reference "$reference" \
                --device "$device" --dtype "$dtype" || failed+=("verify-$name-$dtype")
        done
    done
fi

file=tools/bench/results/$(tr -c 'A-Za-z0-9\n' '-' <<<"$gpu" | tr 'A-Z' 'a-z').json
mkdir -p "$(dirname "$file")"
{
    printf '[\n'
    for i in "${!results[@]}"; do
        ((i == 0)) || printf ',\n'
        cat "${results[i]}"
    done
    printf '\n]\n'
} >"$file"
echo "${#results[@]} results in $file"
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "FAILED: ${failed[*]}" >&2
    exit 1
fi
