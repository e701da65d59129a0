"""Clips of the demo's world: shapes that move, cross, hide each other, leave and come back; and how well one is followed.

    python tools/demo/clips.py write FOLDER --count 100      # held-out clips: frames, and masks of one object each
    python tools/demo/clips.py score FOLDER NAME             # J, F and their mean, of the DAVIS masks in CLIP/NAME/davis

CLIP/frames has FRAMES pictures, CLIP/masks the visible pixels of the object to follow, and CLIP/prompt.json what to ask
for it: its text, which means no other object, and its box on the first frame.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from evaluate import iou
from prompts import COLOR_NAMES, SHAPE_NAMES
from world import COLORS, RGB, SHAPES, SIDE, background, raster

FRAMES = 30
HELD_OUT = 7_000_000  # first seed
SOLID = ("circle", "square", "hexagon")  # shapes that can hide others


def paint(image, shapes):
    """Draws shapes (shape, RGB, radius, x, y, turn) from behind on f32 [SIDE, SIDE, 3]: u8, and the visible one at each
    pixel, -1 for none."""
    image, owner = image.copy(), np.full((SIDE, SIDE), -1)
    for i, (shape, rgb, radius, cx, cy, turn) in enumerate(shapes):
        cover, x, y = raster(shape, radius, cx, cy, turn)
        x0, y0, x1, y1 = max(0, x), max(0, y), min(SIDE, x + cover.shape[1]), min(SIDE, y + cover.shape[0])
        if x1 <= x0 or y1 <= y0:
            continue
        cover = cover[y0 - y : y1 - y, x0 - x : x1 - x]
        alpha = cover[..., None]
        image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - alpha) + np.asarray(rgb, np.float32) * alpha
        owner[y0:y1, x0:x1][cover >= 0.5] = i
    return np.clip(image, 0, 255).astype(np.uint8), owner


def draw_kinds(rng):
    """The different objects of a clip, [(shape, colour)]: the first that is drawn for it."""
    count = int(rng.integers(2, 6))
    return [divmod(int(k), len(COLORS)) for k in rng.choice(len(SHAPES) * len(COLORS), count, replace=False)]


def make_clip(seed, frames=FRAMES):
    """images u8 [T, SIDE, SIDE, 3]; owner [T, SIDE, SIDE], the visible object or -1; kinds [(shape, colour)]; target, the
    object to follow, wholly visible at first."""
    rng = np.random.default_rng(seed)
    kinds = draw_kinds(rng)
    count = len(kinds)
    rgb = [RGB[color] + rng.uniform(-14, 14, 3) for _, color in kinds]
    base = background(rng, [RGB[color] for color in sorted({color for _, color in kinds})])
    radius, spin = rng.uniform(17, 40, count), rng.uniform(-0.12, 0.12, count)
    turn, speed = rng.uniform(0, 6.28, count), rng.uniform(1, 6, count)
    noise = rng.uniform(0, 4)
    pairs = [(i, j) for j in range(count) for i in range(j) if SHAPES[kinds[j][0]] in SOLID]
    hides = bool(pairs) and rng.random() < 0.4
    if hides:
        hidden, cover = pairs[int(rng.integers(len(pairs)))]
        radius[hidden], radius[cover] = rng.uniform(17, 22), rng.uniform(38, 44)
    for _ in range(200):
        start = rng.uniform(20, SIDE - 20, (count, 2))
        # Towards somewhere near the middle, so that paths cross.
        goal = rng.uniform(60, SIDE - 60, (count, 2))
        way = goal - start
        step = way / np.linalg.norm(way, axis=1, keepdims=True) * speed[:, None]
        # One that leaves goes over the nearest border, is gone for a third of the clip or less, and comes back the same way.
        leaves, last = rng.random(count) < 0.35, frames - 1
        borders = np.concatenate([start, SIDE - start], 1)
        side, ahead = borders.argmin(1), np.array([[-1, 0], [0, -1], [1, 0], [0, 1]])
        if hides:
            # Right behind one that stands still and is larger, in the middle of the clip.
            leaves[[hidden, cover]], step[cover], start[cover] = False, 0, rng.uniform(75, SIDE - 75, 2)
            angle = rng.uniform(0, 2 * math.pi)
            step[hidden] = rng.uniform(3.5, 6) * np.array([math.cos(angle), math.sin(angle)])
            start[hidden] = start[cover] - step[hidden] * rng.uniform(10, 20)
            if (np.abs(start[hidden] - SIDE / 2) > SIDE / 2 - 20).any():
                continue
        leaving = ahead[side] * ((borders.min(1) + 1.1 * radius) / rng.uniform(0.33, 0.45, count) / last)[:, None]

        def at(t):
            places = start + step * t
            # Others turn back at the border.
            bounced = SIDE - np.abs(places % (2 * SIDE) - SIDE)
            return np.where(leaves[:, None], start + leaving * min(t, last - t), bounced)

        def shapes(t):
            return [
                (SHAPES[kind], rgb[i], radius[i], *at(t)[i], turn[i] + spin[i] * t) for i, (kind, _) in enumerate(kinds)
            ]

        _, owner = paint(base, shapes(0))
        area = np.array([(owner == i).sum() for i in range(count)])
        whole = [i for i in range(count) if area[i] > 0.9 * full_area(shapes(0)[i])]
        if whole and (not hides or hidden in whole):
            break
    target = hidden if hides else whole[int(rng.integers(len(whole)))]
    images, owners = [], []
    for t in range(frames):
        image, owner = paint(base, shapes(t))
        grain = rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * noise
        images.append(np.clip(image + grain, 0, 255).astype(np.uint8))
        owners.append(owner)
    return {"images": np.stack(images), "owner": np.stack(owners), "kinds": kinds, "target": target}


def full_area(shape):
    cover, *_ = raster(shape[0], shape[2], SIDE / 2, SIDE / 2, shape[5])
    return (cover >= 0.5).sum()


def write(folder, count):
    for n in range(count):
        clip = make_clip(HELD_OUT + n)
        place = folder / f"clip_{n:03}"
        (place / "frames").mkdir(parents=True, exist_ok=True)
        (place / "masks").mkdir(exist_ok=True)
        masks = clip["owner"] == clip["target"]
        for t, (image, mask) in enumerate(zip(clip["images"], masks)):
            Image.fromarray(image).save(place / "frames" / f"{t:05}.png")
            Image.fromarray(np.uint8(mask) * 255).save(place / "masks" / f"{t:05}.png")
        shape, color = clip["kinds"][clip["target"]]
        ys, xs = np.nonzero(masks[0])
        box = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        text = f"{COLOR_NAMES[color]} {SHAPE_NAMES[shape]}"
        (place / "prompt.json").write_text(json.dumps({"text": text, "box": box}))


def border(mask):
    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def boundary(found, true):
    """DAVIS's F: precision and recall of the outlines, each within 0.8 % of the diagonal."""
    a, b = border(found), border(true)
    if not a.any() or not b.any():
        return float(a.any() == b.any())
    reach = math.ceil(0.008 * math.hypot(SIDE, SIDE))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = x * x + y * y <= reach * reach
    precision = (a & ndimage.binary_dilation(b, disc)).sum() / a.sum()
    recall = (b & ndimage.binary_dilation(a, disc)).sum() / b.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def score(folder, name):
    """Over all frames but the first, that of the prompt; a frame without the object is right if nothing is found."""
    j, f, hidden = [], [], []
    for place in sorted(folder.glob("clip_*")):
        for path in sorted((place / "masks").glob("*.png"))[1:]:
            true = np.asarray(Image.open(path)) > 0
            found = np.asarray(Image.open(place / name / "davis" / path.name)) > 0
            empty = not true.any()
            j.append(float(not found.any()) if empty else iou(found, true))
            f.append(float(not found.any()) if empty else boundary(found, true))
            hidden.append(empty)
    j, f = float(np.mean(j)), float(np.mean(f))
    print(f"{len(hidden)} frames, {sum(hidden)} of them without the object: J {j:.3f}, F {f:.3f}, J&F {(j + f) / 2:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "score"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("name", nargs="?")
    parser.add_argument("--count", type=int, default=100)
    args = parser.parse_args()
    if args.what == "write":
        write(args.folder, args.count)
    else:
        score(args.folder, args.name)
