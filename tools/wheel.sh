#!/usr/bin/env bash
# A Python wheel with the command `sam3`, in target/wheels, tried in a fresh virtual environment. Arguments
# go to `maturin build`: --zig for a wheel that runs on older systems, --features cuda, --profile dev.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/build"
"$work/build/bin/pip" install --quiet "maturin>=1.9,<2"
[[ " $* " == *" --profile "* ]] || set -- --release "$@"
"$work/build/bin/maturin" build --out "$work/wheels" "$@"

python3 -m venv "$work/fresh"
"$work/fresh/bin/pip" install --quiet --no-index "$work"/wheels/candle_sam3-*.whl
"$work/fresh/bin/sam3" --version
"$work/fresh/bin/sam3" segment tests/scenes/shapes.png --text triangles --output "$work/found" --quiet
"$work/fresh/bin/pip" uninstall --quiet --yes candle-sam3
[[ ! -e $work/fresh/bin/sam3 ]] || { echo "uninstalling leaves the command behind" >&2; exit 1; }

mkdir -p target/wheels
cp "$work"/wheels/candle_sam3-*.whl target/wheels
ls -l target/wheels
