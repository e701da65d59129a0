"""A checkpoint with random weights from a list of tensors, for full-size runs without real weights.

    python tools/golden/random_checkpoint.py tests/keys/sam3.1.txt OUT.pt [SEED]

Values are scaled so that activations stay in range through every layer, and none is what a wrong reader would assume.
"""

import sys
from pathlib import Path

import torch


def tensors(path):
    prefix = ""
    for line in path.read_text().splitlines():
        if line.startswith("+ "):
            yield from tensors(path.parents[0 if path.parent.name != "parts" else 1] / line[2:])
        elif line.startswith("= "):
            prefix = line[2:]
        elif not line.startswith("#"):
            name, shape, *dtype = line.split("\t")
            yield prefix + name, [int(n) for n in shape.split(",") if n], dtype


def value(name, shape):
    leaf = name.rsplit(".", 1)[-1]
    noise = torch.randn(shape)
    if leaf == "running_var":
        return torch.rand(shape) + 0.5
    if "gamma" in leaf or "layer_scale" in leaf:
        return 0.3 + 0.1 * noise
    if len(shape) < 2:
        return 1 + 0.2 * noise if leaf == "weight" else 0.2 * noise
    if "positional_encoding_gaussian" in leaf:
        return noise
    if any(part in name for part in ("embed.weight", "embedding", "token.weight", "tokens.weight", "pos_embed", "query")):
        return 0.5 * noise
    # of transposed convolutions the inputs come first
    transposed = "dconv" in name or "output_upscaling" in name and len(shape) == 4
    fan_in = shape[0] if transposed else noise[0].numel()
    return 0.7 * noise / fan_in**0.5


torch.manual_seed(int(sys.argv[3]) if len(sys.argv) > 3 else 7)
weights = {}
for name, shape, dtype in tensors(Path(sys.argv[1])):
    if not dtype:
        weights[name] = value(name, shape)
    elif dtype == ["int64"]:
        weights[name] = torch.zeros(shape, dtype=torch.int64)
torch.save({"model": weights}, sys.argv[2])
print(f"{len(weights)} tensors, {sum(t.numel() for t in weights.values())} elements")
