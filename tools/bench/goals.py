#!/usr/bin/env python3
"""The results in a folder of `gpu_check.sh` as one file of tools/bench/results, and a table of them against
the goals.

    goals.py target/gpu_check

The goals are those of an H200 in bf16, in milliseconds. Figures of another device or number format stand
beside them without a verdict.
"""

import json
import re
import sys
from pathlib import Path

TEXT = ["encode_text", "fusion", "decoder", "masks", "postprocess"]
GOALS = [
    ("SAM 3: image + text", "bench-sam3", ["encode_image", *TEXT], 12.0),
    ("SAM 3: further text", "bench-sam3", TEXT, 4.0),
    ("SAM 3: click", "bench-sam3", ["click"], 1.0),
    ("EfficientSAM3 RepViT: image + text", "bench-efficientsam3-rv-m", ["encode_image", *TEXT], 8.0),
]


def milliseconds(report, names):
    stages = {stage["name"]: stage["median_ms"] for stage in report["stages"]}
    return sum(stages[name] for name in names if name in stages)


def goal_rows(reports):
    for title, name, stages, limit in GOALS:
        report = reports.get(name)
        if report is None:
            yield f"| {title} | {limit:g} | not measured | |"
            continue
        ms = milliseconds(report, stages)
        device = report["machine"]["device"]
        if "H200" not in device or report["dtype"] != "bf16":
            verdict = f"{device}, {report['dtype']}"
        else:
            verdict = "reached" if ms <= limit else f"{ms / limit:.2f} times the goal"
        yield f"| {title} | {limit:g} | {ms:.2f} | {verdict} |"


def bench_rows(reports):
    for name, report in sorted(reports.items()):
        if not name.startswith(("bench-", "peer-")):
            continue
        cells = [milliseconds(report, names) for names in (["encode_image"], TEXT, ["click"], ["total"])]
        cells = [f"{ms:.2f}" if ms else "" for ms in cells]
        peak = report.get("peak_device_bytes") or report.get("peak_host_bytes") or 0
        kind = "device" if report.get("peak_device_bytes") else "host"
        yield "| " + " | ".join([name, report["dtype"], *cells, f"{peak / 1e9:.2f} {kind}"]) + " |"


def parity_rows(reports):
    for name, report in sorted(reports.items()):
        parity = report.get("parity")
        if parity:
            worst = max(parity["stages"], key=lambda stage: stage["relative"])
            yield f"| {name} | {worst['name']} | {worst['relative']:.1e} | {worst['cosine']:.6f} |"


def table(head, rows):
    rows = list(rows)
    if rows:
        print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
        print("\n".join(rows))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    if not reports:
        sys.exit(f"no results in {folder}")
    table(["parity with f32 on the CPU", "worst stage", "relative", "cosine"], parity_rows(reports))
    table(["milliseconds", "dtype", "image", "a text", "a click", "all", "peak GB"], bench_rows(reports))
    table(["goal (H200, bf16)", "at most ms", "measured ms", ""], goal_rows(reports))
    device = next(iter(reports.values()))["machine"]["device"]
    if device == "CPU":
        print("\na dry run: nothing is kept")
        return
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    file = Path(__file__).parent / "results" / f"{name}.json"
    file.write_text(json.dumps(list(reports.values()), indent=1))
    print(f"\n{len(reports)} results in {file}")


if __name__ == "__main__":
    main()
