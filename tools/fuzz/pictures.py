"""Compares what is read of mutated pictures with what PIL reads of them.

    cargo build --release --example decode
    python tools/fuzz/pictures.py target/release/examples/decode --count 2000 --keep disagreements

For each format: how many files both read alike, both refuse, and the disagreements by kind and
reason. Needs Pillow; the seed makes every run the same.
"""

import argparse
import collections
import io
import pathlib
import random
import re
import subprocess
import tempfile
import warnings

import PIL.Image
import PIL.ImageOps

# Levels by which a decoder may differ: JPEG and lossy WebP leave rounding open.
TOLERANCE = {"jpeg": 12, "webp": 6, "tiff": 1, "png": 1}


def seeds(picture):
    """Files of each format in the variants that people have."""

    def save(image, **options):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        return buffer.getvalue()

    rgb = picture.resize((61, 47))
    grey, rgba, palette = rgb.convert("L"), rgb.convert("RGBA"), rgb.quantize(64)
    rgba.putalpha(grey)
    return {
        "jpeg": [
            save(rgb, format="JPEG", quality=90),
            save(rgb, format="JPEG", quality=75, progressive=True),
            save(rgb, format="JPEG", subsampling=0, restart_marker_blocks=4),
            save(grey, format="JPEG"),
            save(rgb.convert("CMYK"), format="JPEG"),
        ],
        "png": [
            save(rgb, format="PNG"),
            save(rgba, format="PNG"),
            save(palette, format="PNG"),
            save(grey.convert("1"), format="PNG"),
        ],
        "tiff": [
            save(rgb, format="TIFF"),
            save(rgb, format="TIFF", compression="tiff_lzw"),
            save(rgba, format="TIFF", compression="tiff_adobe_deflate"),
            save(grey, format="TIFF", compression="packbits"),
        ],
        "webp": [
            save(rgb, format="WEBP", quality=80),
            save(rgb, format="WEBP", lossless=True),
            save(rgba, format="WEBP", quality=80),
        ],
        "gif": [
            save(palette, format="GIF"),
            save(palette, format="GIF", save_all=True, append_images=[rgb.quantize(8)]),
            save(grey, format="GIF", interlace=False),
        ],
        "bmp": [
            save(rgb, format="BMP"),
            save(grey, format="BMP"),
            save(palette, format="BMP"),
            save(rgba, format="BMP"),
        ],
    }


def mutate(data, rng):
    data = bytearray(data)
    kind = rng.choice(["byte", "byte", "bit", "bit", "cut", "drop", "double", "zero", "noise", "tail"])
    at = rng.randrange(len(data))
    length = rng.choice([1, 2, 4, 16, 64, 256])
    if kind == "byte":
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == "bit":
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "drop":
        del data[at : at + length]
    elif kind == "double":
        data[at:at] = data[at : at + length]
    elif kind == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "noise":
        data[at : at + length] = rng.randbytes(len(data[at : at + length]))
    else:
        data += rng.randbytes(length)
    return bytes(data)


def with_pil(data):
    """Size and samples, or why not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = PIL.Image.open(io.BytesIO(data))
            image.load()
            image = PIL.ImageOps.exif_transpose(image).convert("RGB")
            return image.size, image.tobytes()
        except Exception as error:  # every decoder raises its own
            return None, f"{type(error).__name__}: {error}"


class Decoder:
    def __init__(self, program):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen([program], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)

    def read(self, path):
        self.process.stdin.write(f"{path}\n".encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline().decode(errors="replace")
        if not line:
            raise SystemExit(f"the decoder died of {path}")
        verdict, rest = line.rstrip("\n").split(" ", 1)
        if verdict == "no":
            return None, rest.split(": ", 2)[-1]
        width, height = map(int, rest.split())
        return (width, height), self.process.stdout.read(width * height * 3)


def general(reason):
    """A reason without its numbers, so that equal ones are counted together."""
    return re.sub(r"\d+|0x[0-9a-fA-F]+", "N", reason)[:110]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("program")
    parser.add_argument("--picture", default="tests/scenes/shapes.png")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--formats", default="jpeg,png,tiff,webp,gif,bmp")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the files that are read differently")
    args = parser.parse_args()
    decoder = Decoder(args.program)
    files = seeds(PIL.Image.open(args.picture).convert("RGB"))
    folder = tempfile.TemporaryDirectory()
    path = pathlib.Path(folder.name) / "picture"
    for name in args.formats.split(","):
        rng = random.Random(f"{args.seed} {name}")
        counts, reasons = collections.Counter(), collections.Counter()
        for number in range(args.count):
            data = mutate(rng.choice(files[name]), rng)
            path.write_bytes(data)
            (size, ours), (pil_size, theirs) = decoder.read(path), with_pil(data)
            if size is None and pil_size is None:
                verdict, reason = "both refuse", None
            elif size is None:
                verdict, reason = "only PIL reads", general(ours)
            elif pil_size is None:
                verdict, reason = "only we read", general(theirs)
            elif size != pil_size:
                verdict, reason = "other size", f"{size} and {pil_size}"
            else:
                worst = max(abs(a - b) for a, b in zip(ours, theirs))
                is_close = worst <= TOLERANCE.get(name, 0)
                verdict, reason = ("alike", None) if is_close else ("other pixels", f"up to {worst // 32 * 32}+")
            counts[verdict] += 1
            if reason:
                reasons[verdict, reason] += 1
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    kept = verdict.replace(" ", "-")
                    (args.keep / f"{name}-{kept}-{number}.{name}").write_bytes(data)
        print(name, dict(counts))
        for (verdict, reason), count in reasons.most_common():
            print(f"    {count:5} {verdict}: {reason}")


if __name__ == "__main__":
    main()
