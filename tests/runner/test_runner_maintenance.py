"""A run does the maintenance that is due of the tables that it wrote, and never fails by it."""

from __future__ import annotations

import datetime as dt
import json
import logging

import pytest

from pipeline.commit.moments import Moment
from pipeline.lake.history import history
from pipeline.lake.log_files import LogFiles
from pipeline.lake.maintenance_claims import FOLDER
from pipeline.project import Workspace, load
from pipeline.runner import Runner
from tests.lake.test_lake_unused_files import age

DEFINITIONS = """\
from pathlib import Path

from pipeline import files, lake_policy, mart, source, sql

raw = source(files(Path(__file__).parent / "data/*.csv"), schema={"id": "bigint"})
kept = sql("select id from raw", key="id")
total = mart("select count(*) as n from kept")
by_hand = lake_policy("raw", maintenance="manual")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.runner.maintenance.AUTO_FILES", 6)
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    return tmp_path


def run(folder, *numbers: int) -> list[tuple[str, str]]:
    """Add files, one per run, and return the events of maintenance."""
    events = []
    for number in numbers:
        (folder / "data" / f"{number:02}.csv").write_text(f"id\n{number}\n")
        observed = Runner(load(folder), observer=lambda e: events.append(e) if e.moment is Moment.MAINTAINED else None)
        assert observed.run().status == "done"
    return [(event.name, event.note) for event in events]


def decisions(folder) -> set[str]:
    return {step.decision for step in Runner(load(folder)).run().steps}


def test_a_run_compacts_and_vacuums_what_it_wrote(folder):
    [(name, note)] = run(folder, *range(6))
    assert (name, note.partition(";")[0]) == ("kept", "compacted 6 files into 1")
    assert note.endswith(" s")
    workspace = Workspace(load(folder))
    assert history(workspace.table("kept").storage, 1)[0].mode == "compact"
    assert workspace.warehouse.loaded()["total"][0] == 5
    assert decisions(folder) == {"skip"}

    for number in range(3):
        age(workspace.table("kept"), number, 30 - number)
    events = run(folder, 6, 7, 8, 9)  # versions 7 to 10: the last one is vacuumed
    assert [(name, note.rpartition(";")[0]) for name, note in events if name == "kept"] == [
        ("kept", "removed 0 files of 0 bytes")
    ]
    assert LogFiles.of(workspace.table("kept").storage).readable()[0] == 2
    assert LogFiles.of(workspace.table("raw").storage).readable()[0] == 0
    assert workspace.query("select count(*) as n from kept").to_pylist() == [{"n": 10}]
    assert workspace.query("select n from total").to_pylist() == [{"n": 10}]
    assert decisions(folder) == {"skip"}


def test_maintenance_that_fails_does_not_fail_the_run(folder, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.runner.maintenance.AUTO_FILES", 99)
    run(folder, *range(10))
    storage = Workspace(load(folder)).table("kept").storage
    until = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
    claim = f"{FOLDER}{0:08}.json"
    storage.write_text(claim, json.dumps({"by": "another process", "owner": "", "token": "", "until": until}))
    with caplog.at_level(logging.WARNING):
        assert "kept" not in dict(run(folder, 10))
    assert "maintenance failed and is retried by a later run" in caplog.text
    assert storage.has(claim)
    assert decisions(folder) == {"skip"}
