from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import StorageError
from pipeline.core.schema import Schema
from pipeline.kernel.scan import DataFile, Scan
from pipeline.warehouse import Load
from pipeline.warehouse.duckdb import DuckDBWarehouse
from pipeline.warehouse.warehouse import ForeignKey

SCHEMA = Schema.of({"id": "BIGINT", "v": "VARCHAR"})


@pytest.fixture
def warehouse(tmp_path) -> DuckDBWarehouse:
    return DuckDBWarehouse(str(tmp_path / "deep" / "warehouse.duckdb"))


@pytest.fixture
def data(tmp_path):
    def write(name: str, ids: list[int]) -> DataFile:
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"id": ids, "v": [f"{name}{i}" for i in ids]}), path)
        return DataFile(str(path), len(ids), path.stat().st_size)

    return write


def rows(warehouse: DuckDBWarehouse, table: str = "t") -> list[tuple[object, ...]]:
    with warehouse.read() as con:
        return con.execute(f'from "{table}" order by 1').fetchall()


def test_missing_warehouse_has_no_loads(warehouse, tmp_path):
    assert warehouse.loaded() == {}
    assert not (tmp_path / "deep").exists()


def test_a_first_load_includes_all_rows_the_key_and_the_description(warehouse, data):
    a = data("a", [1, 2])
    warehouse.load(Load("t", 4, 7, Scan(SCHEMA, (a,)), key=("id",), description="it's a table"))

    assert warehouse.loaded() == {"t": (4, 7)}
    assert rows(warehouse) == [(1, "a1"), (2, "a2")]
    with warehouse.read() as con:
        assert con.execute("select comment from duckdb_tables() where table_name = 't'").fetchall() == [
            ("it's a table",)
        ]
        assert con.execute(
            "select constraint_column_names from duckdb_constraints() where table_name = 't' and constraint_type = 'PRIMARY KEY'"
        ).fetchall() == [(["id"],)]


def test_a_version_is_loaded_once(warehouse, data):
    a, b = data("a", [1]), data("b", [2])
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,))))

    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a, b)), since=(1, 7), added=(b,)))

    assert rows(warehouse) == [(1, "a1")]


def test_added_rows_are_appended_only_to_the_preceding_version(warehouse, data):
    a, b, c = data("a", [1]), data("b", [2]), data("c", [3])
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,)), key=("id",)))
    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (a, b)), key=("id",), since=(1, 7), added=(b,)))
    assert rows(warehouse) == [(1, "a1"), (2, "b2")]

    warehouse.load(
        Load("t", 4, 7, Scan(SCHEMA, (c,)), key=("id",), since=(3, 7), added=(c,))
    )  # the loaded version is 2, not 3

    assert rows(warehouse) == [(3, "c3")]
    assert warehouse.loaded() == {"t": (4, 7)}


def values(tmp_path, name, *pairs):
    """Write a file of rows, each with a key and a value."""
    path = tmp_path / f"{name}.parquet"
    pq.write_table(pa.table({"id": [key for key, _ in pairs], "v": [value for _, value in pairs]}), path)
    return DataFile(str(path), len(pairs), path.stat().st_size)


def in_stored_order(warehouse):
    with warehouse.read() as con:
        return [row[0] for row in con.execute("select id from t order by rowid").fetchall()]


def test_changed_rows_are_changed_and_rewritten_ones_stay(warehouse, tmp_path):
    kept = values(tmp_path, "kept", *((number, "kept") for number in range(10, 30)))
    old = values(tmp_path, "old", (1, "a"), (2, "b"), (3, "c"), (4, None))
    new = values(tmp_path, "new", (1, "a"), (2, "changed"), (4, None), (5, "added"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (kept, old)), key=("id",)))
    assert in_stored_order(warehouse) == [*range(10, 30), 1, 2, 3, 4]

    version = Scan(SCHEMA, (kept, new))
    warehouse.load(Load("t", 2, 7, version, key=("id",), since=(1, 7), added=(new,), removed=(old,)))

    assert rows(warehouse)[:4] == [(1, "a"), (2, "changed"), (4, None), (5, "added")]
    assert len(rows(warehouse)) == 24
    assert in_stored_order(warehouse)[:22] == [*range(10, 30), 1, 4]  # the others were written


def test_files_that_were_only_rewritten_change_nothing_without_a_key(warehouse, tmp_path):
    kept = values(tmp_path, "kept", *((number, "kept") for number in range(10, 30)))
    one, two = values(tmp_path, "one", (1, "a")), values(tmp_path, "two", (1, "a"), (2, "b"))
    both = values(tmp_path, "both", (1, "a"), (1, "a"), (2, "b"), (3, "c"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (kept, one, two))))
    with warehouse.read() as con:
        before = con.execute("select rowid, * from t order by rowid").fetchall()

    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (kept, both)), since=(1, 7), added=(both,), removed=(one, two)))

    with warehouse.read() as con:
        assert con.execute("select rowid, * from t order by rowid").fetchall() == [*before, (len(before), 3, "c")]
    less = values(tmp_path, "less", (1, "a"), (2, "b"), (3, "c"))
    warehouse.load(Load("t", 3, 7, Scan(SCHEMA, (kept, less)), since=(2, 7), added=(less,), removed=(both,)))
    assert rows(warehouse)[:4] == [(1, "a"), (2, "b"), (3, "c"), (10, "kept")]


def test_a_key_that_is_already_there_keeps_the_last_version(warehouse, tmp_path):
    kept = values(tmp_path, "kept", *((number, "kept") for number in range(10, 30)))
    old, new = values(tmp_path, "old", (1, "a")), values(tmp_path, "new", (10, "again"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (kept, old)), key=("id",)))
    load = Load("t", 2, 7, Scan(SCHEMA, (kept, new)), key=("id",), since=(1, 7), added=(new,), removed=(old,))
    with pytest.raises(StorageError, match=r"(?i)duplicate key"):
        warehouse.load(load)
    assert warehouse.loaded() == {"t": (1, 7)}
    assert rows(warehouse)[0] == (1, "a")


def test_a_table_of_which_most_is_new_or_that_has_other_columns_is_replaced(warehouse, tmp_path):
    old, new = values(tmp_path, "old", (1, "a"), (2, "b")), values(tmp_path, "new", (1, "x"), (2, "b"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (old,)), key=("id",)))
    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (new,)), key=("id",), since=(1, 7), added=(new,), removed=(old,)))
    assert rows(warehouse) == [(1, "x"), (2, "b")]
    ids = Schema.of({"id": "BIGINT"})
    more = values(tmp_path, "more", (3, "c"))
    warehouse.load(Load("t", 3, 7, Scan(ids, (new, more)), key=("id",), since=(2, 7), added=(more,)))
    assert rows(warehouse) == [(1,), (2,), (3,)]


def test_a_replaced_table_may_have_other_columns(warehouse, data):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),)), key=("id",)))

    warehouse.load(Load("t", 2, 7, Scan(Schema.of({"id": "BIGINT"}), (data("b", [5, 5]),))))

    assert rows(warehouse) == [(5,), (5,)]


def test_table_without_rows_is_created(warehouse):
    warehouse.load(Load("odd name", 0, 7, Scan(SCHEMA), key=("id",)))

    assert rows(warehouse, "odd name") == []


def test_a_duplicate_key_keeps_the_last_version(warehouse, data):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),)), key=("id",)))

    with pytest.raises(
        StorageError,
        match=r"the key of 't' is violated: .*duplicate key.*; recompute it: headwater run --full --select t",
    ):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (data("b", [2, 2]),)), key=("id",)))
    with pytest.raises(StorageError, match=r"(?i)duplicate key"):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA), key=("id",), since=(1, 7), added=(data("c", [1]),)))
    assert rows(warehouse) == [(1, "a1")]
    assert warehouse.loaded() == {"t": (1, 7)}


def test_a_missing_lake_file_keeps_the_last_version(warehouse, data):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),))))

    with pytest.raises(StorageError, match=r"cannot be used: got IO Error: No files found"):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (DataFile("/nowhere/x.parquet", 1, 1),))))
    assert rows(warehouse) == [(1, "a1")]


def test_reading_changes_nothing(warehouse, data):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),))))

    with pytest.raises(duckdb.InvalidInputException, match="read-only"), warehouse.read() as con:
        con.execute("drop table t")


def test_a_file_that_is_not_a_database_is_an_error(warehouse, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "warehouse.duckdb").write_text("no database" * 1000)

    with pytest.raises(StorageError, match="cannot be used"):
        warehouse.loaded()


def test_a_foreign_database_has_no_loads(warehouse, tmp_path):
    (tmp_path / "deep").mkdir()
    with duckdb.connect(warehouse.path) as con:
        con.execute("create table t (i int)")

    assert warehouse.loaded() == {}


HOLD = "import duckdb, sys, time; con = duckdb.connect(sys.argv[1]); {}; print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def other(warehouse):
    """Return a function that starts another process, which uses the warehouse and stays alive."""
    started = []

    def start(does: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(does), warehouse.path], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_warehouse_locked_by_another_process_is_reported(warehouse, data, other, monkeypatch):
    monkeypatch.setattr("pipeline.warehouse.duckdb.LOCK_WAIT_S", 0.1)
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),))))
    holder = other("pass")

    with pytest.raises(StorageError, match=rf"Could not set lock.*{holder.pid}.*close other processes that use it"):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (data("b", [2]),))))


def test_a_load_waits_while_another_process_loads(warehouse, data, other):
    """Runs and streams of several processes load their tables into one file."""
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),))))
    holder = other("pass")
    threading.Timer(0.5, holder.kill).start()
    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (data("b", [2]),))))
    assert rows(warehouse) == [(2, "b2")]


def test_a_warehouse_without_a_file_says_how_it_is_loaded(warehouse):
    with pytest.raises(StorageError, match=r"cannot be used.*; load its tables: headwater run"):
        warehouse.query("select 1")
    assert not Path(warehouse.path).parent.exists()


def test_rows_that_duckdb_rejects_are_not_blamed_on_other_processes(warehouse, data):
    wrong = Scan(Schema.of({"id": "BIGINT", "absent": "VARCHAR"}), (data("a", [1]),))
    with pytest.raises(
        StorageError, match=r"version 1 of 't' cannot be loaded into the warehouse: got .*; recompute it"
    ):
        warehouse.load(Load("t", 1, 7, wrong, key=("nowhere",)))


def test_load_killed_before_its_commit_leaves_the_warehouse_unchanged(warehouse, data, other):
    a, b = data("a", [1]), data("b", [2])
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,))))
    killed = other(
        f"con.execute('begin'); con.execute(\"create or replace table t as from read_parquet('{b.uri}')\"); "
        'con.execute("update headwater_loads set version = 2")'
    )
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    assert warehouse.loaded() == {"t": (1, 7)}
    assert rows(warehouse) == [(1, "a1")]
    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (b,))))
    assert rows(warehouse) == [(2, "b2")]


def test_values_of_foreign_keys_must_exist(warehouse, data):
    key = ForeignKey("id", "dim", "id")
    dim, known, unknown = data("d", [0, 1, 2]), data("a", [1, 2]), data("b", [2, 5, 6])
    warehouse.load(Load("dim", 1, 7, Scan(SCHEMA, (dim,))))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (known,)), foreign_keys=(key,)))

    problem = r"2 rows of 't' have a 'id' that 'dim' does not have: got 5; recompute both: headwater run --full --select dim t"
    with pytest.raises(StorageError, match=problem):
        warehouse.load(
            Load("t", 2, 8, Scan(SCHEMA, (known, unknown)), since=(1, 7), added=(unknown,), foreign_keys=(key,))
        )
    with pytest.raises(StorageError, match=problem):
        warehouse.load(Load("t", 2, 8, Scan(SCHEMA, (known, unknown)), foreign_keys=(key,)))

    assert rows(warehouse) == [(1, "a1"), (2, "a2")]
    assert warehouse.loaded() == {"dim": (1, 7), "t": (1, 7)}


def test_foreign_keys_are_not_checked_without_the_other_table(warehouse, data):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (data("a", [1]),)), foreign_keys=(ForeignKey("id", "dim", "id"),)))

    assert rows(warehouse) == [(1, "a1")]


def test_a_file_of_an_earlier_version_is_read_and_continued(warehouse, data):
    a, b = data("a", [1]), data("b", [2])
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,))))
    with duckdb.connect(warehouse.path) as con:  # as the ledger was before it had times
        con.execute("create table old as select name, version, mark from headwater_loads")
        con.execute("drop table headwater_loads")
        con.execute("alter table old rename to headwater_loads")
        con.execute("alter table headwater_loads add primary key (name)")
    record = warehouse.loads()["t"]
    assert (record.version, record.manifest_id, record.rows, record.committed_at) == (1, 7, None, None)

    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (a, b)), since=(1, 7), added=(b,)))
    assert warehouse.loads()["t"].rows == 2
    assert rows(warehouse) == [(1, "a1"), (2, "b2")]
