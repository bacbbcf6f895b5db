"""An option that does not fit the rows of a table is named, with the place where it is written."""

from __future__ import annotations

import re

import pytest

from pipeline.core.errors import DefinitionError
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.plan_changes import plan_changes
from pipeline.runner.runner import Runner
from tests.runner.conftest import TOML

HEAD = """\
from pipeline import fail, files, quarantine, source, sql
raw = source(files("data/*.csv"), schema={"id": "bigint", "k": "varchar"})
"""
MISFITS = {
    "a key": ('a = sql("select id from raw", key="no")', "key=", 3),
    "a key of groups": ('a = sql("select id, count(*) as n from raw group by id", key="no")', "key=", 3),
    "an expectation": (
        'a = sql(\n  "select id from raw", key="id",\n  expect=[\n    fail("good", "id > 0"),\n    quarantine("bad", "no > 1")])',
        r"expectation 'bad' \(no > 1\)",
        7,
    ),
    "a function": (
        'a = sql("select id from raw", expect=[fail("bad", "no(id)")])',
        r"expectation 'bad' \(no\(id\)\)",
        3,
    ),
    "a sequence": ('a = sql("select id from raw", key="id", sequence_by="no")', "sequence_by='no'", 3),
    "a key of a merged table": ('a = sql("select id from raw", key="no", sequence_by="id")', "key=", 3),
    "deletes, beside an expectation that is fine": (
        'a = sql("select id, k from raw", key="id", sequence_by="k", apply_as_deletes="no", expect=[fail("x", "id > 0")])',
        "apply_as_deletes='no'",
        3,
    ),
    "truncates": (
        'a = sql("select id, k from raw", key="id", sequence_by="k", apply_as_truncates="no")',
        "apply_as_truncates='no'",
        3,
    ),
    "deletes alone": (
        'a = sql("select id, k from raw", key="id", sequence_by="k", apply_as_deletes="no")',
        "apply_as_deletes='no'|deletes of table 'a'",
        3,
    ),
    "a key of a source": (
        'a = source(files("data/*.csv"), schema={"id": "bigint", "k": "varchar"}, key="no")',
        "key=",
        3,
    ),
}


@pytest.mark.parametrize(("text", "option", "line"), MISFITS.values(), ids=MISFITS)
def test_a_plan_and_a_run_name_the_option(tmp_path, text, option, line):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("id,k\n1,a\n")
    (tmp_path / "headwater.toml").write_text(TOML)
    (tmp_path / "shop.py").write_text(f"{HEAD}{text}\n")
    project = load(tmp_path)

    with pytest.raises(DefinitionError, match=option) as raised:
        Runner(project).run()

    assert str(raised.value.place).endswith(f"shop.py:{line}")
    assert "'a'" in raised.value.problem
    planned = {change.name: change.error for change in plan_changes(Workspace(project))}
    assert re.search(option, planned["a"])
