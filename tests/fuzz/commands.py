#!/usr/bin/env python3
"""Runs `sam3` with odd command lines, the same ones each time, and counts how they end.

    tests/fuzz/commands.py target/release/sam3 [--count 2000] [--seconds 20] [--gigabytes 4]

Every command must end within its time and address space with 0, 1 or 2, and without a panic. What
takes long because it was asked for (a very fine grid of points) is not among the values.
"""

import argparse
import collections
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

NUMBERS = ["0", "1", "-1", "2", "3.5", "1e3", "1e12", "1e38", "1e400", "-1e38", "nan", "inf", "-inf", "", " ", "0x10",
           "007", "+1", "65536", "4294967296", "9223372036854775807", "9223372036854775808",
           "18446744073709551616", "1,2", "٣", "½", "true", "None", "1_000"]
TEXTS = ["", " ", ",", ",,,", "a", "dog,", "a\\,b", "\u202egod", "é" * 50, "🐕" * 30, "x" * 9000, "\n", "-", "--", "%s", "\x1b[2J",
         "a, a, a", "&amp;", "<|endoftext|>", ", ".join(["thing"] * 40)]
BOXES = ["0,0,1,1", "1,1,0,0", "0,0,0,0", "-5,-5,9,9", "0,0,1e12,1e12", "-1e38,-1e38,1e38,1e38", "nan,0,1,1", "0,0,inf,1",
         "0.1,0.1,0.4,0.4", "1,2,3", "1,2,3,4,5", "a,b,c,d", ",,,", "0,0,448,448", "447.9,447.9,500,500", ""]
POINTS = ["0,0", "447,447", "448,448", "-1,3", "1e38,1", "nan,nan", "3", "1,2,3,4", "10,10,0", "10,10,2", "10,10,-1", "0.5,0.5", ""]
FILES = ["", ".", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "missing", "missing/deep/er", "x" * 300, "no\nline", "~/sam3.pt",
         "facebook/sam3", "sam_vit_h_4b8939.pth", "vit_h", "hf://facebook/sam3", "https://example.invalid/x", "\u202e", "-"]


def command_lines(here):
    """Endless: argument lists without the program."""
    scene = os.path.join(here, "../scenes/shapes.png")
    field = os.path.join(here, "../field")
    known = [os.path.join(folder, name) for folder, _, names in os.walk(field) for name in sorted(names)]
    known = [path for path in sorted(known) if not path.endswith(".rs")]
    choose = random.Random(1)
    pick = choose.choice
    number, text, box, point = (lambda values=values: pick(values) for values in (NUMBERS, TEXTS, BOXES, POINTS))
    file = lambda: pick(FILES + known)
    folder = lambda: pick(["out", "-", "out", "/proc/x", "/dev/null", "x" * 300, ""])
    output = lambda: pick(["o.json", "o.safetensors", "/dev/full", "missing/o", "", ".", "x" * 300])
    model = {"-m": file, "--model": lambda: "demo", "--geometry": file, "--context-length": number,
             "--device": lambda: pick(["cpu", "cuda", "cuda:9", "metal", "tpu", "cuda:-1", ""]),
             "--dtype": lambda: pick(["f32", "f16", "bf16", "f64", ""]),
             "--precision": lambda: pick(["highest", "high", "medium", "low", ""]), "--threads": number}
    segment = model | {"--text": text, "--exemplar": box, "--box": box, "--point": point, "--mask": file, "-o": folder,
                       "--threshold": number, "--max": number, "--format": lambda: pick(["json", "masks,json", "overlay", "x", ""]),
                       "--logits": output, "--trace": output, "--multimask": None, "--no-labels": None, "--full-size": None, "--stretch": None, "--nms": number,
                       "--nms-across": None, "-q": None, "-v": None}
    everything = model | {"--points-per-side": lambda: pick(["0", "1", "2", "-1", "", "x", "99999999999", "9223372036854775808"]),
                          "--points-per-batch": number, "--pred-iou-thresh": number, "--stability-score-thresh": number,
                          "--crop-n-layers": lambda: pick(["0", "1", "-1", "64", "9223372036854775807"]),
                          "--crop-overlap-ratio": number, "--crop-n-points-downscale-factor": number, "--box-nms-thresh": number,
                          "--min-mask-region-area": number, "--format": lambda: pick(["json", "coco", "amg,json", "x"]), "-o": folder}
    label = model | {"--text": text, "--classes": file, "--everything": None, "--format": lambda: pick(["coco", "yolo,voc", "csv", "x", ""]),
                     "--threshold": number, "--nms": number, "--min-area": number, "--split": number, "--simplify": number,
                     "--polygon-iou": number, "--link": lambda: pick(["hard", "symbolic", "copy", "x"]), "--url-prefix": file,
                     "--preview": number, "--shard": lambda: pick(["0/1", "1/1", "0/0", "-1/3", "x", "0/99999999999", ""]),
                     "--resume": None, "--strict": None, "--keep-extension": None}
    evaluate = model | {"--coco": file, "--saco": file, "--predictions": file, "--images": file, "--limit": number,
                        "--metrics": lambda: pick(["ap", "box-ap,boundary-ap", "cgf1", "click-miou", "x", ""]), "--min-score": number, "--json": output,
                        "--save": output, "--compare": file, "--prompts": file}
    bench = model | {"--prompts": number, "--batch": number, "--iters": lambda: pick(["0", "1", "-1", "x"]),
                     "--warmup": lambda: pick(["0", "1", "x"]), "--image": file, "--compare": file, "--tolerance": number,
                     "--json": output, "--random-weights": lambda: pick(["x", "", "facebook/sam3"])}
    plain = {"--json": None, "--geometry": file, "-q": None}
    commands = [("segment", [lambda: pick([scene, scene, scene, file()])], segment, 12),
                ("everything", [lambda: pick([scene, file()])], everything, 4),
                ("inspect", [file], plain, 4),
                ("convert", [file, lambda: pick(["o.safetensors", "o.pt", "missing/o.safetensors", file()])],
                 plain | {"--dtype": model["--dtype"], "--prune": None, "--force": None}, 4),
                ("verify", [], model | {"--reference": file, "--json": None}, 2),
                ("label", [lambda: pick([scene, file()])], label | {"-o": lambda: pick(["out", "out", folder()])}, 6),
                ("merge", [file], {"-q": None}, 1),
                ("eval", [], evaluate, 2),
                ("bench", [], bench, 1),
                ("models", [lambda: pick(["", "fetch", "list", "x"])], {"--json": None}, 1),
                ("", [file], segment, 1)]
    weights = [weight for *_, weight in commands]
    while True:
        name, positional, flags, _ = choose.choices(commands, weights)[0]
        line = [name] if name else []
        line += [make() for make in positional]
        for _ in range(choose.randrange(5)):
            flag = pick(sorted(flags))
            line += [flag] if flags[flag] is None else [flag, flags[flag]()]
        if name in ("segment", "label") and choose.random() < 0.7:
            line += ["--text", text()]
        if "fetch" not in line:
            yield [part.replace("\0", "") for part in line]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--gigabytes", type=float, default=4)
    args = parser.parse_args()
    here = os.path.dirname(os.path.abspath(__file__))
    program = os.path.abspath(args.program)
    space = int(args.gigabytes * (1 << 30))
    ends, faults, slowest = collections.Counter(), [], (0, None)
    lines = command_lines(here)
    environment = dict(os.environ, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    for _ in range(args.count):
        line = next(lines)
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            try:
                done = subprocess.run([program, *line], cwd=folder, capture_output=True, timeout=args.seconds, env=environment,
                                      stdin=subprocess.DEVNULL,
                                      preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (space, space)))
                said = (done.stdout[-2000:] + done.stderr[-2000:]).decode(errors="replace")
                end = str(done.returncode)
                if done.returncode not in (0, 1, 2) or "panicked" in said or "memory allocation" in said:
                    faults.append((line, end, said))
            except subprocess.TimeoutExpired:
                end = "no end"
                faults.append((line, end, ""))
            left = [name for name in os.listdir(folder) if name.endswith(".tmp")]
            if left:
                faults.append((line, f"left {left}", ""))
            ends[end] += 1
            slowest = max(slowest, (time.monotonic() - started, line), key=lambda pair: pair[0])
    print(f"{sum(ends.values())} command lines: {dict(ends)}; the slowest took {slowest[0]:.1f} s: {slowest[1]}")
    for line, end, said in faults:
        print(f"FAULT {end}: {line}\n{said[-600:]}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
