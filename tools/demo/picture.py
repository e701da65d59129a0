"""Draws tests/scenes/shapes.png, the picture of the README: larger than the model's input, and not of the training set.

    python tools/demo/picture.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from world import COLORS, SIDE, background, raster

SCALE = 2
OBJECTS = [  # shape, colour, radius, centre, turn, all in pixels of a scene
    ("circle", "blue", 34, (62, 62), 0.0),
    ("triangle", "red", 36, (163, 70), 0.3),
    ("triangle", "yellow", 27, (58, 160), 2.6),
    ("star", "blue", 27, (114, 128), 0.2),
    ("ring", "purple", 25, (186, 158), 0.0),
    ("square", "white", 24, (122, 190), 0.2),
]


def main():
    rng = np.random.default_rng(3)
    small = background(rng, [np.array(COLORS[color], np.float32) for _, color, *_ in OBJECTS])
    image = np.stack([np.asarray(Image.fromarray(small[..., c]).resize((SIDE * SCALE,) * 2, Image.BICUBIC)) for c in range(3)], 2).copy()
    for shape, color, radius, (x, y), turn in OBJECTS:
        cover, x0, y0 = raster(shape, radius * SCALE, x * SCALE, y * SCALE, turn)
        window = image[y0 : y0 + cover.shape[0], x0 : x0 + cover.shape[1]]
        window[:] = window * (1 - cover[..., None]) + np.array(COLORS[color], np.float32) * cover[..., None]
    path = Path(__file__).parents[2] / "tests/scenes/shapes.png"
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, optimize=True)


if __name__ == "__main__":
    main()
