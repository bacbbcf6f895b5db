"""Revisions of the catalog: concurrent creation, upgrade of older catalogs, and rejection of later revisions."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from pipeline.core.errors import StorageError
from pipeline.governance import Catalog, Leases, RunRecord
from pipeline.governance.api_keys import ApiKeys
from pipeline.governance.catalog import METADATA
from pipeline.governance.revisions import FORMAT_VERSION, VERSION_TABLE
from pipeline.governance.sessions import SessionStore
from pipeline.schema_registry.store import METADATA as REGISTRY
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture

OPEN = """
import sys
from pipeline.governance import Catalog, RunRecord
import pipeline.governance.migrations
print("ready", flush=True)
sys.stdin.readline()
Catalog(sys.argv[1]).begin(RunRecord(sys.argv[2], 'p', 'dev', 't', None, 'running', None))
"""
PROCESSES = 4
ADDED = {"column_changes", "systems", "api_keys", "sessions"}
"""Tables that revisions have added to the first ones."""
STORES = (ApiKeys, SessionStore)
"""Their modules define tables of the catalog."""


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """The address of a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/catalog.db"
    database = request.getfixturevalue("postgres")
    run(database, "drop schema public cascade", "create schema public")
    return database


def run(url: str, *statements: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def runs(url: str) -> tuple[RunRecord, ...]:
    """Open the catalog and return its runs."""
    with closing(Catalog(url)) as catalog:
        return catalog.runs()


def unrevised(url: str, *, without: tuple[str, ...] = ()) -> None:
    """Create a catalog as it was before revisions existed, optionally without the counts that were added later."""
    engine = sa.create_engine(url)
    METADATA.create_all(engine, [table for name, table in METADATA.tables.items() if name not in ADDED])
    engine.dispose()
    run(url, *(f"alter table steps drop column {name}" for name in without))


def test_catalogs_are_compared_with_the_newest_revision():
    scripts = ScriptDirectory(str(Path(sys.modules[Catalog.__module__].__file__).parent / "migrations"))
    assert scripts.get_heads() == [f"{FORMAT_VERSION:04}"]


def test_revisions_create_the_tables_of_the_catalog(url):
    assert runs(url) == ()
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, [METADATA, REGISTRY]) == []
        assert context.get_current_revision() == f"{FORMAT_VERSION:04}"
    engine.dispose()


@pytest.mark.share(2)
@pytest.mark.parametrize("before", ["nothing", "unrevised", "unrevised without counts"])
def test_concurrent_processes_upgrade_a_catalog_once(url, before):
    if before != "nothing":
        unrevised(url, without=("superseded", "deletes") if before.endswith("counts") else ())
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, "-c", OPEN, url, f"r{n}"], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for n in range(PROCESSES)
    ]
    assert [process.stdout.readline() for process in started] == ["ready\n"] * PROCESSES
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in started] == [""] * PROCESSES
    assert {run.run_id for run in runs(url)} == {f"r{n}" for n in range(PROCESSES)}
    engine = sa.create_engine(url)
    assert {column["name"] for column in sa.inspect(engine).get_columns("steps")} == set(
        METADATA.tables["steps"].c.keys()
    )
    engine.dispose()


def test_later_revision_is_rejected_by_name(url):
    assert runs(url) == ()
    run(url, f"update {VERSION_TABLE} set version_num = '0007'")
    expected = (
        r"the catalog at .* was written by a later version of Headwater: got format 7; .* up to 5; upgrade Headwater"
    )
    with pytest.raises(StorageError, match=expected):
        runs(url)
    with pytest.raises(StorageError, match=expected):
        Leases(Catalog(url)).all()
    run(url, f"update {VERSION_TABLE} set version_num = 'ae12'")
    with pytest.raises(StorageError, match="later version of Headwater: got format ae12"):
        runs(url)
    run(url, f"update {VERSION_TABLE} set version_num = '0005'")
    assert runs(url) == ()


def test_alembic_is_imported_only_for_an_upgrade(tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    code = (
        "import sys; from pipeline.governance import Catalog\n"
        "Catalog(sys.argv[1]).runs(); print('alembic' in sys.modules)"
    )
    answers = [
        subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert answers == ["True\n", "False\n"]


def test_failed_upgrade_changes_nothing(url, monkeypatch):
    """A killed or failed upgrade leaves the catalog unchanged; the next process that opens it performs the upgrade."""
    unrevised(url, without=("superseded",))

    def fail(*_: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.runtime.migration.HeadMaintainer._insert_version", fail)
        with pytest.raises(StorageError, match="no space"):
            runs(url)
    engine = sa.create_engine(url)
    assert "superseded" not in {column["name"] for column in sa.inspect(engine).get_columns("steps")}
    assert not sa.inspect(engine).has_table(VERSION_TABLE)
    engine.dispose()
    assert runs(url) == ()
