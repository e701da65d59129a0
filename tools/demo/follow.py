"""Follows an object through a clip by its box on the first frame, as the official predictor does, in PyTorch.

    python tools/demo/follow.py weights/demo.safetensors FOLDER          # for clips.py: writes CLIP/torch/davis
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from evaluate import encode, load
from memory import MAX_POINTERS, MIN_QUALITY, ROWS, quality, resized
from world import SIDE

STABLE, DELTA = 0.98, 0.05  # a mask is stable if moving the threshold by DELTA keeps this share of it


def is_stable(logits):
    low, high = (logits > -DELTA).sum(), (logits > DELTA).sum()
    return bool(low == 0 or high / low >= STABLE)


class Follower:
    """One object, forward. Entries: frame -> logits, score, IoU, pointer, memory, quality."""

    def __init__(self, model, frames=MAX_POINTERS):
        self.model, self.tracker, self.frames = model, model.tracker, frames
        self.prompted, self.tracked = {}, {}

    def image(self, pixels):
        return self.model.clicks(encode(self.model, {"image": pixels}))

    def entry(self, image, low, iou, score, pointer, probability):
        memory = self.tracker.remember(image["coarse"], probability, score > 0)
        good = float(quality(score, iou))
        return {"low": low, "iou": iou, "score": score, "pointer": pointer, "memory": memory, "quality": good}

    def prompt(self, t, pixels, box):
        image, tracker, one = self.image(pixels), self.tracker, torch.zeros(1, dtype=torch.long)
        points = torch.tensor([[box[:2], box[2:], [0, 0]]]).float()
        masks, iou, score, tokens = tracker.decode(image["embedding"], image, one, points, torch.tensor([[2, 3, -1]]))
        best = 0 if is_stable(masks[0, 0]) else 1 + int(iou[0, 1:].argmax())
        there = score > 0
        low = torch.where(there[:, None, None], masks[:, best], torch.tensor(-1024.0))
        pointer = tracker.point(tokens[:, 0], there)
        self.prompted[t] = self.entry(image, low, iou[:, best], score, pointer, (resized(low, SIDE) > 0).float())
        return self.prompted[t]

    def selected(self, t):
        """[(entry, row)] and [(entry, frames back)]"""
        near = []
        for earlier in range(t - 1, 0, -1):
            if len(near) == min(self.frames, MAX_POINTERS) - 1:
                break
            if earlier in self.tracked and self.tracked[earlier]["quality"] > MIN_QUALITY:
                near.append(earlier)
        if t - 1 not in near:
            near.insert(0, t - 1)
        memories = [(entry, ROWS - 1) for entry in self.prompted.values()]
        pointers = [(entry, t - at) for at, entry in self.prompted.items()]
        ranked = [(rank, at) for rank, at in enumerate(near, 1) if at in self.tracked]
        memories += [(self.tracked[at], rank - 1) for rank, at in ranked if rank < ROWS]
        pointers += [(self.tracked[at], rank) for rank, at in ranked if rank < min(len(near), MAX_POINTERS)]
        return memories, pointers

    def track(self, t, pixels):
        image, tracker = self.image(pixels), self.tracker
        memories, pointers = self.selected(t)
        features = tracker.recall(
            image["coarse"],
            torch.stack([entry["memory"] for entry, _ in memories], 1),
            torch.tensor([[row for _, row in memories]]),
            torch.stack([entry["pointer"] for entry, _ in pointers], 1),
            torch.tensor([[back for _, back in pointers]]),
            frames=self.frames,
        )
        points, labels = tracker.pads(1)
        low, iou, score, pointer = tracker.answer(features, image, torch.zeros(1, dtype=torch.long), points, labels)
        self.tracked[t] = self.entry(image, low, iou, score, pointer, resized(low, SIDE).sigmoid())
        return self.tracked[t]


@torch.no_grad()
def follow(model, images, box):
    """Answers on all frames of a clip [T, SIDE, SIDE, 3]."""
    follower = Follower(model)
    return [follower.track(t, image) if t else follower.prompt(0, image, box) for t, image in enumerate(images)]


def main(args):
    model = load(args.weights)
    for place in sorted(args.folder.glob("clip_*")):
        paths = sorted((place / "frames").glob("*.png"))
        images = np.stack([np.asarray(Image.open(path)) for path in paths])
        answers = follow(model, images, json.loads((place / "prompt.json").read_text())["box"])
        (place / "torch/davis").mkdir(parents=True, exist_ok=True)
        for path, answer in zip(paths, answers):
            mask = resized(answer["low"], SIDE)[0] > 0
            Image.fromarray(np.uint8(mask.numpy())).save(place / "torch/davis" / path.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    main(args)
