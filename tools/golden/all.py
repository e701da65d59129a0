"""Regenerate every golden file."""

import runpy
from pathlib import Path

for family in ("vision", "text", "students", "geometry", "detector", "operators", "sam"):
    runpy.run_path(str(Path(__file__).with_name(f"{family}.py")), run_name="__main__")
