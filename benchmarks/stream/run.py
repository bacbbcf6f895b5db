"""Runs a benchmark of streams by name."""

from __future__ import annotations

from pathlib import Path

from benchmarks.interleaved_runs import Figures, require_known
from benchmarks.peer import versions
from benchmarks.stream import latency, nexmark, throughput
from benchmarks.stream.jobs import HEADWATER, HOMES


def run(question: str, scale: float, runs: int, folder: Path, chosen: tuple[list[str], list[str]]) -> Figures:
    """Run a benchmark and print its result; `chosen` are the cases and the contestants (empty: all)."""
    only, who = chosen
    require_known(who, (HEADWATER, *HOMES) if question == "peers" else (HEADWATER,))
    if question == "nexmark":
        figures = nexmark.measured(scale, folder, only)
        nexmark.show(figures)
        return figures
    if question == "latency":
        figures = latency.measured(scale, folder, only)
        latency.show(figures)
        return figures
    if question == "throughput":
        figures = throughput.measured(scale, runs, folder, ())
        throughput.show(figures)
        return figures
    peers = [name for name in HOMES if name in who or not who]
    figures = throughput.measured(scale, runs, folder, who, peers)
    throughput.show(figures)
    late = latency.measured(scale, folder, [str(latency.PEER_RATE)], peers)
    latency.show(late)
    homes = {home: versions(home) for home in sorted(set(HOMES.values()))}
    return {**figures, "latency": late, "latency_ms": late["latency_ms"], "stream_versions": homes}


def failures(question: str, figures: Figures) -> list[str]:
    """Return the jobs that Headwater could not do."""
    if question == "nexmark":
        return [f"{name}: {case['skipped']}" for name, case in figures["queries"].items() if "skipped" in case]
    reasons = [
        f"{rate} events/s, {kind}: {result['skipped']}"
        for rate, kinds in figures.get("latency_ms", {}).items()
        for kind, result in kinds.items()
        if "skipped" in result and not result["skipped"].startswith("not available:")
    ]
    cases = figures.get("cases", {})
    return reasons + [
        f"{case} {who}: {result['skipped']}"
        for case, of in cases.items()
        for who, result in of["ours"].items()
        if "skipped" in result
    ]
