"""AUTO CDC in the warehouse: after any history of changes, loads and kills, it has what sorting and folding gives."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commit.post_commit import post_commit
from pipeline.lake import QUARANTINE_FOLDER, event_merging
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from tests.lake.test_lake_auto_cdc import EVENT, Applying, fold
from tests.rigs.proofs import examples

DEFINITIONS = """
from pipeline import files, source, sql

raw = source(
    files("data/*.csv"), schema={"k": "varchar", "x": "bigint", "y": "bigint", "s": "bigint", "op": "varchar"}
)
how = {
    "key": "k",
    "sequence_by": "s",
    "apply_as_deletes": "op = 'D'",
    "except_column_list": ["s", "op"],
    "layer": "gold",
}
current = sql("select * from raw", **how)
history = sql("select * from raw", stored_as_scd_type=2, **how)
"""


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """Restore the number of files that a property test changes."""
    monkeypatch.setattr(event_merging, "MAX_EVENT_FILES", event_merging.MAX_EVENT_FILES)


def workspace_of(folder: Path, settings_text: str = "") -> Workspace:
    (folder / "headwater.toml").write_text(f'[project]\nname = "shop"\ndefinitions = "shop.py"\n{settings_text}')
    (folder / "shop.py").write_text(DEFINITIONS)
    return Workspace(load(folder))


@pytest.fixture
def duckdb_workspace(tmp_path) -> Workspace:
    return workspace_of(tmp_path)


@pytest.fixture
def snowflake_workspace(tmp_path, snowflake_url) -> Workspace:
    return workspace_of(tmp_path, f'[env.dev]\nwarehouse = "{snowflake_url}"\n')


def emptied(workspace: Workspace, name: str) -> Applying:
    """Return a table without a version; the warehouse still has the table of the example before."""
    for storage in (workspace.table(name).storage, workspace.lake.storage.at(QUARANTINE_FOLDER, name)):
        shutil.rmtree(storage.uri, ignore_errors=True)
    merge = workspace.stored(name).merge
    assert merge is not None
    return Applying(workspace.table(name), merge, numbers=NUMBERS)


NUMBERS = itertools.count()
"""Numbers the runs of all examples: no two are the same run."""


CHANGES = given(
    events=st.lists(EVENT, min_size=1, max_size=14),
    files=st.sampled_from([1, 8]),
    draw=st.randoms(use_true_random=False),
)
FIXTURES = [HealthCheck.function_scoped_fixture]


@settings(max_examples=examples(3, 2000), deadline=None, suppress_health_check=FIXTURES)
@CHANGES
def test_duckdb_has_what_sorting_and_folding_gives(duckdb_workspace, events, files, draw):
    check(duckdb_workspace, events, files, draw)


@pytest.mark.proof
@settings(max_examples=200, deadline=None, suppress_health_check=FIXTURES)
@CHANGES
def test_snowflake_has_what_sorting_and_folding_gives(snowflake_workspace, events, files, draw):
    check(snowflake_workspace, events, files, draw)


def check(workspace: Workspace, events: list[dict[str, Any]], files: int, draw: Random) -> None:
    """Apply changes in any order, with repetitions and in batches of any size; some loads wait for a later one."""
    event_merging.MAX_EVENT_FILES = files
    events = [{**event, "s": number} for number, event in enumerate(events)]
    doubled = events + draw.choices(events, k=len(events) // 2)
    draw.shuffle(doubled)
    expected = fold(events, ignores=False)
    for name in ("current", "history"):
        table, at = emptied(workspace, name), 0
        while at < len(doubled):
            size = draw.randint(1, 6)
            before = workspace.version(name)
            table.apply(*doubled[at : at + size])
            at += size
            if draw.random() < 0.6:  # otherwise, the run is killed after its commit
                load_newest(workspace, name)
                if before is not None and draw.random() < 0.3:
                    post_commit(workspace, workspace.stored(name), before)  # by a process that was delayed
                assert workspace.warehouse.loaded()[name][0] == workspace.require(name).number
        load_newest(workspace, name)
        load_newest(workspace, name)
        assert in_warehouse(workspace, name) == table.rows()
        versions = [(k, *v) for k, each in expected.items() for v in each]
        kept = versions if name == "history" else [v[:3] for v in versions if v[4] is None]
        assert in_warehouse(workspace, name) == sorted(kept, key=nulls_last)


def load_newest(workspace: Workspace, name: str) -> None:
    post_commit(workspace, workspace.stored(name), workspace.require(name))


def in_warehouse(workspace: Workspace, name: str) -> list[tuple[Any, ...]]:
    found = workspace.warehouse.query(f"select * from {name}").to_pylist()
    return sorted((tuple(row.values()) for row in found), key=nulls_last)


def nulls_last(row: tuple[Any, ...]) -> list[tuple[bool, Any]]:
    return [(value is None, 0 if value is None else value) for value in row]
