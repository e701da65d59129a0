"""Records of the official automatic mask generator on an analytic model, so that only the generator's logic is compared.

The model's logits are a polynomial of pixel and point coordinates and its scores depend on the point alone: additions, products and
quotients of f64 values, which every language rounds alike. The same model is written in Rust in src/predict/everything/tests.rs.
Needs a checkout of segment-anything at dca509f on PYTHONPATH, opencv and pycocotools.
"""

import gzip
import json
import math
from types import SimpleNamespace

import numpy as np
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from golden import OUT

SIDE, LOW = 256, 64  # of the model's input and of its low-resolution logits


class AnalyticSam:
    """Discs around the centres of 64-pixel cells, with ripples that tear islands off and holes open."""

    mask_threshold = 0.0
    image_format = "RGB"
    device = torch.device("cpu")
    image_encoder = SimpleNamespace(img_size=SIDE)

    def __init__(self, ripple, lower):
        self.ripple = ripple
        self.lower = lower  # enough of it empties some of the masks
        self.seed = 0
        self.prompt_encoder = lambda points, boxes, masks: (points[0].numpy()[:, 0], None)
        self.prompt_encoder.get_dense_pe = lambda: None

    def preprocess(self, image):
        return image

    # The official resize to the original image.
    postprocess_masks = Sam.postprocess_masks

    def mask_decoder(self, image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings, multimask_output):
        masks, scores = zip(*[self.answer(x, y) for x, y in sparse_prompt_embeddings])
        return torch.tensor(np.array(masks)), torch.tensor(np.array(scores, dtype=np.float32))

    def answer(self, px, py):
        x = ((np.arange(LOW) + 0.5) * (SIDE // LOW))[None, :]
        y = ((np.arange(LOW) + 0.5) * (SIDE // LOW))[:, None]
        cx, cy = math.floor(px / 64), math.floor(py / 64)
        masks, scores = [], []
        for token in range(3):
            key = (cx * 7 + cy * 13 + self.seed + token * 5) % 11
            dx = x - (cx * 64 + 32 + (px - (cx * 64 + 32)) * 0.125 + key)
            dy = y - (cy * 64 + 32 + (py - (cy * 64 + 32)) * 0.125 - key)
            radius = (14.0, 26.0, 50.0)[token] + key
            slope = radius * radius * 0.005 * (key + 1)
            wave = triangle(x / 24) * triangle(y / 24) * self.ripple
            lower = self.lower if key % 4 == 3 else 0.0
            masks.append(((radius * radius - (dx * dx + dy * dy)) / slope + wave - lower).astype(np.float32))
            place = px * 0.0123 + py * 0.0345 + token * 0.29 + self.seed * 0.013
            scores.append(0.7 + 0.4 * (place - math.floor(place)))
        return masks, scores


def triangle(t):
    return np.abs(t - np.floor(t) - 0.5) * 4 - 1


def picture(width, height):
    x, y, c = np.arange(width)[None, :, None], np.arange(height)[:, None, None], np.arange(3)[None, None, :]
    return ((x * 3 + y * 5 + c * 7 + x * y) % 251).astype(np.uint8)


def generate(width, height, ripple, lower, options):
    model = AnalyticSam(ripple, lower)
    if "point_grids" in options:
        options = options | {"points_per_side": None, "point_grids": [np.array(grid) for grid in options["point_grids"]]}
    generator = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **options)
    transform = generator.predictor.transform
    resize, scale = transform.apply_image, transform.apply_coords

    def apply_image(crop):  # the crop is seen as it was cut out
        model.seed = int(crop.sum()) % 97
        return resize(crop)

    transform.apply_image = apply_image
    transform.apply_coords = lambda points, size: scale(points.astype(np.float32), size)  # prompts are f32 in Rust
    model.image_encoder = type("Encoder", (), {"img_size": SIDE, "__call__": lambda self, image: image})()
    return [flat(record) for record in generator.generate(picture(width, height))]


def flat(record):
    number = lambda v: None if isinstance(v, float) and math.isnan(v) else v
    return {k: number(v) for k, v in record.items()} | {"bbox": [int(v) for v in record["bbox"]], "crop_box": [int(v) for v in record["crop_box"]]}


CASES = {
    "defaults": (190, 140, 0.0, 0.0, {"points_per_side": 8}),
    "wider_image_than_input": (400, 150, 0.0, 0.0, {"points_per_side": 10, "points_per_batch": 7}),
    "tall": (90, 300, 0.5, 0.0, {"points_per_side": 9, "pred_iou_thresh": 0.8, "stability_score_thresh": 0.9}),
    "no_filters": (160, 120, 4.0, 0.0, {"points_per_side": 7, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.6}),
    "another_offset": (160, 120, 0.3, 0.0, {"points_per_side": 8, "stability_score_offset": 0.4, "stability_score_thresh": 0.97}),
    "thousand_boxes": (200, 170, 0.0, 0.0, {"points_per_side": 21, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 0.8}),
    "one_layer": (300, 220, 0.0, 0.0, {"points_per_side": 6, "crop_n_layers": 1}),
    "one_layer_all": (260, 240, 0.5, 0.0, {"points_per_side": 5, "crop_n_layers": 1, "pred_iou_thresh": 0.75, "stability_score_thresh": 0.85, "crop_nms_thresh": 0.5}),
    "two_layers": (320, 260, 0.0, 0.0, {"points_per_side": 8, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_overlap_ratio": 0.2}),
    "grids": (230, 180, 0.0, 0.0, {"crop_n_layers": 1, "point_grids": [[[0.1, 0.2], [0.5, 0.5], [0.9, 0.4]], [[0.3, 0.3], [0.7, 0.6], [1.0, 0.0]]], "pred_iou_thresh": 0.7, "stability_score_thresh": 0.8}),
    "regions": (190, 140, 6.0, 0.0, {"points_per_side": 8, "min_mask_region_area": 60, "pred_iou_thresh": 0.8, "stability_score_thresh": 0.6}),
    "all_regions_small": (150, 140, 9.0, 0.0, {"points_per_side": 6, "min_mask_region_area": 700, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.4}),
    "one_layer_regions": (280, 220, 6.0, 0.0, {"points_per_side": 6, "crop_n_layers": 1, "min_mask_region_area": 90, "pred_iou_thresh": 0.75, "stability_score_thresh": 0.5}),
    "empty_masks": (150, 120, 0.0, 1000.0, {"points_per_side": 5, "crop_n_layers": 1, "crop_overlap_ratio": 0.5, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "min_mask_region_area": 20}),
    "nothing": (100, 100, 0.0, 0.0, {"points_per_side": 4, "pred_iou_thresh": 1.0, "stability_score_thresh": 1.0}),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    cases = []
    for name, (width, height, ripple, lower, options) in CASES.items():
        records = generate(width, height, ripple, lower, options)
        crops = len({tuple(r["crop_box"]) for r in records})
        print(f"{name}: {len(records)} records of {crops} crops, {sum(r['area'] == 0 for r in records)} empty")
        cases.append({"name": name, "width": width, "height": height, "ripple": ripple, "lower": lower, "options": options, "records": records})
    path = OUT / "everything.json.gz"
    path.write_bytes(gzip.compress(json.dumps(cases, separators=(",", ":")).encode(), mtime=0))
    print(path.name, path.stat().st_size, "bytes")
    assert path.stat().st_size < 300_000
