#!/usr/bin/env python3
"""`sam3 eval` beside pycocotools: the same figures, and no slower.

    eval.py --sam3 target/release/sam3                                  # three sets of 500 images
    eval.py --sam3 target/release/sam3 --sets 1 --images 5000 --results 50000

Sets are random: discs, bars, rings and pairs of them as run lengths and polygons, crowds, images and
classes without objects; results are objects that were moved, grown, cut or given to another class, and some
that are nowhere, with scores that tie. Every figure of masks and boxes is compared, AP of every class too.
Times are those of masks, reading included, ours with the start of the process. Needs numpy, pycocotools and
OpenCV.
"""

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CLASSES = 12
SIZES = [(480, 640), (360, 500), (240, 320)]
OURS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam3", default="sam3")
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--results", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    worst = 0.0
    for seed in range(args.seed, args.seed + args.sets):
        with tempfile.TemporaryDirectory() as folder:
            truth, results = Path(folder, "truth.json"), Path(folder, "results.json")
            counts = write_set(np.random.default_rng(seed), args.images, args.results, truth, results)
            theirs = {kind: pycocotools(truth, results, kind) for kind in ("segm", "bbox")}
            ours, seconds = sam3(args.sam3, truth, results, "ap,box-ap")
            _, masks_only = sam3(args.sam3, truth, results, "ap")
        for report, (kind, (want, per_class, _)) in zip(ours, theirs.items()):
            got = figures(report)
            differences = [abs(a - b) for a, b in zip(got, want)]
            differences += [abs(a - b) for a, b in zip(class_figures(report), per_class)]
            worst = max(worst, *differences)
            print(f"seed {seed} {kind}: AP {want[0]:.6f}, {len(differences)} figures, largest difference {max(differences):.1e}")
        print(f"seed {seed}: {counts}; masks: sam3 eval {masks_only:.2f} s, pycocotools {theirs['segm'][2]:.2f} s")
    if worst > 1e-6:
        sys.exit(f"figures differ by up to {worst}")


def write_set(rng, images, count, truth, results):
    pictures = [{"id": 7 * i + 3, "file_name": f"{i}.jpg", "height": h, "width": w}
                for i, (h, w) in enumerate(SIZES[int(k)] for k in rng.integers(0, len(SIZES), images))]
    annotations, found = [], []
    objects = max(1, round(count / images / 1.4))
    for picture in pictures:
        size = (picture["height"], picture["width"])
        # Every eighth image is empty.
        for _ in range(0 if picture["id"] % 8 == 0 else int(rng.integers(1, 2 * objects))):
            place = rng.random(4)
            category = int(rng.integers(1, CLASSES))  # The last class has no object.
            mask = shape(size, place)
            annotation = {"id": len(annotations) + 1, "image_id": picture["id"], "category_id": category, "iscrowd": int(rng.random() < 0.03)}
            annotations.append(annotation | segmentation(mask, polygons=rng.random() < 0.3 and not annotation["iscrowd"]))
            for _ in range(int(rng.integers(0, 4))):
                noise = rng.choice([0.003, 0.01, 0.03, 0.1])
                moved = shape(size, place + rng.normal(0, noise, 4) * [1, 1, 0.5, 0])
                found.append(result(rng, picture, category if rng.random() < 0.85 else int(rng.integers(1, CLASSES + 1)), moved))
        found += [result(rng, picture, int(rng.integers(1, CLASSES + 1)), shape(size, rng.random(4))) for _ in range(int(rng.integers(0, 3)))]
    found = [found[i] for i in rng.permutation(len(found))[:count]]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    document = {"info": {}, "images": pictures, "annotations": annotations, "categories": categories}
    truth.write_text(json.dumps(document))
    results.write_text(json.dumps(found))
    return f"{images} images, {len(annotations)} objects, {len(found)} results"


def shape(size, place):
    """A disc, bar, ring or pair at `place`: x, y, size, kind in 0..1."""
    (h, w), (x, y, extent, kind) = size, np.clip(place, 0, 1)
    mask = np.zeros(size, np.uint8)
    center, radius = (int(x * w), int(y * h)), max(2, int(3 + extent**2 * 90))
    if kind < 0.5:
        cv2.ellipse(mask, center, (radius, max(1, int(radius * 0.8))), kind * 360, 0, 360, 1, -1)
    elif kind < 0.7:
        cv2.rectangle(mask, center, (center[0] + 2 * radius, center[1] + max(2, radius // 3)), 1, -1)
    elif kind < 0.85:
        cv2.circle(mask, center, radius, 1, max(2, radius // 3))
    else:
        cv2.circle(mask, center, radius, 1, -1)
        cv2.circle(mask, ((center[0] + w // 2) % w, center[1]), max(2, radius // 2), 1, -1)
    if not mask.any():
        mask[min(h - 1, center[1]), min(w - 1, center[0])] = 1
    return mask


def compressed(mask):
    coded = rle.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in coded["size"]], "counts": coded["counts"].decode()}


def segmentation(mask, polygons):
    coded = compressed(mask)
    box, area = [float(v) for v in rle.toBbox(coded)], float(rle.area(coded))
    if polygons:
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        outlines = [outline.ravel().astype(float).tolist() for outline in outlines if len(outline) > 2]
        if outlines:
            return {"segmentation": outlines, "bbox": box, "area": area}
    return {"segmentation": coded, "bbox": box, "area": area}


def result(rng, picture, category, mask):
    coded = compressed(mask)
    # Two digits, so that many scores are equal.
    score = round(float(rng.random()), 2)
    box = [float(v) for v in rle.toBbox(coded)]
    return {"image_id": picture["id"], "category_id": category, "segmentation": coded, "bbox": box, "score": score}


def pycocotools(truth, results, kind):
    """The twelve figures, AP of each class, and the seconds that it took."""
    begun = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    seconds = time.perf_counter() - begun
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = [p[p > -1].mean() if (p > -1).any() else -1 for p in np.moveaxis(precision, 2, 0)]
    return list(evaluation.stats), per_class, seconds


def sam3(program, truth, results, metrics):
    command = [program, "eval", "--coco", truth, "--predictions", results, "--metrics", metrics, "--json", "-", "-q"]
    begun = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True)
    return json.loads(done.stdout)["ap"], time.perf_counter() - begun


def figures(report):
    return [-1 if report["all"][name] is None else report["all"][name] for name in OURS]


def class_figures(report):
    return [-1 if row["ap"] is None else row["ap"] for row in report["categories"]]


if __name__ == "__main__":
    main()
