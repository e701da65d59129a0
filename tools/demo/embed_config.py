"""Writes a model's sizes and name into the metadata of its safetensors file.

    python tools/demo/embed_config.py model.safetensors config.json weights/demo.safetensors NAME

Keys that start with an underscore are notes for people and stay out.
"""

import json
import sys

from safetensors import safe_open
from safetensors.torch import save_file

source, config, target, name = sys.argv[1:]
with open(config) as f:
    sizes = {key: value for key, value in json.load(f).items() if not key.startswith("_")}
with safe_open(source, "pt") as f:
    tensors = {name: f.get_tensor(name) for name in f.keys()}
save_file(tensors, target, metadata={"format": "pt", "name": name, "config": json.dumps(sizes)})
