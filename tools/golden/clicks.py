"""Shared by the full-size click references: what is asked of an image, and how the answers are recorded.

`tests/parity/clicks.rs` reads the record.
"""

import time

import numpy as np
import torch

WIDTH, HEIGHT = 1800, 1200  # what the coordinates below are pixels of
POINTS = np.array([[500, 375], [1125, 625], [900, 300], [30, 40], [1700, 1100]])
LABELS = np.array([1, 1, 0, 1, 0])
BOX = np.array([425, 600, 700, 875])
BOXES = np.stack([[40 * i + 10, 30 * i + 20, 40 * i + 400, 30 * i + 300] for i in range(16)])


def asked(width, height):
    """Points, box and boxes in whole pixels of an image of this size."""
    scale = np.array([width / WIDTH, height / HEIGHT])
    scaled = lambda xy: np.floor(xy * np.tile(scale, xy.shape[-1] // 2))
    return scaled(POINTS), scaled(BOX), scaled(BOXES)


def record(width, height, predict, predict_boxes):
    """Every kind of prompt, for three masks and for one.

    `predict(multimask_output=, point_coords=, point_labels=, box=, mask_input=)` and `predict_boxes(boxes, multimask_output)`
    return logits at the size of the image, IoU, and low-resolution logits, each (masks, ...), and object scores or None.
    """
    points, box, boxes = asked(width, height)
    tensor = lambda array: torch.from_numpy(array).float()
    out = {"points": tensor(points), "labels": torch.from_numpy(LABELS), "box": tensor(box)[None], "boxes": tensor(boxes)}

    def ask(kind, multimask, answer):
        start = time.time()
        masks, iou, low, objects = answer(multimask)
        masks = np.asarray(masks).reshape(-1, height, width) > 0
        seconds = time.time() - start
        share = [f"{mask.mean():.3f}" for mask in masks[:3]]
        print(f"  {kind} {int(multimask)}: {seconds:.3f} s, area {' '.join(share)}, logits up to {np.abs(low).max():.1f}", flush=True)
        key = f"{kind}.{int(multimask)}"
        out[f"{key}.low"] = tensor(np.asarray(low)).flatten(-2).flatten(0, -2)
        out[f"{key}.iou"] = tensor(np.asarray(iou)).flatten()
        out[f"{key}.masks_packed"] = torch.from_numpy(np.packbits(masks))
        if objects is not None:
            out[f"{key}.object_score"] = tensor(np.asarray(objects)).flatten()
        return low

    point = dict(point_coords=points[:1], point_labels=LABELS[:1])
    single = lambda **prompt: lambda multimask: predict(multimask_output=multimask, **prompt)
    earlier = ask("point", True, single(**point))[2:3]
    ask("point", False, single(**point))
    kinds = {
        "five": dict(point_coords=points, point_labels=LABELS),
        "box": dict(box=box),
        "box_point": dict(box=box, point_coords=points[2:3], point_labels=LABELS[2:3]),
        "refine": dict(**point, mask_input=earlier),
    }
    for kind, prompt in kinds.items():
        for multimask in (True, False):
            ask(kind, multimask, single(**prompt))
    for multimask in (True, False):
        ask("boxes", multimask, lambda multimask: predict_boxes(boxes, multimask))
    out["refine.in"] = tensor(np.asarray(earlier)).flatten(1)
    return out
