"""Makes tests/golden/{resize,upsample}.safetensors, rle.json and image_cmyk.jpg.

    python tools/golden/image.py

Needs torch, torchvision, Pillow 13, pycocotools and safetensors. Prints the checksums that
src/image/resize.rs compares large images with.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco
from safetensors.numpy import save_file
from torchvision.transforms.v2 import functional as F

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"

RESIZE_CASES = [  # width and height before, width and height after
    (53, 37, 24, 24), (30, 20, 48, 64), (17, 1, 8, 8), (1, 50, 16, 16), (3, 200, 11, 11),
    (500, 3, 12, 12), (32, 32, 32, 32), (40, 32, 20, 32), (32, 40, 32, 20), (64, 64, 63, 63),
    (5, 7, 40, 40), (100, 90, 5, 7), (1, 1, 9, 4), (31, 97, 15, 47),
]


def noise(width, height):
    """The generator of the test: a 32-bit linear congruence, its highest byte."""
    count, state, out = width * height * 3, width * 100_003 + height, bytearray()
    for _ in range(count):
        state = (state * 1_664_525 + 1_013_904_223) & 0xFFFFFFFF
        out.append(state >> 24)
    return np.frombuffer(bytes(out), np.uint8).reshape(height, width, 3)


def torchvision_resize(image, width, height):
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    resized = F.resize(tensor, [height, width], antialias=True)
    return np.ascontiguousarray(resized.permute(1, 2, 0).numpy())


def resize():
    tensors = {}
    for w, h, width, height in RESIZE_CASES:
        image, name = noise(w, h), f"{w}x{h}.{width}x{height}"
        tensors[f"torchvision.{name}"] = torchvision_resize(image, width, height)
        pillow = Image.fromarray(image).resize((width, height), Image.BILINEAR)
        tensors[f"pillow.{name}"] = np.asarray(pillow).copy()
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    levels = F.normalize(F.to_dtype(levels, torch.float32, scale=True), [0.5] * 3, [0.5] * 3)
    tensors["levels"] = levels[0].flatten().numpy()
    save_file(tensors, GOLDEN / "resize.safetensors")
    for w, h in [(1800, 1200), (333, 517), (3000, 40)]:
        resized = torchvision_resize(noise(w, h), 1008, 1008)
        print(f"{w}x{h} to 1008x1008: {zlib.crc32(resized.tobytes()):#010x}")


def upsample():
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (h, w), size in [
        ("up", (12, 12), (70, 80)),
        ("wide", (8, 10), (30, 110)),
        ("mixed", (40, 9), (20, 120)),
        ("down", (60, 90), (50, 79)),
    ]:
        map = (rng.standard_normal((h, w)) * 5).astype(np.float32)
        out = torch.nn.functional.interpolate(
            torch.from_numpy(map)[None, None], size=size, mode="bilinear", align_corners=False
        )
        tensors[f"{name}.in"], tensors[f"{name}.out"] = map, out[0, 0].numpy()
    save_file(tensors, GOLDEN / "upsample.safetensors")


def rle():
    rng = np.random.default_rng(0)
    masks = {
        "empty": np.zeros((9, 13)),
        "full": np.ones((9, 13)),
        "checkerboard": np.indices((11, 14)).sum(0) % 2,
        "one_row": rng.random((1, 90)) < 0.4,
        "one_column": rng.random((90, 1)) < 0.4,
        "one_pixel": np.ones((1, 1)),
        "last_pixel": np.eye(1, 12, 11).reshape(3, 4),
        "sparse": rng.random((40, 70)) < 0.02,
        "half": rng.random((33, 65)) < 0.5,
        "dense": rng.random((20, 128)) < 0.95,
        "block": np.pad(np.ones((50, 40)), ((3, 30), (20, 70))),
        "disc": np.hypot(*(np.indices((90, 100)) - 45)) < 40,
    }
    goldens = []
    for name, mask in masks.items():
        mask = np.asfortranarray(mask.astype(np.uint8))
        encoded = coco.encode(mask)
        goldens.append({
            "name": name,
            "rows": ["".join(".#"[v] for v in row) for row in mask],
            "rle": {"size": encoded["size"], "counts": encoded["counts"].decode()},
            "area": int(coco.area(encoded)),
            "bbox": coco.toBbox(encoded).tolist(),
        })
    (GOLDEN / "rle.json").write_text(json.dumps(goldens, indent=0) + "\n")


def cmyk():
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = (200, 30, 30), (30, 30, 200)
    Image.fromarray(pixels).convert("CMYK").save(GOLDEN / "image_cmyk.jpg", quality=95)


if __name__ == "__main__":
    torch.set_num_threads(1)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    resize()
    upsample()
    rle()
    cmyk()
