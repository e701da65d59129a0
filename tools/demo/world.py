"""The demo model's world: pictures of coloured shapes, with the mask of every shape.

A scene is SIDE x SIDE pixels of RGB with 1 to MAX_OBJECTS antialiased shapes on a plain, graded, blotched, striped or
checked background, with pixel noise and, mostly, JPEG artefacts. Masks are the *visible* pixels: a shape that would
hide more than 40 % of another is not placed.
"""

import io
import math

import numpy as np
from PIL import Image, ImageDraw

SIDE = 224
LOW = 64  # side of the model's masks
MAX_OBJECTS = 6
RADIUS = (17, 46)
CROWD, CROWD_RADIUS = 4, 36  # with more shapes than this, none is larger than that
SHAPES = ["circle", "square", "triangle", "star", "ring", "cross", "heart", "hexagon"]
COLORS = {
    "red": (215, 35, 40),
    "green": (40, 165, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 222, 40),
    "orange": (245, 138, 25),
    "purple": (140, 45, 175),
    "white": (245, 245, 245),
    "black": (18, 18, 18),
}
RGB = np.array(list(COLORS.values()), np.float32)


def polygon(corners, radius, turn=0.0):
    angle = turn + 2 * math.pi * np.arange(corners) / corners
    return np.stack([np.sin(angle), -np.cos(angle)], 1) * radius


def outline(shape, r):
    """Polygons about the origin, the second one a hole. Sizes are such that areas are alike for one r."""
    if shape == "circle":
        return [polygon(64, r * 0.92)]
    if shape == "ring":
        return [polygon(64, r), polygon(64, r * 0.55)]
    if shape == "square":
        return [polygon(4, r * 1.1, math.pi / 4)]
    if shape == "triangle":
        return [polygon(3, r * 1.22)]
    if shape == "hexagon":
        return [polygon(6, r)]
    if shape == "star":
        tips = polygon(10, r * 1.25)
        tips[1::2] *= 0.42
        return [tips]
    if shape == "cross":
        a, b = r * 1.08, r * 0.36
        arm = [(-b, -a), (b, -a), (b, -b), (a, -b), (a, b), (b, b), (b, a), (-b, a), (-b, b), (-a, b), (-a, -b), (-b, -b)]
        return [np.array(arm)]
    t = np.linspace(0, 2 * math.pi, 64, endpoint=False)  # heart
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) - 2.5
    return [np.stack([x, y], 1) * (r * 1.08 / 16)]


def raster(shape, r, cx, cy, turn, fine=4):
    """Coverage (0 to 1) of the pixels about a shape, and the column and row of its first pixel."""
    cos, sin = math.cos(turn), math.sin(turn)
    margin = math.ceil(r * 1.3) + 2
    x, y = math.floor(cx) - margin, math.floor(cy) - margin
    canvas = Image.new("L", ((2 * margin + 1) * fine,) * 2, 0)
    draw = ImageDraw.Draw(canvas)
    for i, p in enumerate(outline(shape, r)):
        turned = np.stack([p[:, 0] * cos - p[:, 1] * sin + cx - x, p[:, 0] * sin + p[:, 1] * cos + cy - y], 1)
        draw.polygon([tuple(corner) for corner in turned * fine - 0.5], fill=0 if i else 255)
    return np.asarray(canvas.reduce(fine), np.float32) / 255, x, y


def background(rng, avoid):
    """A background whose base colour is far from every colour in `avoid`."""
    for _ in range(50):
        base = rng.uniform(45, 215, 3).astype(np.float32)
        if rng.random() < 0.5:
            base = base.mean() + (base - base.mean()) * rng.uniform(0, 0.5)
        if all(np.abs(base - a).sum() > 130 for a in avoid):
            break
    kind = rng.integers(4)
    pixels = np.empty((SIDE, SIDE, 3), np.float32)
    pixels[:] = base
    if kind == 0:  # linear gradient
        d, ramp = rng.uniform(-1, 1, 2), np.linspace(-1, 1, SIDE, dtype=np.float32)
        ramp = (d[0] * ramp[:, None] + d[1] * ramp[None]) / (abs(d).sum() + 1e-6)
        pixels += ramp[..., None] * rng.uniform(-30, 30, 3).astype(np.float32)
    elif kind == 1:  # smooth blotches
        k = int(rng.integers(3, 14))
        coarse = Image.fromarray(rng.integers(0, 256, (k, k, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
        pixels += (np.asarray(coarse, np.float32) - 128) * rng.uniform(0.08, 0.28)
    elif kind == 2:  # stripes or checks
        pitch, turn, phase = rng.uniform(0.06, 0.5), rng.uniform(0, math.pi), rng.uniform(0, 6.28)
        g = np.arange(SIDE, dtype=np.float32)
        wave = np.sin((math.cos(turn) * g[None] + math.sin(turn) * g[:, None]) * pitch + phase)
        if rng.random() < 0.4:
            wave = wave * np.sin((-math.sin(turn) * g[None] + math.cos(turn) * g[:, None]) * pitch)
        pixels += wave[..., None] * rng.uniform(-22, 22, 3).astype(np.float32)
    noise = rng.uniform(0, 12)
    return pixels + rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * noise


def area_average():
    """The matrix [LOW, SIDE] that averages exactly the part of each pixel inside a cell."""
    matrix, cell = np.zeros((LOW, SIDE), np.float32), SIDE / LOW
    for i in range(LOW):
        first, last = i * cell, (i + 1) * cell
        for j in range(int(first), min(SIDE, math.ceil(last))):
            matrix[i, j] = (min(last, j + 1) - max(first, j)) / cell
    return matrix


AREA = area_average()
NEAREST = np.floor((np.arange(LOW) + 0.5) * SIDE / LOW).astype(np.int64)


def place(rng, one_color):
    """Shapes that may overlap: [(shape, colour, coverage, x0, y0, x1, y1)] and the map of visible instances."""
    count = int(rng.integers(1, MAX_OBJECTS + 1))

    def choice(kinds, most):
        few = rng.random() < 0.6
        return rng.choice(kinds, int(rng.integers(1, most)), replace=False).tolist() if few else list(range(kinds))

    shapes, colors = choice(len(SHAPES), 5), choice(len(COLORS), 4)
    colors = [colors[rng.integers(len(colors))]] if one_color else colors
    overlap = rng.random() < 0.5
    placed, areas, instances = [], [], np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(count * 6):
        if len(placed) == count:
            break
        shape, color = shapes[rng.integers(len(shapes))], colors[rng.integers(len(colors))]
        r = rng.uniform(RADIUS[0], RADIUS[1] if count <= CROWD else CROWD_RADIUS)
        cx, cy, turn = *rng.uniform(r * 0.8, SIDE - r * 0.8, 2), rng.uniform(0, 2 * math.pi)
        cover, x, y = raster(SHAPES[shape], r, cx, cy, turn)
        x0, y0, x1, y1 = max(0, x), max(0, y), min(SIDE, x + cover.shape[1]), min(SIDE, y + cover.shape[0])
        cover = cover[y0 - y : y1 - y, x0 - x : x1 - x]
        solid, window = cover >= 0.5, instances[y0:y1, x0:x1]
        if overlap:
            hidden = np.bincount(window[solid], minlength=len(placed) + 1)[1:]
            visible = np.bincount(instances.ravel(), minlength=len(placed) + 1)[1:]
            if any(v - h < 0.6 * area for v, h, area in zip(visible, hidden, areas)):
                continue
            if any(h and other[1] == color for h, other in zip(hidden, placed)):
                continue  # no visible border between shapes of one colour
        elif window[solid].any():
            continue
        placed.append((shape, color, cover, x0, y0, x1, y1))
        areas.append(int(solid.sum()))
        window[solid] = len(placed)
    return placed, instances


def make_scene(seed, one_color=False):
    """image u8 [SIDE, SIDE, 3]; instances u8 [SIDE, SIDE] (0 = background), low the same at LOW; boxes cxcywh in 0 to 1;
    soft f32 [n, LOW, LOW], the covered share of every cell; shape and color, indices; rng, to go on drawing."""
    rng = np.random.default_rng(seed)
    placed, instances = place(rng, one_color)
    image = background(rng, [RGB[color] for color in sorted({p[1] for p in placed})])
    for _, color, cover, x0, y0, x1, y1 in placed:
        paint = RGB[color] + rng.uniform(-14, 14, 3).astype(np.float32)
        shade = np.linspace(-1, 1, x1 - x0, dtype=np.float32)[None, :, None] * rng.uniform(-10, 10)
        alpha = cover[..., None]
        image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - alpha) + (paint + shade) * alpha
    noise = rng.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * rng.uniform(0, 4)
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.7:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(rng.integers(70, 96)))
        image = np.asarray(Image.open(file))
    n = len(placed)
    boxes, soft = np.zeros((n, 4), np.float32), np.zeros((n, LOW, LOW), np.float32)
    for i in range(n):
        mask = instances == i + 1
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x0, y0, x1, y1 = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
        boxes[i] = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0]) / SIDE
        soft[i] = AREA @ mask.astype(np.float32) @ AREA.T
    return {
        "image": np.ascontiguousarray(image),
        "instances": instances,
        "low": instances[NEAREST][:, NEAREST],
        "boxes": boxes,
        "soft": soft,
        "shape": np.array([p[0] for p in placed]),
        "color": np.array([p[1] for p in placed]),
        "rng": rng,
    }
