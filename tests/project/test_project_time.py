"""Queries as of a time or a version: all tables of a query are read as of the same moment."""

from __future__ import annotations

import datetime as dt

import pytest

from pipeline.core.errors import RequestError, StorageError
from pipeline.lake.versions import commit_times
from pipeline.project import Workspace, load
from pipeline.runner import Runner

DEFINITIONS = """\
from pipeline import files, lake_policy, source, sql

raw = source(files("data/*.csv"), schema={"id": "bigint"})
double = sql("select id * 2 as id from raw")
later = sql("select id from raw")
kept = lake_policy("silver", history="2 days", min_versions=3)
"""
COUNTS = "select (select count(*) from raw) as raw, (select count(*) from double) as double"


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(DEFINITIONS)
    (tmp_path / "data").mkdir()
    project = load(tmp_path)
    for number in range(3):
        (tmp_path / "data" / f"{number}.csv").write_text(f"id\n{number}\n")
        Runner(project).run()
    return Workspace(load(tmp_path))


def counts(workspace, at) -> dict[str, int]:
    return workspace.query(COUNTS, at=at).to_pylist()[0]


def test_tables_are_read_as_of_one_time(workspace):
    raw, double = (commit_times(workspace.table(name).storage) for name in ("raw", "double"))
    assert raw[0] < double[0] < raw[1] < double[1] < raw[2] < double[2]
    millisecond = dt.timedelta(milliseconds=1)
    assert counts(workspace, None) == {"raw": 3, "double": 3}
    assert counts(workspace, double[0]) == {"raw": 1, "double": 1}
    assert counts(workspace, double[1] - millisecond) == {"raw": 2, "double": 1}
    assert counts(workspace, double[1].isoformat()) == {"raw": 2, "double": 2}
    assert counts(workspace, {"raw": 0}) == {"raw": 1, "double": 3}
    assert counts(workspace, [double[1].isoformat(), "raw=2"]) == {"raw": 3, "double": 2}
    with pytest.raises(StorageError, match="'double' cannot be read as of"):
        counts(workspace, raw[0])
    with pytest.raises(StorageError, match=r"'raw' cannot be read as of .*; choose a later time"):
        counts(workspace, "-1d")


def test_unknown_tables_and_versions_are_refused(workspace):
    with pytest.raises(RequestError, match=r"'doubel'.*did you mean 'double'"):
        counts(workspace, {"doubel": 1})
    with pytest.raises(RequestError, match="table 'raw' has no version 3; the newest is 2"):
        counts(workspace, "raw=3")
    with pytest.raises(RequestError, match="both version= and at= of table 'raw' are given; give one"):
        workspace.project.dataset("raw", version=1, at="-1h")


def test_tables_have_the_policy_of_their_definition(workspace):
    assert workspace.table("double").policy.history == dt.timedelta(days=2)
    assert workspace.table("double").policy.min_versions == 3
    assert workspace.table("raw").policy.history == dt.timedelta(days=7)
