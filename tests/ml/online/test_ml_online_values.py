"""Rows as bytes: exact for every type, and clear about those that are not supported."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pytest

from ml.features.online.keys import entity_keys, entity_types
from ml.features.online.values import RowFormat
from pipeline.core.errors import SchemaError

INSTANT = datetime(2024, 1, 31, 12, 30, 0, 123456, tzinfo=UTC)
COLUMNS = {
    "boolean": pa.array([True, None, False]),
    "byte": pa.array([127, None, -128], pa.int8()),
    "short": pa.array([1, None, -1], pa.int16()),
    "int": pa.array([2**31 - 1, None, -(2**31)], pa.int32()),
    "bigint": pa.array([2**63 - 1, None, -(2**63)]),
    "unsigned": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "float": pa.array([1.5, None, -math.inf], pa.float32()),
    "double": pa.array([math.nan, None, math.inf]),
    "decimal": pa.array([Decimal("0.10"), None, Decimal(-10) ** 15], pa.decimal128(38, 2)),
    "text": pa.array(["é\x00", None, ""]),
    "long_text": pa.array(["a" * 300, None, ""], pa.large_string()),
    "bytes": pa.array([b"\xff\x00", None, b""]),
    "date": pa.array([date(1, 1, 1), None, date(9999, 12, 31)]),
    "time": pa.array([time(23, 59, 59, 999999), None, time(0)], pa.time64("us")),
    "naive": pa.array([INSTANT.replace(tzinfo=None), None, datetime(1969, 1, 1)]),  # noqa: DTZ001 - a type without zone
    "instant": pa.array([INSTANT, None, INSTANT], pa.timestamp("us", "UTC")),
    "millis": pa.array([1, None, -1], pa.timestamp("ms")),
    "nanos": pa.array([1, None, -1], pa.timestamp("ns", "UTC")),
    "embedding": pa.array([[1.0, math.nan], None, []], pa.list_(pa.float32())),
    "counts": pa.array([[1, 2], None, [3]], pa.list_(pa.int64())),
    "fixed": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float64(), 2)),
}
BATCH = pa.record_batch(COLUMNS)


def table(written, rows):
    return pa.RecordBatch.from_arrays(written.decode(rows), schema=written.schema)


def same(found, expected):
    """Compare values; NaN equals NaN."""
    return repr(found) == repr(expected)


@pytest.mark.parametrize("rows", [BATCH, BATCH.slice(1), BATCH.slice(2, 1), BATCH.slice(1, 1), BATCH.slice(0, 0)])
def test_rows_of_all_types_return_as_they_were(rows):
    written = RowFormat(BATCH.schema)
    read = table(written, written.encode(rows).to_pylist())
    read.validate(full=True)
    assert same(read.to_pylist(), rows.to_pylist())


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_alone_returns_as_it_was(name):
    rows = BATCH.select([name])
    written = RowFormat(rows.schema)
    assert same(table(written, written.encode(rows).to_pylist()).to_pylist(), rows.to_pylist())


def test_a_missing_row_is_null_in_all_columns():
    written = RowFormat(BATCH.schema)
    first = written.encode(BATCH).to_pylist()[0]
    read = table(written, [None, first, None]).to_pylist()
    assert same(read[1], BATCH.to_pylist()[0])
    assert [set(row.values()) for row in (read[0], read[2])] == [{None}, {None}]


def test_more_than_eight_columns_keep_their_nulls():
    rows = pa.record_batch({f"c{n}": pa.array([n, None if n % 3 else n]) for n in range(20)})
    written = RowFormat(rows.schema)
    assert table(written, written.encode(rows).to_pylist()).equals(rows)


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        (pa.struct({"a": pa.int64()}), r"struct<a: int64>"),
        (pa.list_(pa.string()), r"list<item: string>"),
        (pa.map_(pa.string(), pa.int64()), r"map<string, int64>"),
        (pa.list_(pa.bool_()), r"list<item: bool>"),
    ],
)
def test_types_without_a_form_are_rejected_with_the_column(kind, shown):
    with pytest.raises(SchemaError, match=rf"feature 'x' cannot be stored online: got {shown}; select numbers, text"):
        RowFormat(pa.schema({"x": kind}))


def test_a_null_in_a_list_is_rejected():
    rows = pa.record_batch({"x": pa.array([[1.0, None]])})
    with pytest.raises(SchemaError, match="a list of feature 'x' has an element that is null"):
        RowFormat(rows.schema).encode(rows)


@pytest.mark.parametrize(
    ("columns", "others"),
    [
        ([["a\x1f", "b"]], [["a", "\x1fb"]]),
        ([["a\\", "b"]], [["a", "\\b"]]),
        ([["a\\u", "b"]], [["a\x1f", "b"]]),
        ([["", "a"]], [["a", ""]]),
    ],
)
def test_keys_of_several_columns_do_not_collide(columns, others):
    first, second = (entity_keys([pa.array([v]) for v in row[0]]).to_pylist() for row in (columns, others))
    assert first != second


def test_keys_are_the_same_for_all_forms_of_a_value_and_null_for_null():
    assert entity_keys([pa.array(["7", None, ""])]).to_pylist() == [b"7", None, b""]
    assert entity_keys([pa.array([7], pa.int8())]) == entity_keys([pa.array([7])])
    assert entity_keys([pa.array(["é"], pa.large_string())]).to_pylist() == ["é".encode()]
    assert entity_keys([pa.array([1, None]), pa.array(["a", "b"])]).to_pylist() == [b"1\x1fa", None]
    days = entity_keys([pa.array([date(2024, 1, 31)]), pa.array([INSTANT], pa.timestamp("us", "UTC"))])
    assert days.to_pylist() == [b"2024-01-31\x1f1706704200123456"]


def test_numbers_that_are_not_exact_do_not_identify():
    with pytest.raises(SchemaError, match="the entity column 'e' cannot identify rows of the online store: got double"):
        entity_types(pa.schema({"e": pa.float64()}), ("e",))
