from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from pipeline.core.definitions import Action, Verdict
from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import RowCounts
from pipeline.governance import BackfillRecord, Catalog, CheckRecord, RunRecord, StepRecord, VersionRecord
from pipeline.governance.catalog import METADATA
from tests.rigs.public_folder import public_folder as public_folder  # noqa: PLC0414 - the fixture

RUN = RunRecord("r1", "flights", "dev", "2024-01-01T00:00:00+00:00", None, "running", None)
CHECKS = (
    CheckRecord("has_carrier", "carrier is not null", Action.FAIL, 10, 0),
    CheckRecord("plausible", "delay < 2000", Action.QUARANTINE, 10, 3),
)
STEP = StepRecord(
    "flights", 0, "table", "silver", "append", "2 new files", "broadcast", "inline", 3, 1.5, 99,
    RowCounts(10, 10, 7, 3, 0, 0, 1 << 40), CHECKS,
)  # fmt: skip
MADE = VersionRecord(
    "flights", 3, "silver", "r1", "2024-01-01", 99, 1 << 40, Schema.of({"id": "BIGINT"}), {"raw": 7, "airports": 0}
)


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/deep/catalog.db"


@pytest.fixture
def catalog(url) -> Catalog:
    return Catalog(url)


def test_a_new_catalog_is_empty(catalog):
    assert catalog.runs() == ()
    assert catalog.run() is None
    assert catalog.run("r1") is None
    assert catalog.last_step("flights") is None
    assert catalog.versions("flights") == ()


def test_run_is_read_as_recorded(catalog, url):
    verdict = Verdict(accepted=True, reason="better", metrics={"auc": 0.7}, uri="models:/m/1", version="1", rows=7)
    model = StepRecord("late", 1, "model", "", "accepted", "better", verdict=verdict)
    catalog.begin(RUN)
    catalog.record("r1", model)
    catalog.record("r1", STEP)
    catalog.end("r1", "2024-01-01T00:01:00+00:00", "done")

    for read in (catalog, Catalog(url)):
        run = read.run("r1")
        assert run is not None
        assert replace(run, steps=()) == replace(RUN, ended_at="2024-01-01T00:01:00+00:00", status="done")
        assert run.steps == (STEP, model)
        assert read.run() == run
        assert read.last_step("flights") == STEP


def test_recording_a_step_again_replaces_it(catalog):
    catalog.begin(RUN)
    catalog.record("r1", STEP)
    again = replace(STEP, decision="rebuild", checks=CHECKS[:1])

    catalog.record("r1", again)
    catalog.record("r1", again)

    run = catalog.run("r1")
    assert run is not None
    assert run.steps == (again,)


def test_recording_a_version_again_replaces_it(catalog):
    catalog.keep(MADE)
    catalog.keep(replace(MADE, rows=100, inputs={"raw": 8}))
    catalog.keep(replace(MADE, version=4))

    assert catalog.versions("flights") == (replace(MADE, version=4), replace(MADE, rows=100, inputs={"raw": 8}))


def test_a_version_is_found_by_its_run(catalog):
    catalog.keep(MADE)
    assert catalog.has_version("flights", 3, "r1")
    assert not catalog.has_version("flights", 3, "r2")
    assert not catalog.has_version("flights", 4, "r1")
    assert not catalog.has_version("airports", 3, "r1")


def test_many_versions_are_read_in_linear_time(catalog):
    """Quadratic time takes 7 s for the versions of a year of hourly runs."""
    catalog.keep(MADE)
    count = 8760
    with catalog.transaction() as connection:
        (first,) = connection.execute(METADATA.tables["versions"].select()).mappings().all()
        connection.execute(
            METADATA.tables["versions"].insert(), [{**first, "version": n} for n in range(100, 100 + count)]
        )
        edges = [{"name": "flights", "version": n, "input": "raw", "input_version": n} for n in range(100, 100 + count)]
        connection.execute(METADATA.tables["lineage"].insert(), edges)
    begun = time.process_time()
    versions = catalog.versions("flights")
    assert time.process_time() - begun < 2
    assert (versions[0].inputs, versions[-1].inputs) == ({"raw": 8859}, MADE.inputs)


def test_the_last_step_is_the_newest_that_was_not_skipped(catalog):
    for number, decision in enumerate(["append", "rebuild", "skip"]):
        catalog.begin(replace(RUN, run_id=f"r{number}", started_at=f"2024-01-0{number + 1}"))
        catalog.record(f"r{number}", replace(STEP, decision=decision))

    step = catalog.last_step("flights")
    assert step is not None
    assert step.decision == "rebuild"


def test_runs_are_listed_newest_first_up_to_the_limit(catalog):
    for number in range(5):
        catalog.begin(replace(RUN, run_id=f"r{number}", started_at=f"2024-01-0{number + 1}"))

    assert [run.run_id for run in catalog.runs(2)] == ["r4", "r3"]


def test_starting_a_run_twice_is_an_error(catalog):
    catalog.begin(RUN)

    with pytest.raises(StorageError, match=r"cannot be used: got UNIQUE constraint failed: runs.run_id"):
        catalog.begin(RUN)


def test_concurrent_writers_lose_nothing(url):
    Catalog(url).begin(RUN)

    def write(number: int) -> None:
        catalog = Catalog(url)
        catalog.record("r1", replace(STEP, name=f"t{number}", number=number))
        catalog.keep(replace(MADE, version=number))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(24)))

    run = Catalog(url).run("r1")
    assert run is not None
    assert [step.name for step in run.steps] == [f"t{n}" for n in range(24)]
    assert len(Catalog(url).versions("flights")) == 24


def test_catalog_that_cannot_be_created_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(
        StorageError, match=r"the catalog at sqlite:.*file/catalog.db cannot be used: got .*; check its address"
    ):
        Catalog(f"sqlite:///{tmp_path}/file/catalog.db").runs()


def test_file_that_is_not_a_database_is_an_error(tmp_path):
    (tmp_path / "catalog.db").write_text("no database" * 1000)

    with pytest.raises(StorageError, match="file is not a database"):
        Catalog(f"sqlite:///{tmp_path}/catalog.db").runs()


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody who may not write")
def test_read_only_catalog_is_an_error(public_folder):
    url = f"sqlite:///{public_folder}/catalog.db"
    Catalog(url).begin(RUN)
    code = (
        "import os, sys; from pipeline.governance import Catalog\n"
        "catalog = Catalog(sys.argv[1]); catalog.runs(); os.seteuid(65534)\n"
        "catalog = Catalog(sys.argv[1]); print(len(catalog.runs())); catalog.end('r1', 't', 'done')"
    )

    process = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=False)

    assert process.stdout == "1\n", process.stderr
    assert "StorageError: the catalog at" in process.stderr
    assert "attempt to write a readonly database" in process.stderr


def test_a_password_is_not_shown():
    with pytest.raises(StorageError) as error:
        Catalog("postgresql+psycopg://me:secret@127.0.0.1:1/db").runs()
    assert "secret" not in str(error.value)


def test_invalid_url_is_an_error():
    with pytest.raises(StorageError, match="the catalog at an invalid address cannot be used"):
        Catalog("not an address").runs()


@pytest.mark.parametrize("table", METADATA.sorted_tables, ids=str)
def test_tables_are_created_on_postgresql_too(table):
    text = str(CreateTable(table).compile(dialect=postgresql.dialect()))

    assert text.strip().startswith(f"CREATE TABLE {table.name} (")
    assert not {c.name for c in table.columns} & {"user", "order", "group", "table", "end", "limit", "offset"}
    assert all(
        isinstance(c.type, sa.BigInteger)
        for c in table.columns
        if c.name.endswith(("rows", "_bytes", "version")) and not isinstance(c.type, sa.String)
    )


def test_outcome_of_a_partition_replaces_the_previous_one(catalog):
    first = BackfillRecord("visits", "2026-01-01", "b1", "r1", "2026-01-02", error="too short")
    catalog.fill(first)
    catalog.fill(replace(first, partition=None))
    catalog.fill(replace(first, name="other"))
    assert set(catalog.filled("visits")) == {first, replace(first, partition=None)}
    outcome = replace(first, run_id="r2", rows=4, seconds=0.5, error=None)
    catalog.fill(outcome)
    assert set(catalog.filled("visits")) == {outcome, replace(first, partition=None)}
