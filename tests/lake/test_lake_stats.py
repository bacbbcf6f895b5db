from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, QueryBuilder

from pipeline.core.errors import StorageError

UTC = dt.UTC
# name: DuckDB type, then its values as SQL and as Python; the bounds must be valid for every type
VALUES = {
    "ti": ("tinyint", ["-128", "127"], [-128, 127]),
    "si": ("smallint", ["-5", "7"], [-5, 7]),
    "i": ("integer", ["-7", "0"], [-7, 0]),
    "b": ("bigint", ["-9223372036854775808", "9223372036854775807"], [-(2**63), 2**63 - 1]),
    "f": ("float", ["-1.5", "0.25"], [-1.5, 0.25]),
    "d": ("double", ["-2.25", "1e300"], [-2.25, 1e300]),
    "m": ("decimal(9,2)", ["-123.45", "0.01"], [Decimal("-123.45"), Decimal("0.01")]),
    "l": ("decimal(38,2)", ["-99.5", "123456789012.25"], [Decimal("-99.50"), Decimal("123456789012.25")]),
    "t": ("varchar", ["''", "'zé\"\\,'"], ["", 'zé"\\,']),
    "long": ("varchar", ["repeat('a', 100)", "repeat('z', 100)"], ["a" * 100, "z" * 100]),
    "o": ("boolean", ["false", "true"], [False, True]),
    "day": ("date", ["'1969-12-31'", "'2024-02-29'"], [dt.date(1969, 12, 31), dt.date(2024, 2, 29)]),
    "at": (
        "timestamp",
        ["'1969-12-31 23:59:59.123456'", "'2024-02-29 01:02:03'"],
        [dt.datetime(1969, 12, 31, 23, 59, 59, 123456), dt.datetime(2024, 2, 29, 1, 2, 3)],  # noqa: DTZ001 - a TIMESTAMP has no zone
    ),
    "tz": (
        "timestamptz",
        ["'1900-01-01 00:00:00+00'", "'2024-06-01 12:00:00.5+02'"],
        [dt.datetime(1900, 1, 1, tzinfo=UTC), dt.datetime(2024, 6, 1, 10, 0, 0, 500000, tzinfo=UTC)],
    ),
}


def test_reader_that_uses_the_bounds_finds_every_value(writer):
    rows = [", ".join(f"cast({sql[i]} as {kind}) as {name}" for name, (kind, sql, _) in VALUES.items()) for i in (0, 1)]
    nulls = ", ".join(f"null::{kind} as {name}" for name, (kind, _, _) in VALUES.items())
    w = writer()
    w.write(" union all ".join(f"select {row}" for row in (*rows, nulls)))
    (file,) = w.stage(f"select {nulls}", "r2")
    assert json.loads(file.stats)["nullCount"] == dict.fromkeys(VALUES, 1)

    dataset = DeltaTable(w.table.storage.uri).to_pyarrow_dataset()

    for name, (_, _, values) in VALUES.items():
        field = pc.field(name)
        for value in values:
            same = field == pa.scalar(value, dataset.schema.field(name).type)
            assert dataset.to_table(filter=same).column(name).to_pylist() == [value], name
        assert dataset.to_table(filter=field.is_null()).num_rows == 1, name


@pytest.mark.parametrize(
    "bad", ["'nan'::double", "'inf'::double", "1.5::float / 0", "timestamp 'infinity'", "date '-infinity'"]
)
def test_value_without_exact_bound_hides_no_row(writer, bad):
    w = writer()
    w.write(f"select {bad} as x, 1 as i union all select null, 2")
    (file,) = w.stage(f"select {bad} as x, 1 as i", "r2")
    assert "minValues" not in json.loads(file.stats)

    dataset = DeltaTable(w.table.storage.uri).to_pyarrow_dataset()

    assert dataset.to_table(filter=pc.field("x").is_valid()).num_rows == 1
    assert dataset.to_table(filter=pc.field("i") == 2).num_rows == 1


def test_decimal_with_many_digits_is_matched(writer):
    w = writer()
    w.write("select 12345678901234567890.12::decimal(38,2) as x union all select -1")

    dataset = DeltaTable(w.table.storage.uri).to_pyarrow_dataset()

    assert dataset.to_table(filter=pc.field("x") == Decimal("12345678901234567890.12")).num_rows == 1


def test_bounds_of_long_text_are_truncated(writer):
    (file,) = writer().stage(
        "select 'b' || repeat('x', 99) as t union all select 'c' || repeat('y', 62) || 'z' || 'more'"
    )

    stats = json.loads(file.stats)

    assert stats["minValues"]["t"] == "b" + "x" * 63
    assert stats["maxValues"]["t"] == "c" + "y" * 62 + "{"


def test_long_text_without_an_upper_bound(writer):
    (file,) = writer().stage("select repeat(chr(1114111), 70) as t")

    assert "maxValues" not in json.loads(file.stats)


def test_nested_and_binary_columns_have_no_bounds(writer):
    w = writer()
    w.write("select [1, 2] as l, {'a': 1} as s, map {'k': 1} as m, 'x'::blob as b, 1 as i")

    assert w.table.version().schema.as_dict() == {
        "l": "INTEGER[]", "s": 'STRUCT("a" INTEGER)', "m": "MAP(VARCHAR, INTEGER)", "b": "BLOB", "i": "INTEGER"
    }  # fmt: skip
    dataset = DeltaTable(w.table.storage.uri).to_pyarrow_dataset()
    assert dataset.to_table(filter=pc.field("i") == 1).column("l").to_pylist() == [[1, 2]]


PARTS = ["007", None, "a b/c=d%", "é", "x:y?z#w", "__HIVE_DEFAULT_PARTITION__", "q'uo\"te", "*[ab]"]


def test_partition_values_can_be_null_or_contain_any_character(lake, writer):
    w = writer(partition_by=("p",))
    values = ", ".join(
        "(null, 1)" if p is None else f"('{p.replace(chr(39), chr(39) * 2)}', {i})" for i, p in enumerate(PARTS)
    )

    version = w.write(f"select * from (values {values}) as t(p, i)")

    assert version.partition_by == ("p",)
    assert version.rows == len(version.files) == len(PARTS)
    by_row = dict(enumerate(PARTS))
    for rows in (lake.rows(w.table), DeltaTable(w.table.storage.uri).to_pyarrow_table()):
        assert {row["i"]: row["p"] for row in rows.to_pylist()} == by_row
    for value in PARTS:
        matching = DeltaTable(w.table.storage.uri).to_pyarrow_table(filters=[("p", "=", value)]) if value else None
        assert matching is None or matching.num_rows == 1


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("date", dt.date(2024, 2, 29)),
        ("boolean", True),
        ("decimal(4,1)", Decimal("1.5")),
        ("bigint", -(2**63)),
        ("timestamp", dt.datetime(2024, 1, 2, 3, 4, 5, 600000)),  # noqa: DTZ001 - a TIMESTAMP has no zone
        ("timestamptz", dt.datetime(2024, 1, 2, 3, 4, 5, 600000, tzinfo=UTC)),
    ],
)
def test_other_engines_read_partitions_of_any_type(writer, kind, value):
    w = writer(partition_by=("p",))
    w.write(f"select '{value}'::{kind} as p, 1 as i union all select null, 2")

    rows = DeltaTable(w.table.storage.uri).to_pyarrow_table().sort_by("i").to_pylist()

    assert rows == [{"p": value, "i": 1}, {"p": None, "i": 2}]


def test_empty_text_is_rejected_as_a_partition_value(writer):
    with pytest.raises(StorageError, match=r"empty text in a partition column .*: got p; use null"):
        writer(partition_by=("p",)).write("select '' as p, 1 as i")


def test_other_engines_read_our_tables(writer):
    w = writer(partition_by=("p",))
    w.write("select 'x' as p, timestamptz '2024-06-01 12:00:00+00' + to_days(i::int) as at from range(10) t(i)")

    rows = (
        QueryBuilder()
        .register("t", DeltaTable(w.table.storage.uri))
        .execute("select count(*) as n from t where p = 'x' and at > '2024-06-05T12:00:00Z'")
    )

    assert pa.table(rows).to_pylist() == [{"n": 5}]
