"""Writes a trained model as weights/demo.safetensors (f16) and what it answers as tests/golden/demo.safetensors and, on
the clip of the README, demo_video.safetensors.

    python tools/demo/export.py FOLDER/model.pt
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageSequence
from safetensors.torch import save_file

from evaluate import answer, centre, click, corners, encode, held_out, load
from follow import follow
from memory import has_memory, resized
from model import CONFIG, Sam3
from world import SIDE

ROOT = Path(__file__).parents[2]
SCENES = 2  # of tests/scenes, in the goldens
CLIP, BOX = ROOT / "tests/scenes/red_star.gif", [0, 67, 37, 112]  # and the box of its star on the first frame


def weights(source, target):
    trained = torch.load(source, map_location="cpu")
    model = Sam3(video=has_memory(trained))
    model.load_state_dict(trained)
    state = {name: tensor.half().contiguous() for name, tensor in model.full_state().items()}
    for name, tensor in state.items():
        assert tensor.isfinite().all(), name
    metadata = {"format": "pt", "name": "demo (coloured shapes)", "config": json.dumps(CONFIG)}
    save_file(state, target, metadata=metadata)


@torch.no_grad()
def goldens(weights, target):
    """Per scene and prompt the scores and boxes of all queries and the masks of those found; for the first object of
    each scene what one click at its centre and what its box give. Masks are every second row and column."""
    model, tensors = load(weights), {}
    for s, (scene, prompts) in enumerate(held_out(SCENES)):
        image = encode(model, scene)
        out, kept = answer(model, image, prompts)
        for p, queries in enumerate(kept):
            name = f"s{s}.p{p}."
            tensors[name + "pred_logits"], tensors[name + "pred_boxes"] = out["logits"][-1, p], out["boxes"][-1, p]
            tensors[name + "presence"], tensors[name + "queries"] = out["presence"][-1, p : p + 1], queries
            tensors[name + "pred_masks"] = out["masks"][p, queries, ::2, ::2]
            tensors[name + "semantic"] = out["semantic"][p, 0, ::2, ::2]
            tensors[name + "ids"] = torch.tensor(model.tokenizer(prompts[p]["text"]))
        x0, y0, x1, y1 = corners(scene["boxes"][0])
        middle = centre(scene["instances"] == 1)
        for kind, points, labels in (("click", [middle], [1]), ("box", [[x0, y0], [x1, y1]], [2, 3])):
            masks, iou, score = click(model, image, points, labels)
            name = f"s{s}.{kind}."
            tensors |= {name + "masks": masks[0, :, ::2, ::2], name + "iou": iou[0], name + "score": score}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)


def video_goldens(weights, target):
    """Of each frame of the clip the area of the star's mask in pixels, its predicted IoU and its score, followed from its
    box on the first frame; and the box."""
    images = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(Image.open(CLIP))])
    answers = follow(load(weights), images, BOX)
    column = lambda name: torch.cat([answer[name] for answer in answers])
    area = (resized(column("low"), SIDE) > 0).sum((1, 2)).float()
    tensors = {"area": area, "iou": column("iou"), "score": column("score"), "box": torch.tensor(BOX).float()}
    save_file(tensors, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    weights(args.source, ROOT / "weights/demo.safetensors")
    goldens(ROOT / "weights/demo.safetensors", ROOT / "tests/golden/demo.safetensors")
    video_goldens(ROOT / "weights/demo.safetensors", ROOT / "tests/golden/demo_video.safetensors")
