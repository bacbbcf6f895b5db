"""Time and memory of the demo, for the first run and for a second run without new data.

The demo is what `make demo` runs once Headwater is installed: files to endpoints, including Ray's start. Targets on
2 cores: under 60 s for the first run, under 20 s for the second, under 3 GB.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Measured, machine, measure, versions

ROOT = Path(__file__).parents[1]
COMMANDS = (
    ("run", "--no-summary"),
    ("query", "from flight_totals", "select airline, flights from busiest_airlines order by flights desc limit 4"),
    ("serve", "--check", "--port", "8422"),
    ("show",),
)
AIMS = {"first": {"seconds": 60.0, "peak_bytes": 3e9}, "second": {"seconds": 20.0, "peak_bytes": 3e9}}


def run(runs: int) -> dict[str, object]:
    """Run the demo twice in a new folder, and repeat this `runs` times."""
    first, second = [], []
    for _ in range(runs):
        with tempfile.TemporaryDirectory(prefix="headwater-demo-") as folder:
            project = Path(folder) / "flights"
            shutil.copytree(ROOT / "examples" / "flights", project, ignore=shutil.ignore_patterns(".headwater"))
            first.append(_demo(project))
            second.append(_demo(project))
    return {
        "machine": machine(),
        "versions": versions(),
        "runs": runs,
        "aims": AIMS,
        "ours": {"first": _medians(first), "second": _medians(second)},
    }


def show(figures: dict[str, object]) -> None:
    """Print the medians next to the targets."""
    ours = figures["ours"]
    if not isinstance(ours, dict):
        raise TypeError(type(ours).__name__)
    print(f"{'demo':8} {'seconds':>8} {'target':>6} {'peak GB':>8} {'target':>6}   by command")
    for name, result in ours.items():
        aim = AIMS[name]
        parts = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in result["parts"].items())
        peak, most = result["peak_bytes"] / 1e9, aim["peak_bytes"] / 1e9
        print(f"{name:8} {result['seconds']:8.1f} {aim['seconds']:6.0f} {peak:8.2f} {most:6.1f}   {parts}")


def _demo(project: Path) -> dict[str, Measured]:
    headwater = str(Path(sys.executable).parent / "headwater")
    measured = {}
    for number, command in enumerate(COMMANDS, start=1):
        result = measure([headwater, *command], project)
        if result.code:
            raise SystemExit(
                f"headwater {' '.join(command)} exited with {result.code}:\n{result.output}{result.errors}"
            )
        measured[f"{number} {command[0]}"] = result
    return measured


def _medians(demos: list[dict[str, Measured]]) -> dict[str, object]:
    return {
        "seconds": statistics.median(sum(m.seconds for m in demo.values()) for demo in demos),
        "peak_bytes": statistics.median(max(m.peak_bytes for m in demo.values()) for demo in demos),
        "parts": {part: statistics.median(demo[part].seconds for demo in demos) for part in demos[0]},
    }
