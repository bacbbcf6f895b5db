"""Types converted from DuckDB to Arrow and the lake, and back."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.schema import Column, Schema
from pipeline.kernel.engine import arrow, connect, schema_of
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import arrow_schema, arrow_type, from_arrow, sql_type, stored, stored_type
from tests.rigs.proofs import examples

PLAIN = [
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "BLOB", "DATE", "TIMESTAMP",
    "TIMESTAMPTZ", "DECIMAL(4,1)", "DECIMAL(18,3)", "DECIMAL(38,10)",
]  # fmt: skip
NAMES = st.sampled_from(["a", "B", "with space", 'with "quotes"', "a, b", "(", "value", "é", "struct"])


def _struct(fields):
    return f"STRUCT({', '.join(f'{quoted(name)} {kind}' for name, kind in fields)})"


STORED = st.recursive(
    st.sampled_from(PLAIN),
    lambda kinds: (
        kinds.map("{}[]".format)
        | st.tuples(st.sampled_from(["VARCHAR", "INTEGER"]), kinds).map(lambda pair: "MAP({}, {})".format(*pair))
        | st.lists(st.tuples(NAMES, kinds), min_size=1, max_size=3, unique_by=lambda f: f[0].lower()).map(_struct)
    ),
    max_leaves=4,
)


@settings(max_examples=examples(20, 60))
@given(STORED)
def test_stored_types_survive_arrow(kind):
    assert stored_type(kind) == kind
    assert sql_type(arrow_type(kind)) == kind


@settings(max_examples=examples(20, 60))
@given(STORED)
def test_stored_types_agree_between_duckdb_and_arrow(kind):
    with connect() as con:
        schema = schema_of(con, f"select null::{kind} as x")
        result = arrow(con, f"select null::{kind} as x")
    assert stored(schema) == Schema((Column("x", kind),))
    assert from_arrow(result.schema) == stored(schema)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("HUGEINT", "BIGINT"),
        ("UHUGEINT", "BIGINT"),
        ("UBIGINT", "DECIMAL(20,0)"),
        ("UINTEGER", "BIGINT"),
        ("TIMESTAMP_NS", "TIMESTAMP"),
        ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"),
        ("UUID", "VARCHAR"),
        ("INTERVAL", "VARCHAR"),
        ("TIME", "VARCHAR"),
        ("JSON", "VARCHAR"),
        ("BIT", "VARCHAR"),
        ("BIGNUM", "VARCHAR"),
        ('"NULL"', "INTEGER"),
        ("ENUM('a', 'b')", "VARCHAR"),
        ("UNION(num INTEGER, str VARCHAR)", "VARCHAR"),
        ("HUGEINT[]", "BIGINT[]"),
        ("INTEGER[3]", "INTEGER[]"),
        ("UUID[][]", "VARCHAR[][]"),
        ("ENUM('a, b', '[]')[]", "VARCHAR[]"),
        ('STRUCT(a HUGEINT, "b, c" STRUCT(d UUID)[])', 'STRUCT("a" BIGINT, "b, c" STRUCT("d" VARCHAR)[])'),
        ("MAP(UUID, STRUCT(a TIME))", 'MAP(VARCHAR, STRUCT("a" VARCHAR))'),
    ],
)  # fmt: skip
def test_types_that_a_lake_cannot_store(kind, expected):
    assert stored_type(kind) == expected


@pytest.mark.parametrize(
    "value",
    [
        "1::hugeint", "1::ubigint", "uuid()", "interval 1 day", "time '10:00'", "'a'::enum('a', 'b')", "'101'::bit",
        "12::bignum", "null", "'{}'::json", "timestamp_ns '2020-01-01'", "[1::hugeint]", "{'a': 1::hugeint, 'B': uuid()}",
        "map {'a': time '10:00'}", "array_value(1, 2)", "union_value(num := 1)", "now()", "[now()]",
    ],
)  # fmt: skip
def test_every_value_can_be_cast_to_its_stored_type(value):
    with connect() as con:
        schema = stored(schema_of(con, f"select {value} as x"))
        result = arrow(con, f"select x::{schema.columns[0].type} as x from (select {value} as x)")
    assert from_arrow(result.schema) == schema


def test_a_sum_of_integers_is_a_bigint_in_the_lake():
    with connect() as con:
        schema = schema_of(con, "select sum(range) as s from range(3)")
    assert schema.columns[0].type == "HUGEINT"
    assert arrow_schema(stored(schema)) == pa.schema([("s", pa.int64())])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.string_view(), "VARCHAR"),
        (pa.large_string(), "VARCHAR"),
        (pa.large_list(pa.int8()), "TINYINT[]"),
        (pa.list_(pa.int8(), 2), "TINYINT[]"),
        (pa.uint64(), "DECIMAL(20,0)"),
        (pa.timestamp("ns"), "TIMESTAMP"),
        (pa.timestamp("ms", "Europe/Paris"), "TIMESTAMPTZ"),
        (pa.dictionary(pa.int8(), pa.string()), "VARCHAR"),
        (pa.time64("us"), "VARCHAR"),
        (pa.null(), "INTEGER"),
    ],
)
def test_other_arrow_types(kind, expected):
    assert sql_type(kind) == expected
