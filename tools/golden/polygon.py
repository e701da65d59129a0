"""Makes tests/golden/polygon.json: polygons as pycocotools, OpenCV, Pillow and Ultralytics fill them, outlines as
OpenCV finds them.

    python tools/golden/polygon.py

Needs numpy, pillow, pycocotools, opencv-python-headless and ultralytics.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from ultralytics.utils.ops import resample_segments

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
rng = np.random.default_rng(7)


def counts(mask):
    return coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def by_pycocotools(path, width, height):
    return coco.frPyObjects([path.ravel().tolist()], height, width)[0]["counts"].decode()


def by_opencv(path, width, height):
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [path.astype(np.int32)], 1)
    return counts(mask)


def by_pillow(path, width, height):
    mask = Image.new("L", (width, height))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in path.tolist()], outline=1, fill=1)
    return counts(np.array(mask))


def by_ultralytics(path, width, height):
    points = resample_segments([(path + 0.4995).astype(np.float32)])[0]
    return by_opencv(points, width, height)


def paths():
    """Self-crossing, outside the picture, whole and half numbers, repeated points, thin and flat."""
    for kind in range(48):
        width, height = (int(v) for v in rng.integers(1, 60, 2))
        count = int(rng.integers(3, 12))
        spread = [1.0, 1.6][kind % 2]
        points = (rng.random((count, 2)) - 0.5) * spread + 0.5
        points *= [width, height]
        if kind % 3 == 0:
            points = np.round(points)
        elif kind % 3 == 1:
            points = np.round(points * 2) / 2
        else:
            points = np.round(points, 3)
        if kind % 5 == 0:
            points = np.concatenate([points[:2], points[1:], points[-1:]])
        yield width, height, points


polygons = []
for width, height, path in paths():
    # OpenCV clips lines at the picture first, which moves their pixels.
    inside = np.clip(np.trunc(path), 0, [width - 1, height - 1])
    polygons.append({"size": [height, width], "path": path.tolist(), "pycocotools": by_pycocotools(path, width, height),
                     "inside": inside.tolist(), "opencv": by_opencv(inside, width, height),
                     "pillow": by_pillow(path, width, height), "ultralytics": by_ultralytics(inside, width, height)})

outlines = []
for seed in range(6):
    smooth = cv2.GaussianBlur(rng.random((40, 50)).astype(np.float32), (0, 0), [0.1, 0.6, 1, 1.5, 2.5, 4][seed])
    mask = (smooth > np.median(smooth)).astype(np.uint8)
    found, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outlines.append({"size": [40, 50], "counts": counts(mask), "contours": [c.reshape(-1, 2).tolist() for c in found]})

text = json.dumps({"polygons": polygons, "outlines": outlines}, separators=(",", ":"))
(GOLDEN / "polygon.json").write_text(text + "\n")
