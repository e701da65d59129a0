#!/usr/bin/env python3
"""Results of `sam3 bench --json` (files of one or of a list) as one Markdown table, a model a row.

    table.py tools/bench/results/*.json
"""

import json
import sys
from pathlib import Path

COLUMNS = {
    "image": ["encode_image"],
    "a text": ["encode_text", "fusion", "decoder", "masks", "postprocess"],
    "all": ["total"],
    "a click": ["click"],
    "64 clicks": ["clicks_64"],
}


def seconds(stages, names):
    """Sum of the medians, or nothing where the model has no such stage."""
    found = [stages[name] for name in names if name in stages]
    return f"{sum(found) / 1e3:#.3g}" if found else ""


def row(report):
    stages = {stage["name"]: stage["median_ms"] for stage in report["stages"]}
    cells = [report["model"], *(seconds(stages, names) for names in COLUMNS.values())]
    return "| " + " | ".join([*cells, f"{report['peak_host_bytes'] / 1e9:.2f}"]) + " |"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    results = [json.loads(Path(name).read_text()) for name in sys.argv[1:]]
    reports = [report for result in results for report in (result if isinstance(result, list) else [result])]
    print("| model | " + " | ".join(COLUMNS) + " | GB |\n|---|" + "---:|" * (len(COLUMNS) + 1))
    print("\n".join(map(row, reports)))


if __name__ == "__main__":
    main()
