#!/usr/bin/env python3
"""`sam3 label` beside a Python loop: pictures per second, and the share of the time that ours infers.

    label.py demo --images photos --sam3 target/release/sam3
    label.py efficientsam3 -m repvit.pt --package ../efficientsam3/sam3 --backbone repvit:m0.9 \\
        --text-encoder MobileCLIP-S1 --table 77 --context 32 --images photos --limit 20

Both decode every picture, look for the same phrases, and write the masks as run lengths of COCO. The loop
over `efficientsam3` is the official package, a picture and a phrase at a time, as its examples do it; that
over `demo` is the PyTorch code that the built-in model was trained with (tools/demo), all phrases at once.
Loading the model is not counted for the loop, but is for ours. Weights may be random
(tools/golden/random_checkpoint.py): then nearly nothing is found, and what is measured is inference.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as rle
from PIL import Image

TOOLS = Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=["demo", "efficientsam3"])
    parser.add_argument("-m", "--model", type=Path, default=TOOLS.parent / "weights/demo.safetensors")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=200, help="so many pictures at most")
    parser.add_argument("--text", default="circle, square, triangle, star")
    parser.add_argument("--sam3", default="sam3")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--package", action="append", default=[], help="folder to import from")
    parser.add_argument("--backbone", help="repvit:m0.9, tinyvit:11m, efficientvit:b1 …")
    parser.add_argument("--text-encoder")
    parser.add_argument("--table", type=int, default=77)
    parser.add_argument("--context", type=int)
    args = parser.parse_args()
    files = sorted(f for f in args.images.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))[: args.limit]
    if not files:
        parser.error(f"no picture in {args.images}")
    phrases = [phrase.strip() for phrase in args.text.split(",")]
    import torch

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    find = {"demo": demo, "efficientsam3": official}[args.family](args, phrases, torch)
    find(files[0])  # The first picture allocates.
    ours = label(args, files)
    theirs = loop(find, files)
    print(f"{len(files)} pictures, {len(phrases)} phrases, {args.threads} threads")
    print(f"Python loop: {len(files) / theirs:.2f} pictures/s ({theirs:.1f} s)")
    print(f"sam3 label:  {len(files) / ours['wall']:.2f} pictures/s ({ours['wall']:.1f} s, loading included)")
    print(f"sam3 label infers {100 * ours['labeling'] / ours['wall']:.1f} % of that, and waits for pictures {ours['waiting']:.1f} s")


def loop(find, files):
    begun = time.perf_counter()
    annotations = []
    for number, file in enumerate(files):
        for category, mask, score in find(file):
            coded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
            segmentation = {"size": coded["size"], "counts": coded["counts"].decode()}
            annotations.append({"image_id": number, "category_id": category, "segmentation": segmentation, "score": score})
    with tempfile.TemporaryFile("w") as file:
        json.dump(annotations, file)
    return time.perf_counter() - begun


def demo(args, phrases, torch):
    sys.path.insert(0, str(TOOLS / "demo"))
    from model import Sam3, normalise
    from safetensors.torch import load_file
    from world import SIDE

    model = Sam3()
    model.load_full_state({name: tensor.float() for name, tensor in load_file(args.model).items()})
    model.eval()
    none = torch.zeros(len(phrases), 0, 4), torch.zeros(len(phrases), 0, dtype=torch.long), torch.zeros(len(phrases), 0, dtype=torch.bool)
    rows, image_of = model.rows(phrases), torch.zeros(len(phrases), dtype=torch.long)

    def find(file):
        picture = Image.open(file).convert("RGB")
        pixels = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        image = model.detector.image(normalise(torch.from_numpy(pixels.copy())[None]))
        out = model.detector(image, image_of, rows, *none)
        masks, _ = model.detector.masks(out, image, image_of, out["states"][-1])
        scores = out["logits"][-1].sigmoid() * out["presence"][-1].sigmoid()[:, None]
        for i, row in enumerate(scores):
            kept = (row > 0.5).nonzero()[:, 0]
            if len(kept):
                size = (picture.height, picture.width)
                large = torch.nn.functional.interpolate(masks[i, kept][:, None], size, mode="bilinear")[:, 0] > 0
                yield from ((i, mask.numpy(), float(score)) for mask, score in zip(large, row[kept]))

    return lambda file: list(find(file))


def official(args, phrases, torch):
    from peers import Concepts

    sys.path[:0] = args.package
    args.device, args.clicks, args.compile, args.dtype, args.image = "cpu", False, False, "f32", None
    args.onnxruntime = False
    processor = Concepts(args, torch).processor

    def find(file):
        state = processor.set_image(Image.open(file).convert("RGB"))
        for i, phrase in enumerate(phrases):
            state = processor.set_text_prompt(phrase, state)
            for mask, score in zip(state["masks"], state["scores"]):
                yield i, mask.squeeze().numpy(), float(score)

    def found(file):
        with torch.inference_mode():
            return list(find(file))

    return found


def label(args, files):
    """Seconds of one run of ours, by its own summary."""
    with tempfile.TemporaryDirectory() as output:
        model = ["-m", "demo" if args.family == "demo" else args.model]
        command = [args.sam3, "label", *files, "-o", Path(output, "out"), "--text", args.text, *model, "--format", "coco"]
        command += ["--device", "cpu", "--threads", str(args.threads), "--quiet"]
        if args.context:
            command += ["--context-length", str(args.context)]
        begun = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall = time.perf_counter() - begun
    seconds = {stage: float(s) for stage, s in re.findall(r"(labeling|waiting) (?:for pictures )?([\d.]+) s", done.stdout)}
    return {"wall": wall, **seconds}


if __name__ == "__main__":
    main()
