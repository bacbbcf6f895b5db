"""Run a benchmark by name; prints a table, and optionally writes a JSON object."""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from pathlib import Path

from benchmarks import data, demo, interleaved_runs, peer, scale
from benchmarks.measure import machine, versions
from benchmarks.stream import QUESTIONS

NAMES = (
    "api",
    "demo",
    "drift",
    "etl",
    "features",
    "medallion",
    "tpch",
    "groupby",
    "join",
    "lake",
    "merge",
    "models",
    "online",
    "raydata",
    "scale",
    "serving",
    "sources",
    "stream",
    "warehouse",
)
CONTESTANTS = ("auto", "ray", "call", "open", "full", "mlflow", "bare", "roapi", "datasette", *peer.NAMES)
"""Headwater's execution modes, and its peers."""


def main() -> None:
    """Run the named benchmark; exit with 1 if Headwater could not do a job."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("question", nargs="?", choices=QUESTIONS, help="benchmark of `stream`")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="size of the data, relative to the benchmark's default"
    )
    parser.add_argument("--runs", type=int, default=3, help="number of runs; medians are shown")
    parser.add_argument("--only", action="append", default=[], help="run only this case or query (repeatable)")
    parser.add_argument(
        "--who", action="append", default=[], help="run only this contestant: auto, ray, duckdb, ... (repeatable)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    if (chosen.name == "stream") != (chosen.question is not None):
        parser.error(f"`stream` requires one of {', '.join(QUESTIONS)}; other benchmarks take no second argument")
    if chosen.name == "stream":
        streamed(chosen)
        return
    if chosen.name == "demo":
        interleaved_runs.require_known(chosen.who, ())
        figures = demo.run(chosen.runs)
        demo.show(figures)
    else:
        interleaved_runs.require_known(chosen.who, CONTESTANTS)
        with tempfile.TemporaryDirectory(prefix="run-", dir=data.home()) as folder:
            cases = importlib.import_module(f"benchmarks.{chosen.name}").cases(chosen.scale, chosen.only)
            figures = interleaved_runs.run(cases, chosen.runs, Path(folder), chosen.who)
        figures = {**about(chosen.name, chosen.scale, chosen.runs), **figures}
        interleaved_runs.show(figures)
        if chosen.name == "scale":
            figures = scale.conclude(figures)
            scale.show(figures)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if failed := interleaved_runs.failures(figures):
        raise SystemExit("\n".join(failed))


def streamed(chosen: argparse.Namespace) -> None:
    """Run a benchmark of streams; exit with 1 if Headwater could not do a job."""
    stream = importlib.import_module("benchmarks.stream.run")  # needs Kafka's client, unlike the other benchmarks
    with tempfile.TemporaryDirectory(prefix="run-", dir=data.home()) as folder:
        options = (chosen.only, chosen.who)
        figures = stream.run(chosen.question, chosen.scale, chosen.runs, Path(folder), options)
    figures = {**about(f"stream {chosen.question}", chosen.scale, chosen.runs), **figures}
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if failed := stream.failures(chosen.question, figures):
        raise SystemExit("\n".join(failed))


def about(name: str, size: float, runs: int) -> interleaved_runs.Figures:
    """Return the benchmark, the machine and the versions that the figures belong to."""
    setup = {"ours": versions(), "peers": peer.versions()}
    return {"benchmark": name, "scale": size, "runs": runs, "machine": machine(), "versions": setup}


if __name__ == "__main__":
    main()
