"""Throughput from Kafka to windows that are committed exactly once.

The same job runs with a backlog and with half of it. The sustained rate is computed from the difference in time, so
start-up and shutdown are excluded. For Headwater, the rate between the first and the last commit is also reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.interleaved_runs import Case, Figures, run
from benchmarks.kafka import Cluster
from benchmarks.stream.events import Events
from benchmarks.stream.jobs import GUARANTEES, HEADWATER, expected, ours, theirs
from benchmarks.stream.rig import backlog, broker

EVENTS = 10_000_000
SLOW = {"quix": 0.03, "bytewax": 0.03}
"""Peers that process rows in Python get a smaller backlog; the time per event is compared."""


def measured(scale: float, runs: int, folder: Path, who: Sequence[str], peers: Sequence[str] = ()) -> Figures:
    """Run all contestants with both backlogs; return the figures with rates."""
    with broker(folder) as cluster:
        results = run(_cases(cluster, max(1000, round(EVENTS * scale)), peers), runs, folder, who)
    return concluded(results)


def _cases(cluster: Cluster, count: int, peers: Sequence[str]) -> Iterator[Case]:
    groups = {1.0: [p for p in peers if p not in SLOW]}
    for name in peers:
        if name in SLOW:
            groups.setdefault(SLOW[name], []).append(name)
    for share, names in groups.items():
        for part in ("half", "whole"):
            events = Events(max(500, round(count * share / (2 if part == "half" else 1))))
            topic = f"{part}-{share:g}"
            loaded = backlog(cluster, topic, events)
            contestants = [ours(cluster.bootstrap, topic)] if share == 1.0 else []
            contestants += [theirs(name, cluster.bootstrap, topic) for name in names]
            facts = {"events": loaded.events, "bytes_in": loaded.bytes, "loaded_s": loaded.seconds}
            yield Case(topic, expected(events), contestants, facts)


def concluded(figures: Figures) -> Figures:
    """Return figures with `events_per_s` and `bytes_per_s` of each, and our time per event divided by each peer's."""
    cases = figures["cases"]
    rates, sizes, notes = {}, {}, {}
    for half, full in zip(list(cases.values())[::2], list(cases.values())[1::2], strict=True):
        for who in full["medians"].keys() & half["medians"].keys():
            seconds = full["medians"][who] - half["medians"][who]
            if seconds <= 0:
                notes[who] = "half of the backlog took as long: too few events to measure a rate"
                continue
            rates[who] = (full["events"] - half["events"]) / seconds
            sizes[who] = (full["bytes_in"] - half["bytes_in"]) / seconds
    ratios = {who: rate / rates[HEADWATER] for who, rate in rates.items() if who != HEADWATER and HEADWATER in rates}
    return {
        "cases": cases,
        "medians": figures["medians"],
        "ours": figures["ours"],
        "peers": figures["peers"],
        "events_per_s": rates,
        "bytes_per_s": sizes,
        "between_commits_per_s": _between(cases),
        "ratios": ratios,
        "guarantees": {who: GUARANTEES[who] for who in {**figures["ours"], **figures["peers"]}},
        "notes": notes,
    }


def _between(cases: Figures) -> float | None:
    """Return Headwater's events per second between the first and the last commit of the full backlog."""
    parts = cases.get("whole-1", {}).get("ours", {}).get(HEADWATER, {}).get("parts", {})
    return parts["between_events"] / parts["between_s"] if parts.get("between_s") else None


def show(figures: Figures) -> None:
    """Print the rates."""
    print(f"{'':16} {'events/s':>10} {'MB/s':>8} {'ours/it':>8}")
    for who, rate in figures["events_per_s"].items():
        ratio = figures["ratios"].get(who)
        print(
            f"{who:16} {rate:10,.0f} {figures['bytes_per_s'][who] / 1e6:8.1f} {'' if ratio is None else f'{ratio:8.2f}'}"
            f"  {figures['guarantees'][who]}"
        )
    if figures["between_commits_per_s"]:
        print(f"ours between the first and the last commit: {figures['between_commits_per_s']:,.0f} events/s")
    for who, note in figures["notes"].items():
        print(f"{who}: {note}")
