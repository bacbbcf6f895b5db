"""Connectors whose splits are read by the workers of a Ray cluster: the rows are those that this process reads."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from pipeline.project import Workspace, load
from pipeline.runner import Runner
from tests.batch.conftest import cluster as cluster  # noqa: PLC0414 - the fixture
from tests.rigs.http_faults import Reply, http_server
from tests.rigs.postgres import pg as pg  # noqa: PLC0414 - the fixtures
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414

DEFINITIONS = """
from pipeline import postgres, postgres_changes, rest, source, sqlite

items = source(postgres("{pg}", "items", cursor="id"))
changes = source(postgres_changes("{pg}", "items", slot="ray_{slot}").table("items"))
answers = source(rest("{api}/answers", rows="$.rows"))
local = source(sqlite("{folder}/local.db", "items"))
"""
TABLES = ("items", "changes", "answers", "local")


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.timeout(280)
def test_workers_read_what_this_process_reads(tmp_path, cluster, pg):
    assert cluster
    pg.run(
        "create table items (id bigint primary key, v text)",
        "insert into items select i, 'v' || i from generate_series(1, 30000) i",
    )
    with closing(sqlite3.connect(tmp_path / "local.db")) as con:
        con.execute("create table items (id integer primary key, v text)")
        con.executemany("insert into items values (?, ?)", [(n, f"v{n}") for n in range(500)])
        con.commit()
    read = {}
    with http_server() as api:
        for execution in ("inline", "ray"):
            folder = tmp_path / execution
            folder.mkdir()
            (folder / "headwater.toml").write_text(
                f'[project]\nname = "all"\ndefinitions = "all.py"\n[env.dev]\nexecution = "{execution}"\n'
            )
            definitions = DEFINITIONS.format(pg=pg.url, api=api.url, folder=tmp_path, slot=execution)
            (folder / "all.py").write_text(definitions)
            api.script = [Reply({"rows": [{"id": n} for n in range(7)]})]
            record = Runner(load(folder)).run()
            assert {step.executor for step in record.steps} == {execution}
            workspace = Workspace(load(folder))
            read[execution] = {
                name: workspace.query(f"select count(*) as n, sum(id)::bigint as total from {name}").to_pylist()
                for name in TABLES
            }
    pg.run("select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name like 'ray_%'")
    assert read["ray"] == read["inline"]
    assert [rows[0]["n"] for rows in read["ray"].values()] == [30000, 30000, 7, 500]
