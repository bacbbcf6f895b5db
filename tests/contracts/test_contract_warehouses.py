"""What every warehouse promises: each version of a table once, by its changes where they are known."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import RequestError, StorageError
from pipeline.core.schema import Schema
from pipeline.kernel.scan import DataFile, Scan
from pipeline.warehouse import Load
from pipeline.warehouse.duckdb import DuckDBWarehouse
from pipeline.warehouse.warehouse import ForeignKey

SCHEMA = Schema.of({"id": "BIGINT", "v": "VARCHAR"})


@pytest.fixture(params=["duckdb", "snowflake"])
def warehouse(request, tmp_path):
    if request.param == "duckdb":
        return DuckDBWarehouse(str(tmp_path / "warehouse.duckdb"))
    return request.getfixturevalue("snowflake")


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a file of rows, given as `(id, v)`."""

    def write(name: str, *rows: tuple[int, str | None], **columns: list[object]) -> DataFile:
        path = tmp_path / f"{name}.parquet"
        content = columns or {"id": [row[0] for row in rows], "v": pa.array([row[1] for row in rows], pa.string())}
        table = pa.table(content)
        pq.write_table(table, path)
        return DataFile(str(path), table.num_rows, path.stat().st_size)

    return write


def rows(warehouse, table: str = "t") -> list[tuple[object, ...]]:
    found = warehouse.query(f'select * from "{table}" order by 1')
    return [tuple(row.values()) for row in found.to_pylist()]


def kept(file):
    return file("kept", *((number, "kept") for number in range(10, 30)))


def test_an_empty_warehouse_has_no_loads(warehouse):
    assert warehouse.loaded() == {}
    assert warehouse.loads() == {}


def test_a_first_load_has_all_rows_and_its_record(warehouse, file):
    at = dt.datetime(2024, 5, 1, 12, 0, 0, 123456, dt.UTC)
    load = Load(
        "t",
        4,
        -7,
        Scan(SCHEMA, (file("a", (1, "a"), (2, None)),)),
        key=("id",),
        description="it's a table",
        run_id="r1",
        committed_at=at,
    )
    before = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=1)
    warehouse.load(load)

    assert warehouse.loaded() == {"t": (4, -7)}
    assert rows(warehouse) == [(1, "a"), (2, None)]
    record = warehouse.loads()["t"]
    assert (record.version, record.manifest_id, record.rows, record.committed_at) == (4, -7, 2, at)
    assert before < record.loaded_at < dt.datetime.now(dt.UTC) + dt.timedelta(minutes=1)


def test_a_version_is_loaded_once(warehouse, file):
    a, b = file("a", (1, "a")), file("b", (2, "b"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,))))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a, b)), since=(1, 7), added=(b,)))
    assert rows(warehouse) == [(1, "a")]


def test_a_later_version_stays_unless_it_was_seen(warehouse, file):
    a, b = file("a", (1, "a")), file("b", (2, "b"))
    warehouse.load(Load("t", 5, 7, Scan(SCHEMA, (a, b))))
    warehouse.load(Load("t", 4, 6, Scan(SCHEMA, (a,)), seen=(3, 7)))  # prepared before version 5 was loaded
    assert warehouse.loaded() == {"t": (5, 7)}
    assert rows(warehouse) == [(1, "a"), (2, "b")]

    warehouse.load(Load("t", 0, 8, Scan(SCHEMA, (a,)), seen=(5, 7)))  # the table was recreated
    assert warehouse.loaded() == {"t": (0, 8)}
    assert rows(warehouse) == [(1, "a")]


def test_added_rows_are_appended_only_to_the_preceding_version(warehouse, file):
    a, b, c = file("a", (1, "a")), file("b", (2, "b")), file("c", (3, "c"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,)), key=("id",)))
    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (a, b)), key=("id",), since=(1, 7), added=(b,)))
    assert rows(warehouse) == [(1, "a"), (2, "b")]
    warehouse.load(Load("t", 4, 7, Scan(SCHEMA, (c,)), key=("id",), since=(3, 7), added=(c,)))  # it has version 2
    assert rows(warehouse) == [(3, "c")]


def test_changed_added_and_removed_rows_of_a_key_are_merged(warehouse, file):
    old = file("old", (1, "a"), (2, "b"), (3, "c"), (4, None))
    new = file("new", (1, "a"), (2, "changed"), (4, None), (5, "added"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (kept(file), old)), key=("id",)))
    warehouse.load(
        Load("t", 2, 7, Scan(SCHEMA, (kept(file), new)), key=("id",), since=(1, 7), added=(new,), removed=(old,))
    )
    assert rows(warehouse)[:4] == [(1, "a"), (2, "changed"), (4, None), (5, "added")]
    assert len(rows(warehouse)) == 24


def test_a_key_of_all_columns_is_merged(warehouse, file):
    old, new = file("old", (1, "a"), (2, "b")), file("new", (1, "a"), (3, "c"))
    key = ("id", "v")
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (kept(file), old)), key=key))
    warehouse.load(
        Load("t", 2, 7, Scan(SCHEMA, (kept(file), new)), key=key, since=(1, 7), added=(new,), removed=(old,))
    )
    assert rows(warehouse)[:3] == [(1, "a"), (3, "c"), (10, "kept")]


POSITIONS = Schema.of({"id": "BIGINT", "at": "STRUCT(lsn BIGINT, n BIGINT)"})


def structs(*positions: tuple[int | None, int | None] | None) -> pa.Array:
    kind = pa.struct([("lsn", pa.int64()), ("n", pa.int64())])
    return pa.array([None if each is None else {"lsn": each[0], "n": each[1]} for each in positions], kind)


def test_a_key_can_be_nested(warehouse, file):
    """A history whose sequence is a struct has it in its key, which DuckDB cannot index."""
    old = file("old", id=[1, 1, 2], at=structs((1, 1), (1, 2), (1, None)))
    new = file("new", id=[1, 1, 3], at=structs((1, 1), (2, 0), (None, None)))
    kept = file("kept", id=list(range(10, 30)), at=structs(*((0, 0),) * 20))
    change = {"key": ("id", "at"), "since": (1, 7), "added": (new,), "removed": (old,)}
    warehouse.load(Load("t", 1, 7, Scan(POSITIONS, (kept, old)), key=("id", "at")))
    warehouse.load(Load("t", 2, 7, Scan(POSITIONS, (kept, new)), **change))
    assert [row[0] for row in rows(warehouse)][:4] == [1, 1, 3, 10]

    for number, wrong in enumerate((structs((1, 1)), structs(None))):
        added = file(f"twice{number}", id=[1], at=wrong)
        load = Load("t", 3, 7, Scan(POSITIONS, (kept, new, added)), key=("id", "at"), since=(2, 7), added=(added,))
        if number or isinstance(warehouse, DuckDBWarehouse):  # Snowflake checks the rows that are loaded
            with pytest.raises(StorageError, match="the key of 't' is violated"):
                warehouse.load(load)
            assert warehouse.loaded() == {"t": (2, 7)}


def test_rewritten_rows_without_a_key_stay_and_removed_ones_go(warehouse, file):
    one, both = file("one", (1, "a")), file("both", (1, "a"), (2, "b"))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (kept(file), one))))
    warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (kept(file), both)), since=(1, 7), added=(both,), removed=(one,)))
    assert rows(warehouse)[:3] == [(1, "a"), (2, "b"), (10, "kept")]
    less = file("less", (2, "b"))
    warehouse.load(Load("t", 3, 7, Scan(SCHEMA, (kept(file), less)), since=(2, 7), added=(less,), removed=(both,)))
    assert rows(warehouse)[:2] == [(2, "b"), (10, "kept")]


def test_columns_can_be_added_retyped_and_removed(warehouse, file):
    warehouse.load(
        Load(
            "t",
            1,
            7,
            Scan(
                Schema.of({"id": "BIGINT", "n": "DECIMAL(6,2)"}),
                (file("a", id=[1], n=pa.array([1], pa.decimal128(6, 2))),),
            ),
        )
    )
    wider = file("b", id=[1, 2], n=pa.array([1, 12345678], pa.decimal128(12, 2)), more=["x", "y"])
    warehouse.load(
        Load("t", 2, 7, Scan(Schema.of({"id": "BIGINT", "n": "DECIMAL(12,2)", "more": "VARCHAR"}), (wider,)))
    )
    assert warehouse.query("select id from t where id = 2 and n = 12345678 and more = 'y'").num_rows == 1
    texts = file("c", id=[1], n=["text"])
    warehouse.load(
        Load("t", 3, 7, Scan(Schema.of({"id": "BIGINT", "n": "VARCHAR"}), (texts,)), since=(2, 7), added=(texts,))
    )
    assert sorted(rows(warehouse)[0], key=str) == [1, "text"]


def test_a_column_that_is_added_later_is_null_in_earlier_rows(warehouse, file):
    a, b = file("a", (1, "a")), file("b", id=[2], v=["b"], w=[5])
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (a,))))
    schema = Scan(SCHEMA, (a, b)).widened(Schema.of({"w": "BIGINT"})).schema
    warehouse.load(Load("t", 2, 7, Scan(schema, (a, b)), since=(1, 7), added=(b,)))
    assert rows(warehouse) == [(1, "a", None), (2, "b", 5)]


def test_a_table_without_rows_is_created_and_can_be_emptied(warehouse, file):
    warehouse.load(Load("odd name", 0, 7, Scan(SCHEMA), key=("id",)))
    assert rows(warehouse, "odd name") == []
    warehouse.load(Load("odd name", 1, 7, Scan(SCHEMA, (file("a", (1, "x")),)), key=("id",)))
    warehouse.load(Load("odd name", 2, 7, Scan(SCHEMA), key=("id",)))
    assert rows(warehouse, "odd name") == []
    assert warehouse.loaded() == {"odd name": (2, 7)}


def test_duplicate_keys_and_missing_files_keep_the_last_version(warehouse, file):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (file("a", (1, "a")),)), key=("id",)))
    with pytest.raises(StorageError, match=r"(?i)duplicate key|key of .t. is violated"):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (file("b", (2, "b"), (2, "c")),)), key=("id",)))
    with pytest.raises(StorageError, match=r"No files found"):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (DataFile("/nowhere/x.parquet", 1, 1),))))
    assert rows(warehouse) == [(1, "a")]
    assert warehouse.loaded() == {"t": (1, 7)}


def test_a_foreign_key_that_does_not_exist_is_rejected(warehouse, file):
    warehouse.load(Load("d", 1, 7, Scan(SCHEMA, (file("d", (1, "a")),)), key=("id",)))
    to_d, to_later = ForeignKey("id", "d", "id"), ForeignKey("id", "later", "id")
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (file("a", (1, "x")),)), foreign_keys=(to_d, to_later)))
    with pytest.raises(StorageError, match="1 row of 't' have a 'id' that 'd' does not have: got 5"):
        warehouse.load(Load("t", 2, 7, Scan(SCHEMA, (file("b", (1, "x"), (5, "y")),)), foreign_keys=(to_d,)))
    assert rows(warehouse) == [(1, "x")]


def test_rows_that_leave_with_their_foreign_key_are_not_checked(warehouse, file):
    to_d = (ForeignKey("id", "d", "id"),)
    members = kept(file)
    warehouse.load(Load("d", 1, 7, Scan(SCHEMA, (members, file("d", (1, "a")))), key=("id",)))
    old, new = file("old", (1, "x"), (10, "x")), file("new", (10, "y"))
    many = file("many", *((number, "kept") for number in range(11, 30)))
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (many, old)), key=("id",), foreign_keys=to_d))
    warehouse.load(Load("d", 2, 7, Scan(SCHEMA, (members,)), key=("id",)))
    change = Load(
        "t", 2, 7, Scan(SCHEMA, (many, new)), key=("id",), since=(1, 7), added=(new,), removed=(old,), foreign_keys=to_d
    )
    warehouse.load(change)
    assert rows(warehouse)[:2] == [(10, "y"), (11, "kept")]


def test_a_dropped_table_is_loaded_again(warehouse, file):
    load = Load("t", 1, 7, Scan(SCHEMA, (file("a", (1, "it's \\ a")),)))
    warehouse.load(load)
    warehouse.drop("t")
    warehouse.drop("never there")
    assert warehouse.loaded() == {}
    warehouse.load(load)
    assert rows(warehouse) == [(1, "it's \\ a")]


def test_a_query_of_an_unknown_table_is_an_error(warehouse, file):
    warehouse.load(Load("t", 1, 7, Scan(SCHEMA, (file("a", (1, "a")),))))
    with pytest.raises((RequestError, StorageError), match=r"(?i)nowhere"):
        warehouse.query("from nowhere")


def test_the_warehouse_can_be_written(warehouse):
    warehouse.require_writable()
    assert warehouse.loaded() == {}
