"""What queries read is noted cheaply and within bounds, and the folders that they read most are compacted first."""

from __future__ import annotations

import datetime as dt
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.kernel.scan import DataFile
from pipeline.lake import CompactionOptions, compact
from pipeline.lake.read_notes import MOST_BYTES, MOST_FOLDERS, ReadNotes
from tests.rigs.proofs import examples

TABLE = "lake/silver/orders"
NOW = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)


def files(*folders: str) -> list[DataFile]:
    return [
        DataFile(f"{TABLE}/{folder}/part-{n}.parquet".replace("//", "/"), 1, 1) for folder in folders for n in (0, 1)
    ]


def test_notes_of_several_processes_are_counted_together(tmp_path):
    """Each query counts once for a folder, however many files of it are opened; other tables do not count."""
    notes = [ReadNotes(tmp_path / "reads", lambda: NOW) for _ in range(4)]

    def read(each: ReadNotes) -> None:
        for number in range(25):
            each.note(TABLE, files("day=1", f"day={number}"))
            each.note("lake/silver/other", files("day=1"))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, notes))
    counts = notes[0].counts(TABLE)
    assert (counts.queries, counts.folders["day=1"], counts.folders["day=7"]) == (100, 100, 4)
    assert counts.hot() == ("day=1",)


def test_queries_that_prefer_nothing_and_broken_lines_are_left_out(tmp_path):
    notes = ReadNotes(tmp_path / "reads", lambda: NOW)
    notes.note(TABLE, [])
    notes.note(TABLE, files(*(f"day={n}" for n in range(MOST_FOLDERS + 1))))
    assert not (tmp_path / "reads").exists()
    notes.note(TABLE, files("Ü b=%3D"))
    [path] = (tmp_path / "reads").iterdir()
    path.write_bytes(path.read_bytes() + b'[]\n{"table": 1}\n{"ta\xff')
    assert notes.counts(TABLE).folders == {"Ü b=%3D": 1}
    path.write_bytes(b" " * MOST_BYTES)
    notes.note(TABLE, files("day=1"))
    assert path.stat().st_size == MOST_BYTES


def test_notes_of_earlier_weeks_count_half_and_are_removed(tmp_path):
    weeks = 0
    notes = ReadNotes(tmp_path / "reads", lambda: NOW + dt.timedelta(weeks=weeks))
    for weeks in range(6):
        notes.note(TABLE, files(f"week={weeks}"))
    assert notes.counts(TABLE).folders == {"week=5": 1, "week=4": 0.5, "week=3": 0.25, "week=2": 0.125}
    assert len(list((tmp_path / "reads").iterdir())) == 4
    weeks = 40
    assert notes.counts(TABLE).queries == 0


def test_without_permission_nothing_is_noted(tmp_path):
    (tmp_path / "reads").write_text("a file")
    notes = ReadNotes(tmp_path / "reads")
    notes.note(TABLE, files("day=1"))
    assert notes.counts(TABLE).folders == {}


@pytest.fixture
def partitioned(writer):
    w = writer(partition_by=("p",))
    for n in range(3):
        select = f"select i as a, 'p' || (i % 3) as p from range({n * 6}, {n * 6 + 6}) r(i)"
        w.write(select, f"r{n}", "append", w.table.version() if n else None)
    return w.table


def folders_of(table) -> dict[str, int]:
    names = [file.uri.removeprefix(f"{table.storage.uri}/").rpartition("/")[0] for file in table.version().files]
    return {name: names.count(name) for name in sorted(set(names))}


def test_hot_folders_are_compacted_from_two_files_on(partitioned):
    assert compact(partitioned, partitioned.head()) is None
    compacted = compact(partitioned, partitioned.head(), CompactionOptions(hot=("p=p2", "p=none")))
    assert (compacted.before, compacted.after, compacted.folders) == (3, 1, ("p=p2",))
    assert folders_of(partitioned) == {"p=p0": 3, "p=p1": 3, "p=p2": 1}


@pytest.mark.parametrize("seed", range(examples(2, 20)))
def test_hot_folders_are_rewritten_first_whatever_the_budget(partitioned, seed):
    dice = random.Random(seed)  # noqa: S311 - not for security
    hot = dice.sample(["p=p0", "p=p1", "p=p2"], dice.randrange(1, 4))
    how = CompactionOptions(1, ("a",), 1 if seed % 2 else 1 << 30, hot=tuple(hot))
    compacted = compact(partitioned, partitioned.head(), how)
    assert compacted.folders[: len(hot)] == tuple(hot)[: len(compacted.folders)]
    assert partitioned.version().rows == 18
