"""Forgotten tables are listed, and removed only on request."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline.core.errors import ConflictError, RequestError
from pipeline.governance import Leases, this_process
from pipeline.project.forgotten import WAREHOUSE, forget, forgotten_tables, remains_of
from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner

DEFINITIONS = """\
from pathlib import Path

from pipeline import files, mart, quarantine, source, sql

rows = source(files(Path(__file__).parent / "*.csv"), schema={"id": "bigint"}, expect=[quarantine("small", "id < 3")])
doubled = sql("select id * 2 as id from rows")
total = mart("select sum(id) as total from rows")
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "a.csv").write_text("id\n1\n2\n3\n")

    def run(text: str) -> Workspace:
        (tmp_path / "p.py").write_text(text)
        assert Runner(load(tmp_path)).run().status == "done"
        return Workspace(load(tmp_path))

    return run


def forget_all_of(workspace, name):
    tables = remains_of(workspace, name)
    forget(workspace, name, tables)
    return tables


def left(workspace):
    return [(table.name, table.layer, table.rows) for table in forgotten_tables(workspace)]


def test_nothing_is_forgotten_while_every_table_has_a_definition(project):
    assert left(project(DEFINITIONS)) == []


def test_files_of_renamed_tables_are_listed_and_removed(project):
    project(DEFINITIONS)
    workspace = project(DEFINITIONS.replace("rows", "numbers").replace("total =", "sum_of_ids ="))
    assert left(workspace) == [
        ("rows", "bronze", 2),
        ("total", "gold", 1),
        ("rows", "quarantine", 1),
        ("total", WAREHOUSE, None),
    ]

    removed = forget_all_of(workspace, "rows")
    assert [table.layer for table in removed] == ["bronze", "quarantine"]
    assert not any(Path(table.place).exists() for table in removed)
    forget_all_of(workspace, "total")
    assert left(workspace) == []
    assert set(workspace.warehouse.loaded()) == {"sum_of_ids"}
    assert workspace.query("select * from doubled order by id").column("id").to_pylist() == [2, 4]


def test_a_table_that_moved_to_another_layer_keeps_its_new_folder(project):
    project(DEFINITIONS)
    workspace = project(DEFINITIONS.replace("total = mart(", "total = sql("))
    assert left(workspace) == [("total", "gold", 1), ("total", WAREHOUSE, None)]

    forget_all_of(workspace, "total")
    assert left(workspace) == []
    assert workspace.version("total").rows == 1


def test_a_table_with_a_definition_and_an_unknown_one_are_not_forgotten(project):
    project(DEFINITIONS)
    workspace = project(DEFINITIONS.replace("doubled", "twice"))
    with pytest.raises(RequestError, match=r"'rows' has a definition.*remove or rename the definition first"):
        forget_all_of(workspace, "rows")
    with pytest.raises(RequestError, match=r"no forgotten table 'double'; did you mean 'doubled'\?"):
        forget_all_of(workspace, "double")
    assert left(workspace) == [("doubled", "silver", 2)]


def test_a_table_that_a_stream_of_an_older_project_still_writes_is_not_removed(project):
    project(DEFINITIONS)
    workspace = project(DEFINITIONS.replace("doubled", "twice"))
    leases, me = Leases(workspace.catalog), this_process()
    leases.acquire("doubled", me)
    with pytest.raises(ConflictError, match=rf"still written by a stream.*process {os.getpid()} on"):
        forget_all_of(workspace, "doubled")
    later = Leases(workspace.catalog, clock=lambda: time.time() - 3600)
    later.acquire("doubled", me)  # it has expired by now
    forget_all_of(workspace, "doubled")
    assert left(workspace) == []


def test_a_damaged_table_can_be_forgotten(project):
    workspace = project(DEFINITIONS)
    folder = Path(workspace.table("doubled").storage.uri)
    workspace = project(DEFINITIONS.replace("doubled", "twice"))
    (folder / "_delta_log" / "00000000000000000000.json").write_text("{}")
    forget_all_of(workspace, "doubled")
    assert not folder.exists()
