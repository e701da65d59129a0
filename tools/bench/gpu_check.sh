#!/usr/bin/env bash
# The first hour on a GPU, in stages of a few minutes each. Downloads nothing, builds nothing.
#
#   tools/bench/gpu_check.sh [--device cuda] [--folder target/gpu_check] [--limit 240] [STAGE...]
#
# | stage | what it does |
# |---|---|
# | smoke | the demo model: a text and a click on the device, every stage against f32 on the CPU |
# | parity-f32, parity-bf16, parity-f16 | one model of each family on random weights, the same |
# | bench | the six models that matter in bf16, with the memory they take |
# | profile | the kernels of the slowest of them, through nsys where that is installed |
# | peers | official PyTorch packages beside ours, eager and compiled |
# | table | everything as tools/bench/results/<device>.json, and a table against the goals |
#
# All of them by default, in this order; `table` also ends every run. Each stage is made of steps that
# leave a file in the folder when they succeed. Steps with a file are not run again, so a run that was
# interrupted goes on where it was; to repeat a step delete its file. No step takes longer than --limit
# seconds, and one that fails stops no other.
#
# With `--device cpu` the same stages make a dry run: one iteration in f32 of small models, and parity
# of the demo model alone, with candle's operations, which GPUs take, in place of the CPU's kernels.
#
# SAM3 names the binary, else target/cuda/release/sam3 or target/release/sam3 is taken. `peers` needs
# PYTHON (default python3) with torch, CHECKPOINTS, a folder with sam3.pt and mobile_sam.pt, and
# PEER_PACKAGES, the folders of the official packages, see tools/bench/peers.py.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit

device=cuda folder=target/gpu_check limit=240 stages=()
all=(smoke parity-f32 parity-bf16 parity-f16 bench profile peers table)
while (($#)); do
    case $1 in
    --device | --folder | --limit)
        [[ $# -gt 1 ]] || { echo "$1 needs a value" >&2 && exit 2; }
        declare "${1#--}=$2" && shift
        ;;
    -*) echo "unknown option $1" >&2 && exit 2 ;;
    *)
        [[ " ${all[*]} " == *" $1 "* ]] || { echo "no stage $1; there are ${all[*]}" >&2 && exit 2; }
        stages+=("$1")
        ;;
    esac
    shift
done
((${#stages[@]})) || stages=("${all[@]}")
for binary in "${SAM3:-}" target/cuda/release/sam3 target/release/sam3; do
    [[ -x $binary ]] && break
done
if [[ ! -x $binary ]]; then
    echo "no sam3 binary: set SAM3, or build one with tools/cuda_build.sh" >&2
    exit 2
fi
binary=$(realpath "$binary") python=${PYTHON:-python3}
mkdir -p "$folder"

if [[ $device == cpu ]]; then
    families=() models=(mobile-sam efficientsam3-rv-m) dtype=f32 work=(--warmup 0 --iters 1)
else
    families=(sam3 sam3-litetext-s0 efficientsam3-rv-m mobile-sam sam-vit-b sam2.1-hiera-tiny)
    models=(sam3 sam3-litetext-s0 efficientsam3-rv-m mobile-sam sam-vit-h sam2.1-hiera-large)
    dtype=bf16 work=(--warmup 3 --iters 20)
fi

failed=()
# A step: the file that it leaves, then its command. `bench --json` writes that file even where parity
# fails, so it counts only after a success.
step() {
    local file=$folder/$1
    shift
    if [[ -s $file ]]; then
        echo "have $file"
        return
    fi
    echo "## ${file##*/}: $*"
    local begun=$SECONDS
    if timeout "$limit" "$@" >"$file.log" 2>&1; then
        [[ -s $file ]] || cp "$file.log" "$file"
        tail -3 "$file.log"
    else
        failed+=("${file##*/}")
        [[ ! -e $file ]] || mv "$file" "$file.failed"
        tail -5 "$file.log" >&2
        echo "FAILED; all of it in $file.log" >&2
    fi
    echo "$((SECONDS - begun)) s"
}

bench() { # the file's name, arguments of bench
    local name=$1
    shift
    step "$name.json" "$binary" bench --quiet --device "$device" --json "$folder/$name.json" "$@"
}

stage_smoke() {
    local scene=tests/scenes/shapes.png
    step segment.txt "$binary" segment "$scene" -t "blue circle" -m demo --device "$device" \
        -o "$folder/segment"
    step click.txt "$binary" segment "$scene" --point 60,60 -m demo --device "$device" -o "$folder/click"
    bench smoke --iters 3 --parity
}

stage_parity() {
    local model
    if [[ $device == cpu ]]; then
        CANDLE_SAM3_CPU=candle bench "parity-$1-demo" --dtype "$1" --parity "${work[@]}"
        return
    fi
    for model in "${families[@]}"; do
        bench "parity-$1-$model" --random-weights "$model" --dtype "$1" --parity --warmup 0 --iters 1
    done
}

stage_bench() {
    local model
    for model in "${models[@]}"; do
        bench "bench-$model" --random-weights "$model" --dtype "$dtype" "${work[@]}"
    done
}

stage_profile() {
    if ! command -v nsys >/dev/null; then
        echo "no nsys here: the table has the times of stages, but not those of kernels"
        return
    fi
    step profile.txt nsys profile --force-overwrite true --stats true -o "$folder/profile" \
        "$binary" bench --quiet --device "$device" --random-weights "${models[0]}" --dtype "$dtype" \
        --warmup 2 --iters 3
}

stage_peers() {
    local package=tools/bench/peers.py model checkpoint compile
    if ! "$python" -c 'import torch' 2>/dev/null || [[ -z ${CHECKPOINTS:-} || -z ${PEER_PACKAGES:-} ]]; then
        echo "no PyTorch peers: they need torch, CHECKPOINTS and PEER_PACKAGES"
        return
    fi
    for model in sam3 mobile-sam; do
        checkpoint=$CHECKPOINTS/${model//-/_}.pt
        [[ -e $checkpoint ]] || continue
        for compile in "" --compile; do
            # shellcheck disable=SC2086  # no word where nothing is compiled
            step "peer-$model${compile/--/-}.json" "$python" "$package" "$model" -m "$checkpoint" \
                --image tests/scenes/shapes.png --device "$device" --dtype "$dtype" --warmup 3 --iters 10 \
                --json "$folder/peer-$model${compile/--/-}.json" $compile
        done
    done
}

stage_table() {
    "$python" tools/bench/goals.py "$folder" || failed+=(table)
}

for stage in "${stages[@]}"; do
    SECONDS=0
    case $stage in
    parity-*) stage_parity "${stage#parity-}" ;;
    *) "stage_$stage" ;;
    esac
    echo "# $stage: $SECONDS s"
done
[[ " ${stages[*]} " == *" table "* ]] || stage_table
if ((${#failed[@]})); then
    echo "FAILED: ${failed[*]}" >&2
    exit 1
fi
