"""Run a benchmark by its name: a table for people, and one JSON object for machines."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

NAMES = ("demo",)


def main() -> None:
    """Run the named benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--runs", type=int, default=3, help="how often; medians are shown")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    module = importlib.import_module(f"benchmarks.{chosen.name}")
    figures = module.run(chosen.runs)
    module.show(figures)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
