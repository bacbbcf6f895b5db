"""A project with streams of computed rows: sensor readings, hot readings, and aggregates by minute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.job import StreamJob, StreamJobOptions
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from tests.rigs.conservation import conservation as conservation  # noqa: PLC0414 - the fixture

TOML = """\
[project]
name = "plant"
definitions = "plant.py"
"""
PLANT = '''\
from pipeline import generate, quarantine, source, sql

readings = source(
    generate(
        {
            "at": "timestamp '2024-01-01' + to_microseconds(i * 100000)",
            "sensor": "'s' || (i % 7)",
            "degrees": "(i * 13) % 100",
        },
        partitions=2,
        count=COUNT,
        per_second=SPEED,
    ),
    schema={"at": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="at",
    lateness="5 seconds",
)
hot = sql(
    "select at, sensor, degrees from readings where degrees > 80",
    expect=[quarantine("is_possible", "degrees < 99")],
)
by_minute = sql(
    """
    select tumble(at, interval '1 minute') as minute, sensor, count(*) as readings, avg(degrees) as mean
    from readings group by all
    """,
    key=("minute", "sensor"),
)
'''
FAST = StreamOptions(intervals=Intervals(batch_s=0.02, commit_s=0.05, idle_commit_s=0.1), shards=2)


def write(folder: Path, *, count: int | None = 4000, speed: float | None = None, text: str = PLANT) -> Path:
    """Write the project: `count` readings in each of two partitions, immediately or `speed` per second."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "headwater.toml").write_text(TOML)
    (folder / "plant.py").write_text(text.replace("COUNT", str(count)).replace("SPEED", str(speed)))
    return folder


@pytest.fixture
def plant(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the project and returns its folder. Another call changes the project."""

    def written(**how) -> Path:
        return write(tmp_path / "plant", **how)

    return written


def opened(folder: Path) -> Workspace:
    """Return the workspace of the project."""
    return Workspace(load(folder))


def start(folder: Path, *names: str, **wanted) -> StreamJob:
    """Return a job for streams of the project with short intervals."""
    stream_options = replace(FAST, **wanted.pop("stream_options", {}))
    heard = {name: wanted.pop(name) for name in ("on_step", "on_restart") if name in wanted}
    return StreamJob(opened(folder), StreamJobOptions(names, stream_options=stream_options, **wanted), **heard)


@dataclass
class AtWork:
    """The outcome of streams that run in the background of a test."""

    error: BaseException | None = None
    """The error that they raised, if any."""


@contextmanager
def alive(running: StreamJob, *, fails: bool = False) -> Iterator[AtWork]:
    """Run streams in the background and stop them at the end; raise their error unless `fails` is set."""
    at_work = AtWork()

    def work() -> None:
        try:
            running.run(every_s=0.02)
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's thread
            at_work.error = error

    thread = Thread(target=work)
    thread.start()
    try:
        yield at_work
    finally:
        running.stop()
        thread.join()
    if at_work.error is not None and not fails:
        raise at_work.error


def rows_of(folder: Path, name: str, columns: str = "*") -> list[tuple[object, ...]]:
    """Return the sorted rows of a table."""
    rows = opened(folder).query(f'select {columns} from "{name}" order by all').to_pylist()
    return [tuple(row.values()) for row in rows]


@pytest.fixture
def streams():
    """The functions of this file as attributes."""

    class Streams:
        opened = staticmethod(opened)
        start = staticmethod(start)
        alive = staticmethod(alive)
        rows = staticmethod(rows_of)

    return Streams
