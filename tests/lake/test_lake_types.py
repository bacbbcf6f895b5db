"""Tables whose columns change to types that need a feature of Delta's protocol stay readable."""

from __future__ import annotations

import pytest
from deltalake import DeltaTable

from pipeline.kernel.engine import arrow, connect

NEW = {
    "timestamp": "timestamp '2026-01-31 12:00:00'",
    "list of timestamps": "[timestamp '2026-01-31 12:00:00']",
    "struct with a timestamp": "{'at': timestamp '2026-01-31 12:00:00'}",
    "map to timestamps": "map {'k': timestamp '2026-01-31 12:00:00'}",
    "timestamp with a time zone": "timestamptz '2026-01-31 12:00:00+02'",
    "date": "date '2026-01-31'",
    "decimal": "1.5::decimal(38, 10)",
    "blob": "'a'::blob",
}


def rows(version):
    with connect() as con:
        return arrow(con, f"select * from ({version.scan().query()}) order by id").to_pylist()


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("partition_by", [(), ("id",)])
def test_a_recomputed_table_may_get_any_type(writer, kind, partition_by):
    table = writer(partition_by=partition_by)
    first = table.write("select 1 as id, 2 as v")

    second = table.write(f"select 1 as id, {NEW[kind]} as v", "r2", seen=first)
    third = table.write("select 1 as id, 3 as v", "r3", seen=second)

    assert [row["id"] for row in rows(second)] == [1]
    assert rows(third) == [{"id": 1, "v": 3}]
    assert DeltaTable(table.table.storage.uri).to_pyarrow_table().to_pylist() == [{"id": 1, "v": 3}]


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("mode", ["append", "merge"])
def test_a_new_column_may_have_any_type(writer, kind, mode):
    table = writer()
    first = table.write("select 1 as id")

    second = table.write(f"select 2 as id, {NEW[kind]} as v", "r2", mode, first)

    found = rows(second)
    assert [(row["id"], row["v"] is None) for row in found] == [(1, True), (2, False)]
    assert table.table.version().number == second.number
    assert len(DeltaTable(table.table.storage.uri).to_pyarrow_table()) == 2
