"""`headwater verify` detects every difference between a table and the batch result."""

from __future__ import annotations

from pathlib import Path

import pytest
from deltalake import DeltaTable, write_deltalake

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.verify import verify

TICKS = """\
from pipeline import generate, source, sql

COLUMNS = {"id": "i", "k": "i % 3", "at": "timestamp '2026-01-01' + to_seconds(i)", "x": "i / 7.0"}
SCHEMA = {"id": "bigint", "k": "bigint", "at": "timestamp", "x": "double"}
ticks = source(generate(COLUMNS, count=40), schema=SCHEMA, event_time="at", stored=False)
rows = sql("select id, k, x from ticks")
twins = sql("select k, k * 1.5 as x from ticks")
sums = sql("select tumble(at, interval '10 seconds') as at, k, sum(x) as x, count(*) as id from ticks group by all")
"""
FAST = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01))


def removed(table: DeltaTable) -> None:
    table.delete("k = 1")


def doubled(table: DeltaTable) -> None:
    rows = table.to_pyarrow_table()
    write_deltalake(table, rows.slice(0, 1), mode="append")


def swapped(table: DeltaTable) -> None:
    """Replace a row by a duplicate of another one, so that the number of rows stays the same."""
    rows = table.to_pyarrow_table().sort_by([("k", "ascending"), ("x", "ascending")])
    table.delete(f"k = 0 and x = {rows['x'][0].as_py()!r}")
    write_deltalake(table, rows.slice(1, 1), mode="append")


def changed(table: DeltaTable) -> None:
    table.update({"x": "x * 1.00001"}, predicate="k = 2")


def rounded(table: DeltaTable) -> None:
    table.update({"x": "x * 1.000000000001"}, predicate="k = 2")


@pytest.fixture(scope="module")
def verified_project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ticks")
    (folder / "headwater.toml").write_text('[project]\nname = "ticks"\ndefinitions = "ticks.py"\n')
    (folder / "ticks.py").write_text(TICKS)
    catch_up(Workspace(load(folder)), ("rows", "twins", "sums"), stream_options=FAST)
    return folder


@pytest.mark.share(4)
@pytest.mark.parametrize("name", ["rows", "sums"])
@pytest.mark.parametrize(
    ("damage", "missing", "unexpected"),
    [
        (removed, {"rows": 13, "sums": 4}, 0),
        (doubled, 0, 1),
        (swapped, 1, 1),
        (changed, {"rows": 13, "sums": 4}, {"rows": 13, "sums": 4}),
        (rounded, 0, 0),
    ],
)
def test_verify_detects_every_difference(verified_project, name, damage, missing, unexpected):
    workspace = Workspace(load(verified_project))
    assert verify(workspace, name).holds
    table = DeltaTable(workspace.table(name).storage.uri)
    before = table.version()
    damage(table)
    try:
        result = verify(Workspace(load(verified_project)), name)
    finally:
        DeltaTable(workspace.table(name).storage.uri).restore(before)
    expected = tuple(each[name] if isinstance(each, dict) else each for each in (missing, unexpected))
    assert (result.missing, result.unexpected) == expected
    assert result.holds == (expected == (0, 0))
    assert {row["_difference"] for row in result.differences} == {
        what for what, n in zip(("missing", "unexpected"), expected, strict=True) if n
    }


def test_a_missing_duplicate_row_is_detected(verified_project):
    workspace = Workspace(load(verified_project))
    table = DeltaTable(workspace.table("twins").storage.uri)
    before = table.version()
    rows = table.to_pyarrow_table().sort_by("k")
    table.delete("k = 0")
    write_deltalake(table, rows.slice(1, 13), mode="append")  # of 14
    try:
        result = verify(Workspace(load(verified_project)), "twins")
    finally:
        DeltaTable(workspace.table("twins").storage.uri).restore(before)
    assert (result.missing, result.unexpected) == (1, 0)
