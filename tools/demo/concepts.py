"""How well a concept file finds in other pictures what its exemplars show, beside words and exemplars of the same picture.

    python tools/demo/concepts.py path/to/sam3 --concepts 40

For a color and a shape, `sam3 concept save` is given the box of one such object in each of 1 or 3 held-out scenes, and
`sam3 label` looks for it in other scenes: some hold such objects, as many hold none. An object is found when a mask of
a score above 0.5 overlaps it with IoU above 0.5.
"""

import argparse
import json
import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from prompts import COLOR_NAMES, SHAPE_NAMES
from world import SIDE, make_scene

FIRST = 50_000_000  # neither for training nor for the other tests
SCENES, SHOWN, SEARCHED = 400, 3, 4


def corners(box):
    x, y, w, h = (float(v) * SIDE for v in box)
    return [round(v, 1) for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]


def sam3(binary, *args):
    subprocess.run([binary, "-q", *map(str, args)], check=True, stdout=subprocess.DEVNULL)


class Tally:
    def __init__(self):
        self.true = self.predicted = self.found = self.without = self.refused = 0
        self.overlap = 0.0

    def add(self, true, masks):
        if not true:
            self.without, self.refused = self.without + 1, self.refused + (not masks)
            return
        best = [max([float((m & t).sum() / (m | t).sum()) for m in masks], default=0.0) for t in true]
        hits = [v for v in best if v > 0.5]
        self.true, self.predicted = self.true + len(true), self.predicted + len(masks)
        self.found, self.overlap = self.found + len(hits), self.overlap + sum(hits)

    def __str__(self):
        recall, precision = self.found / max(1, self.true), self.found / max(1, self.predicted)
        return (f"{self.true} objects, recall {recall:.3f}, precision {precision:.3f}, mean IoU "
                f"{self.overlap / max(1, self.found):.3f}; nothing in {self.refused} of {self.without} pictures without")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sam3")
    parser.add_argument("--concepts", type=int, default=40)
    args = parser.parse_args()
    rng = np.random.default_rng(7)
    scenes, where = [make_scene(FIRST + i) for i in range(SCENES)], defaultdict(list)
    for n, scene in enumerate(scenes):
        for kind in {(int(s), int(c)) for s, c in zip(scene["shape"], scene["color"])}:
            where[kind].append(n)
    kinds = [kind for kind, at in sorted(where.items()) if len(at) >= SHOWN + SEARCHED]
    tallies = defaultdict(Tally)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for n, scene in enumerate(scenes):
            Image.fromarray(scene["image"]).save(folder / f"{n}.png")
        for number in range(args.concepts):
            shape, color = kinds[number % len(kinds)]
            at = [int(n) for n in rng.permutation(where[shape, color])]
            shown, searched = at[:SHOWN], at[SHOWN : SHOWN + SEARCHED]
            searched += [int(n) for n in rng.permutation(SCENES) if n not in at][: len(searched)]
            such = {n: [i for i, k in enumerate(zip(scenes[n]["shape"], scenes[n]["color"])) if k == (shape, color)] for n in at + searched}
            box = {n: ",".join(map(str, corners(scenes[n]["boxes"][such[n][0]]))) for n in at}
            words = f"{COLOR_NAMES[color]} {SHAPE_NAMES[shape]}"
            ways = {"words": ["--text", words]}
            for count in (1, 3):
                for name, more in (("", []), (" and words", ["--text", words])):
                    file = folder / f"{number}-{count}-{bool(more)}.safetensors"
                    exemplars = [part for n in shown[:count] for part in ("--exemplar", f"{folder / f'{n}.png'}:{box[n]}")]
                    sam3(args.sam3, "concept", "save", *exemplars, *more, "--name", words, "-o", file)
                    ways[f"concept file, {count} exemplar{'s' * (count > 1)}{name}"] = ["--concept", file]
            for way, flags in ways.items():
                out = folder / f"{number} {way}"
                sam3(args.sam3, "label", *(folder / f"{n}.png" for n in searched), *flags, "-o", out)
                document = json.loads((out / "coco.json").read_text())
                masks = {image["id"]: [] for image in document["images"]}
                for annotation in document["annotations"]:
                    masks[annotation["image_id"]].append(coco.decode(annotation["segmentation"]).astype(bool))
                for image in document["images"]:
                    n = int(Path(image["file_name"]).stem)
                    tallies[way].add([scenes[n]["instances"] == i + 1 for i in such[n]], masks[image["id"]])
    for way, tally in tallies.items():
        print(f"{way}: {tally}")


main()
