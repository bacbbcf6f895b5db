"""Speed-up with the number of nodes, and the number of cores needed for terabytes per day.

The job of `etl` on 1, 2 and 4 Ray nodes on this machine. All processes of a node together get the same share of the
machine's CPU (a control group): a core, or less if there are too few cores for four nodes and the command, which runs
outside the shares. Without overhead, four nodes are therefore four times as fast as one. Computed from the largest
number of nodes that ran:

    MB/s per core = bytes of CSV / 1e6 / seconds / cores
    cores         = terabytes a day * 1e6 / (window in seconds * MB/s per core), rounded up

so the overhead between nodes is included. Not included are networks and object stores (all nodes share one disk here),
and queues before and after the window. Core hours per day = cores * hours of the window.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks import data
from benchmarks.etl import expected, job
from benchmarks.interleaved_runs import Case, Figures
from benchmarks.project import on_ray

NODES = (1, 2, 4)
FOR_NODES = 0.8
"""The part of the machine's cores that all nodes share; the rest is for the command."""
TERABYTES = (1, 5)
WINDOW_H = 4


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the job on each number of nodes (1, 2, 4), or only the given ones."""
    lines = data.lineitem_csv(scale)
    right, share = expected(lines), min(1, FOR_NODES * (os.cpu_count() or 1) / max(NODES))
    for count in NODES:
        if only and str(count) not in only:
            continue
        facts = {"nodes": count, "cores": count * share, "bytes_in": data.size_bytes(lines)}
        yield Case(f"{count} node{'s' * (count > 1)}", right, [on_ray(partial(job, lines), count, 1, share)], facts)


def conclude(figures: Figures) -> Figures:
    """Return the figures with the speed-up and the cores needed for terabytes per day."""
    completed = [case for case in figures.get("cases", {"": figures}).values() if "ray" in case["medians"]]
    if not completed:
        return figures
    first, last = completed[0], completed[-1]
    speed = last["bytes_in"] / 1e6 / last["medians"]["ray"] / last["cores"]
    needs = {}
    for terabytes in TERABYTES:
        cores = math.ceil(terabytes * 1e6 / (WINDOW_H * 3600 * speed))
        needs[f"{terabytes} TB a day"] = {"cores": cores, "core_hours_a_day": cores * WINDOW_H}
    speed_up = {"cores": last["cores"] / first["cores"], "times": first["medians"]["ray"] / last["medians"]["ray"]}
    model = {"mb_s_per_core": speed, "measured_on_cores": last["cores"], "window_h": WINDOW_H, "needs": needs}
    return {**figures, "speed_up": speed_up, "cost_model": model}


def show(figures: Figures) -> None:
    """Print the speed-up and the needed cores."""
    if "cost_model" in figures:
        speed_up, model = figures["speed_up"], figures["cost_model"]
        print(f"{speed_up['cores']:g} times the cores: {speed_up['times']:.2f} times as fast")
        print(f"{model['mb_s_per_core']:.1f} MB/s per core, on {model['measured_on_cores']:g} cores")
        for amount, need in model["needs"].items():
            print(
                f"{amount} in {model['window_h']} hours: {need['cores']} cores, {need['core_hours_a_day']} core hours"
            )
