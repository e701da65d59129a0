"""How well a model answers scenes that it has not seen.

    python tools/demo/evaluate.py weights/demo.safetensors --scenes 200

The decision is the official one: score = sigmoid(logit) * sigmoid(presence) > 0.5, masks upsampled to the image. An
object is found when a mask overlaps it with IoU > 0.5. Recall, precision and mean IoU are over the prompts that have
an answer; `refused` is the share of the others that find nothing. Clicks (at the visible pixel nearest the centroid)
and boxes take the best of three masks by predicted IoU.
"""

import argparse
import json

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from batches import PROMPTS, TEST, exemplars
from memory import has_memory
from model import Sam3, normalise
from prompts import ask
from world import SIDE, make_scene


def held_out(count, first=TEST):
    """Scenes with their prompts; for the same count always the same."""
    scenes = [make_scene(first + i) for i in range(count)]
    return [(scene, ask(scene, scene["rng"], PROMPTS)) for scene in scenes]


def encode(model, scene):
    return model.detector.image(normalise(torch.from_numpy(scene["image"].copy())[None]))


def upsampled(logits):
    """[K, h, w] -> bool [K, SIDE, SIDE]"""
    if not len(logits):
        return np.zeros((0, SIDE, SIDE), bool)
    return (F.interpolate(logits[:, None], (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0] > 0).numpy()


def answer(model, image, prompts):
    """Raw answers to the prompts of one image, and the indices of the queries kept for each."""
    image_of, boxes = torch.zeros(len(prompts), dtype=torch.long), exemplars([(0, prompt) for prompt in prompts])
    rows = model.rows([prompt["text"] for prompt in prompts])
    out = model.detector(image, image_of, rows, boxes["exemplars"], boxes["exemplar_labels"], boxes["exemplar_valid"])
    out["masks"], out["semantic"] = model.detector.masks(out, image, image_of, out["states"][-1])
    score = out["logits"][-1].sigmoid() * out["presence"][-1].sigmoid()[:, None]
    return out, [(row > 0.5).nonzero()[:, 0] for row in score]


def iou(a, b):
    return float((a & b).sum() / max(1, (a | b).sum()))


def centre(mask):
    """The pixel (x, y) of a mask that is nearest its centroid."""
    ys, xs = np.nonzero(mask)
    k = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
    return [float(xs[k]), float(ys[k])]


def corners(box):
    cx, cy, w, h = (float(v) * SIDE for v in box)
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]


def click(model, image, points, labels):
    points, labels = torch.tensor([points + [[0.0, 0.0]]]), torch.tensor([labels + [-1]])
    return model.tracker(model.clicks(image), torch.zeros(1, dtype=torch.long), points, labels)


def click_iou(model, image, mask, points, labels):
    masks, predicted, _ = click(model, image, points, labels)
    best = 1 + int(predicted[0, 1:].argmax())
    return iou(upsampled(masks[:, best])[0], mask)


class Tally:
    def __init__(self):
        self.true = self.predicted = self.found = 0
        self.overlap = 0.0

    def add(self, true, predicted, overlaps):
        hits = [v for v in overlaps if v > 0.5]
        self.true, self.predicted = self.true + true, self.predicted + predicted
        self.found, self.overlap = self.found + len(hits), self.overlap + sum(hits)

    def figures(self):
        recall, precision = self.found / max(1, self.true), self.found / max(1, self.predicted)
        return {"recall": recall, "precision": precision, "iou": self.overlap / max(1, self.found), "objects": self.true}


@torch.no_grad()
def evaluate(model, asked, clicks=True):
    model.eval()
    total, kinds, absent, refused, exact, prompts_seen = Tally(), {}, 0, 0, 0, 0
    by_click, by_box = [], []
    for scene, prompts in asked:
        image = encode(model, scene)
        out, kept = answer(model, image, prompts)
        true = [scene["instances"] == i + 1 for i in range(len(scene["shape"]))]
        for i, (prompt, queries) in enumerate(zip(prompts, kept)):
            prompts_seen += 1
            if not prompt["targets"]:
                absent, refused, exact = absent + 1, refused + (len(queries) == 0), exact + (len(queries) == 0)
                continue
            masks = upsampled(out["masks"][i, queries])
            overlaps = [max([iou(mask, true[t]) for mask in masks], default=0.0) for t in prompt["targets"]]
            for tally in (total, kinds.setdefault(prompt["kind"], Tally())):
                tally.add(len(overlaps), len(queries), overlaps)
            exact += all(v > 0.5 for v in overlaps) and len(queries) == len(overlaps)
        if clicks:
            for mask, box in zip(true, scene["boxes"]):
                x0, y0, x1, y1 = corners(box)
                by_click.append(click_iou(model, image, mask, [centre(mask)], [1]))
                by_box.append(click_iou(model, image, mask, [[x0, y0], [x1, y1]], [2, 3]))
    model.train()
    figures = total.figures() | {"prompts": prompts_seen, "absent": absent, "refused": refused / max(1, absent)}
    figures["exact"] = exact / max(1, prompts_seen)
    figures["kinds"] = {kind: tally.figures() for kind, tally in sorted(kinds.items())}
    if clicks:
        figures |= {"click_iou": float(np.mean(by_click)), "box_iou": float(np.mean(by_box)), "clicks": len(by_click)}
    return figures


def rounded(figures):
    return {k: rounded(v) if isinstance(v, dict) else round(v, 4) for k, v in figures.items()}


def load(path):
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    model = Sam3(video=has_memory(state))
    model.load_full_state(state)
    return model.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--scenes", type=int, default=200)
    args = parser.parse_args()
    print(json.dumps(rounded(evaluate(load(args.weights), held_out(args.scenes))), indent=1))
