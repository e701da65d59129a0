"""Writes held-out scenes with their masks, prompts and right answers.

    python tools/demo/scenes.py FOLDER --count 200

For scene N: scene_N.png; scene_N_objects.png, grey, the number of the visible object at every pixel, 0 for none. All
else is in scenes.json, in pixels: for each object its shape, colour, box and the pixel to click; for each prompt its
kind, text (null for boxes alone), boxes and the numbers of the objects that it means.
"""

import argparse
import json
from pathlib import Path

from PIL import Image

from evaluate import centre, corners, held_out
from prompts import COLOR_NAMES, EXEMPLARS_ALONE, SHAPE_NAMES


def describe(number, scene, prompts):
    objects = []
    for i, (shape, color) in enumerate(zip(scene["shape"], scene["color"])):
        words = {"shape": SHAPE_NAMES[shape], "color": COLOR_NAMES[color]}
        objects.append(words | {"box": corners(scene["boxes"][i]), "click": centre(scene["instances"] == i + 1)})
    asked = []
    for prompt in prompts:
        text = None if prompt["text"] == EXEMPLARS_ALONE else prompt["text"]
        boxes = [{"box": corners(box), "positive": label == 1} for box, label in prompt["boxes"]]
        targets = [target + 1 for target in prompt["targets"]]
        asked.append({"kind": prompt["kind"], "text": text, "boxes": boxes, "objects": targets})
    return {"name": f"scene_{number}", "objects": objects, "prompts": asked}


def write(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    described = []
    for number, (scene, prompts) in enumerate(held_out(count)):
        described.append(describe(number, scene, prompts))
        Image.fromarray(scene["image"]).save(folder / f"scene_{number}.png", optimize=True)
        Image.fromarray(scene["instances"]).save(folder / f"scene_{number}_objects.png", optimize=True)
    lines = ",\n".join(json.dumps(scene) for scene in described)
    (folder / "scenes.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_args()
    write(args.folder, args.count)
