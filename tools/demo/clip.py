"""Writes the clip of the README and the tests: a red star that passes behind a blue square.

    python tools/demo/clip.py tests/scenes/red_star.gif

Beside it go its masks of the star, in one row of a grey PNG, 255 where the star is visible.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image

from clips import paint
from world import COLORS, SIDE

FRAMES = 36
STAR = 1  # its place in the list below, from behind


def shapes(t):
    """What is on frame t, from behind: shape, color, radius, center, turn."""
    return [
        ("star", "yellow", 20, 40 + 2.2 * t, 180 + 10 * math.sin(t / 5), 0.04 * t),
        ("star", "red", 20, 14 + 5.6 * t, 92 + 14 * math.sin(t / 7), 0.05 * t),
        ("square", "blue", 46, 112, 100, 0.0),
        ("circle", "red", 19, 200 - 0.3 * t, 56 + 3.6 * t, 0.0),
        ("heart", "green", 21, 58 + 1.1 * t, 34, 0.0),
    ]


def frame(t):
    """The picture and the visible pixels of the star."""
    ramp = np.linspace(-8, 8, SIDE, dtype=np.float32)
    sky = np.array([150, 158, 166], np.float32) + ramp[:, None, None] + np.zeros((SIDE, SIDE, 3), np.float32)
    drawn = [(shape, COLORS[color], radius, cx, cy, turn) for shape, color, radius, cx, cy, turn in shapes(t)]
    image, owner = paint(sky, drawn)
    return Image.fromarray(image), np.uint8(owner == STAR) * 255


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path)
    args = parser.parse_args()
    images, masks = zip(*(frame(t) for t in range(FRAMES)))
    palette = images[0].quantize(200)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    images[0].save(args.clip, save_all=True, append_images=images[1:], duration=80, loop=0)
    Image.fromarray(np.concatenate(masks, 1)).save(args.clip.with_name(f"{args.clip.stem}_masks.png"), optimize=True)
