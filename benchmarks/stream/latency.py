"""Latency from the creation of an event to its committed row, to the state that it changed, and to its features online.

Events are produced at a constant rate and contain their creation time. The latency of a row ends when the table's log
names its file; the latency of the state ends when a polling reader sees the event in its window, and that of features when it
reads them from the online store (up to 10,000 events per second, each of them another entity). All times are from the
clock of one machine. Events of the first seconds, while engines warm up, are excluded.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.interleaved_runs import Figures, UnableError
from benchmarks.kafka import Cluster
from benchmarks.peer import Script, interpreter, require
from benchmarks.project import Project, written
from benchmarks.stream import landed, online_probe, state_probe
from benchmarks.stream.events import PARTITIONS, Events
from benchmarks.stream.follow import followed
from benchmarks.stream.jobs import FORMS, HEADWATER, HOMES, ROWS, source
from benchmarks.stream.landed import Latency
from benchmarks.stream.load import loaded, loading
from benchmarks.stream.rig import broker

RATES = (1_000, 10_000, 50_000)
PEER_RATE = 10_000
SECONDS, WARM_S = 60, 10
LAND_S, END_S = 120, 30
LOOKED = re.compile(r"(\d+) (\d+) (\d+)")
UNTOLD = {"bytewax": "its readers see uncommitted rows, so the latency to a committed row cannot be measured"}


def measured(scale: float, folder: Path, only: Sequence[str] = (), peers: Sequence[str] = ()) -> Figures:
    """Return Headwater's latencies at each rate, or the given rates, and the peers' at 10,000 events per second."""
    seconds = max(3, round(SECONDS * scale))
    results: dict[str, Figures] = {}
    theirs: dict[str, Figures] = {}
    with broker(folder) as cluster:
        for rate in RATES:
            if str(rate) in only or not only:
                load = _Load(cluster, f"rows-{rate}", rate, seconds)
                states = _Load(cluster, f"states-{rate}", rate, seconds)
                results[str(rate)] = {
                    "row": _told(partial(_ours, load, folder)),
                    "state": _told(partial(_state, states, folder)),
                }
                if rate <= PEER_RATE:
                    load = _Load(cluster, f"online-{rate}", rate, seconds)
                    results[str(rate)]["online"] = _told(partial(_online, load, folder))
        for name in peers:
            load = _Load(cluster, f"{name}-rows", PEER_RATE, seconds)
            theirs[name] = {str(PEER_RATE): {"row": _told(partial(_theirs, name, load, folder))}}
    rows = results.get(str(PEER_RATE), {}).get("row", {})
    ratios = {
        name: rows["p99"] / figures[str(PEER_RATE)]["row"]["p99"]
        for name, figures in theirs.items()
        if "p99" in rows and "p99" in figures[str(PEER_RATE)]["row"]
    }
    return {"seconds": seconds, "latency_ms": results, "peers": theirs, "ratios": ratios}


class _Load:
    """Events that are sent to a topic at a rate: first the warm-up, then the measured events."""

    def __init__(self, cluster: Cluster, topic: str, rate: int, seconds: int) -> None:
        self.brokers, self.topic, self.rate = cluster.bootstrap, topic, rate
        warm = Events(rate * min(WARM_S, seconds))
        self.warm, self.counted = warm, replace(warm, first=warm.count, count=rate * seconds)
        cluster.create_topic(topic, PARTITIONS)

    def run(self, process: subprocess.Popen[bytes], landed_rows: Callable[[], int]) -> None:
        """Send the warm-up events, wait until they have arrived, then send the measured events and wait for them.

        Raises `UnableError` if the machine did not keep the rate, or if the process ends or does not keep up.
        """
        loaded(loading(self.brokers, self.topic, self.warm, self.rate))
        _wait(process, lambda: landed_rows() >= self.warm.count)
        load = loaded(loading(self.brokers, self.topic, self.counted, self.rate))
        _wait(process, lambda: landed_rows() >= self.warm.count + self.counted.count)
        if load.seconds > 1.1 * self.counted.count / self.rate + 1:
            raise UnableError(f"the load itself took {load.seconds:.1f} s")


def _ours(load: _Load, folder: Path) -> Latency:
    project = Project(
        written(folder / f"project-{load.topic}", source(load.brokers, load.topic) + f"rows = sql({ROWS!r})\n")
    )
    table = project.table("rows")
    with _running(project.streaming("rows"), project.folder) as process:
        load.run(process, lambda: sum(commit.rows for commit in landed.commits(table)))
    return landed.latency(table, "delta", load.counted.first, load.counted.count)


def _theirs(name: str, load: _Load, folder: Path) -> Latency:
    if name in UNTOLD:
        raise UnableError(UNTOLD[name])
    place = folder / f"{name}-{load.topic}"
    place.mkdir()
    script = Script(name, "rows", [load.brokers, load.topic], lambda _: [], home=HOMES[name])
    require(script)
    command, environ = script.command(place, interpreter(script.home)), script.environ(place)
    if FORMS[name] == "json":
        with _running(command, place, environ) as process, followed(load.brokers, load.topic) as follower:
            load.run(process, lambda: follower.count)
            return follower.latency(load.counted.first, load.counted.count)
    with _running(command, place, environ) as process:
        load.run(process, lambda: landed.rows(place / "made", FORMS[name]))
    return landed.latency(place / "made", FORMS[name], load.counted.first, load.counted.count)


def _state(load: _Load, folder: Path) -> Latency:
    """Return the latencies from creation to state; the process that runs the stream polls the state."""
    definitions = source(load.brokers, load.topic) + f"{state_probe.NAME} = sql({state_probe.STATEMENT!r})\n"
    project = Project(written(folder / f"project-state-{load.topic}", definitions))
    with _probed("state_probe", project.folder, project.folder) as (process, looks):
        load.run(process, lambda: max((count for _, _, count in looks()), default=0))
        return _seen(looks(), load.warm.count)


def _online(load: _Load, folder: Path) -> Latency:
    """Return the latencies from creation to features; another process than that of the stream reads them."""
    definitions = source(load.brokers, load.topic) + online_probe.DEFINITION
    project = Project(written(folder / f"project-{load.topic}", definitions))
    place = folder / f"probe-{load.topic}"
    place.mkdir()
    with (
        _running(project.streaming(online_probe.NAME), project.folder) as process,
        _probed("online_probe", project.folder, place) as (_, looks),
    ):
        load.run(process, lambda: max((count for _, _, count in looks()), default=0))
        return _seen(looks(), load.warm.count)


@contextmanager
def _probed(
    module: str, project: Path, place: Path
) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], list[tuple[int, int, int]]]]]:
    """Run a probe of a project; give its process, and what returns the lines that it has printed."""
    log = place / "said.txt"
    command = [sys.executable, "-m", f"benchmarks.stream.{module}", str(project)]

    def looks() -> list[tuple[int, int, int]]:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        matches = (LOOKED.fullmatch(line) for line in lines)
        return [(int(match[1]), int(match[2]), int(match[3])) for match in matches if match is not None]

    with _running(command, place, {"PYTHONPATH": str(Path(__file__).parents[2])}) as process:
        yield process, looks


def _seen(looks: Sequence[tuple[int, int, int]], warm: int) -> Latency:
    """Return the latencies of the events between polls; they were created in order at a constant rate."""
    delays: list[float] = []
    for (_, last, count), (clock, now_last, now_count) in itertools.pairwise(looks):
        if count >= warm:
            step = (now_last - last) / (now_count - count)
            delays += [(clock - last - step * (n + 1)) / 1000 for n in range(now_count - count)]
    if not delays:
        raise UnableError("no state was seen")
    delays.sort()
    return Latency(delays[len(delays) // 2], delays[int(len(delays) * 0.99)], delays[-1], len(delays))


def _told(measure: Callable[[], Latency]) -> Figures:
    try:
        return measure().as_figures()
    except UnableError as error:
        return {"skipped": str(error)}


@contextmanager
def _running(
    command: Sequence[str], folder: Path, environ: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in its own process group; stop it with SIGINT, and kill it if that fails."""
    with (folder / "said.txt").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "RAY_ADDRESS": "", **(environ or {})},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                continue
    process.wait()


def _wait(process: subprocess.Popen[bytes], is_done: Callable[[], bool]) -> None:
    until = time.monotonic() + LAND_S
    while not is_done():
        if process.poll() is not None:
            raise UnableError(f"exited with {process.returncode} before all rows arrived")
        if time.monotonic() > until:
            raise UnableError(f"not all rows arrived within {LAND_S} s after the last event")
        time.sleep(0.5)


def show(figures: Figures) -> None:
    """Print the latencies."""
    print(f"{'':16} {'events/s':>9} {'':6} {'p50 ms':>9} {'p99 ms':>9} {'max ms':>9}")
    everyone = {HEADWATER: figures["latency_ms"], **figures["peers"]}
    for who, rates in everyone.items():
        for rate, kinds in rates.items():
            for kind, result in kinds.items():
                words = (
                    f"skipped: {result['skipped'][:90]}"
                    if "skipped" in result
                    else f"{result['p50']:9.0f} {result['p99']:9.0f} {result['max']:9.0f}"
                )
                print(f"{who:16} {int(rate):9,} {kind:6} {words}")
