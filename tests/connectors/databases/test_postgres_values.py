"""The values of PostgreSQL arrive as they are, or as rejected rows: none is bent."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import postgres as read_postgres
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from tests.rigs.proofs import examples

# by type: the type of the lake, and pairs of a value in SQL and the value that is read
VALUES = {
    "boolean": ("BOOLEAN", [("true", True)]),
    "smallint": ("SMALLINT", [("-32768", -32768)]),
    "int": ("INTEGER", [("2147483647", 2147483647)]),
    "bigint": ("BIGINT", [("9223372036854775807", 9223372036854775807)]),
    "real": ("FLOAT", [("1.5", 1.5), ("'Infinity'", float("inf"))]),
    "double precision": ("DOUBLE", [("0.1", 0.1), ("1e308", 1e308)]),
    "numeric(20,4)": (
        "DECIMAL(20,4)",
        [("1.5", Decimal("1.5000")), ("-9999999999999999.9999", Decimal("-9999999999999999.9999"))],
    ),
    "numeric(38,38)": ("DECIMAL(38,38)", [("0.1", Decimal("0.1"))]),
    "numeric": ("VARCHAR", [("1e50", "1" + "0" * 50), ("'NaN'", "NaN"), ("'Infinity'", "Infinity")]),
    "numeric(50,2)": ("VARCHAR", [("1e40", "1" + "0" * 40 + ".00")]),
    "numeric(3,-2)": ("VARCHAR", [("12345", "12300")]),
    "date": ("DATE", [("'0001-01-01'", date(1, 1, 1)), ("'9999-12-31'", date(9999, 12, 31))]),
    "timestamp": ("TIMESTAMP", [("'2024-10-20 15:30:00.123456'", datetime(2024, 10, 20, 15, 30, 0, 123456))]),  # noqa: DTZ001 - naive
    "timestamptz": ("TIMESTAMPTZ", [("'2024-10-20T15:30:00-00:30'", datetime(2024, 10, 20, 16, 0, tzinfo=UTC))]),
    "time": ("VARCHAR", [("'24:00:00'", "24:00:00")]),
    "timetz": ("VARCHAR", [("'10:00+02'", "10:00:00+02")]),
    "interval": ("VARCHAR", [("'1 mon 2 days 03:04:05.000006'", "1 mon 2 days 03:04:05.000006")]),
    "uuid": ("VARCHAR", [("'00000000-0000-0000-0000-000000000001'", "00000000-0000-0000-0000-000000000001")]),
    "json": ("VARCHAR", [('\'{"b":1, "a":1.10}\'', '{"b":1, "a":1.10}')]),
    "jsonb": ("VARCHAR", [('\'{"b":1, "a":1.10}\'', '{"a": 1.10, "b": 1}')]),
    "bytea": ("BLOB", [("'\\x00ff'", b"\x00\xff")]),
    "text": ("VARCHAR", [("''", ""), ("E'\\n\\u00e9 '", "\né ")]),
    "char(5)": ("VARCHAR", [("'a'", "a    ")]),
    "money": ("VARCHAR", [("'$-12.34'", "-12.34")]),
    "inet": ("VARCHAR", [("'10.0.0.1'", "10.0.0.1/32")]),
    "int4range": ("VARCHAR", [("'[1,5)'", "[1,5)")]),
    "point": ("VARCHAR", [("'(1,2)'", "(1,2)")]),
    "bit(3)": ("VARCHAR", [("B'101'", "101")]),
    "oid": ("VARCHAR", [("4294967295", "4294967295")]),
    "xml": ("VARCHAR", [("'<a/>'", "<a/>")]),
    "mood": ("VARCHAR", [("'happy'", "happy")]),
    "cents": ("DECIMAL(10,2)", [("1.5", Decimal("1.50"))]),
    "pair": ("VARCHAR", [("row(1,'x')", "(1,x)")]),
    "int[]": ("INTEGER[]", [("'{1,null}'", [1, None]), ("'{}'", [])]),
    "numeric(10,2)[]": ("VARCHAR[]", [("'{1.5,NaN}'", ["1.50", "NaN"])]),
    "timestamptz[]": ("VARCHAR[]", [("'{infinity}'", ["infinity"])]),
    "inet[]": ("VARCHAR", [("'{10.0.0.1}'", "{10.0.0.1}")]),
    "mood[]": ("VARCHAR", [("'{happy}'", "{happy}")]),
}
TYPES = (
    "create type mood as enum ('happy', 'sad')",
    "create domain cents as numeric(10,2)",
    "create type pair as (a int, b text)",
)


def read(reader, schema=None):
    plan = reader.plan(None)
    contract = reader.schema(plan.splits[0].source_object) if schema is None else Schema.of(schema)
    results = [reader.read(split, contract) for split in plan.splits]
    rows = [row for result in results for row in result.rows.to_pylist()]
    return contract, rows, [row for result in results for row in result.rejected.to_pylist()]


@pytest.mark.share(18)
@pytest.mark.parametrize("kind", VALUES)
def test_a_value_is_read_as_it_is(pg, kind):
    stored, cases = VALUES[kind]
    pg.run(
        *TYPES,
        f"create table v (n int, x {kind})",
        *(f"insert into v values ({n}, {sql})" for n, (sql, _) in enumerate(cases)),
        "insert into v values (99, null)",
    )
    contract, rows, rejected = read(read_postgres(pg.url, "public.v"))
    assert contract.as_dict()["x"] == stored
    assert [row["x"] for row in rows] == [*(expected for _, expected in cases), None]
    assert rejected == []


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("date", "'infinity'", "column 'x' is not DATE: infinity"),
        ("timestamp", "'-infinity'", "column 'x' is not TIMESTAMP: -infinity"),
        ("timestamptz", "'infinity'", "column 'x' is not TIMESTAMPTZ: infinity"),
        ("date", "'0044-03-15 BC'", "column 'x' is not DATE: 0044-03-15 BC"),
        ("timestamp", "'10000-01-01'", "column 'x' is not TIMESTAMP: 10000-01-01 00:00:00"),
        ("numeric(10,2)", "'NaN'", "column 'x' is not DECIMAL(10,2): NaN"),
        ("int[]", "'{{1,2},{3,4}}'", "column 'x' is not INTEGER[]: {{1,2},{3,4}}"),
        ("text[]", "'{{a},{b}}'", "column 'x' is not VARCHAR[]: {{a},{b}}"),
    ],
)
def test_a_value_that_does_not_fit_is_a_rejected_row(pg, kind, value, shown):
    pg.run(
        f"create table v (n int, x {kind}, r text)",
        f"insert into v values (1, null, 'a'), (2, {value}, 'b'), (3, null, 'c')",
    )
    reader = read_postgres(pg.url, "public.v")
    contract, rows, rejected = read(reader)
    assert [(row["n"], row["_position"]) for row in rows] == [(1, 1), (3, 3)]
    assert [(row["_position"], row["reason"]) for row in rejected] == [(2, shown)]
    assert json.loads(rejected[0]["row"])["n"] == 2
    if kind != "text[]":  # a list in JSON is also a text
        assert reader.parse([rejected[0]["row"]], contract).rejected.num_rows == 1
    declared = {"n": "int", "x": "varchar", "r": "varchar"}
    _, as_text, none = read(reader, declared)
    assert (as_text[1]["x"], none) == (shown.partition(": ")[2], [])
    assert reader.parse([rejected[0]["row"]], Schema.of(declared)).rows.num_rows == 1


def test_a_numeric_without_limits_follows_the_contract(pg):
    pg.run("create table v (x numeric)", "insert into v values (1.5), ('NaN'), (1e40), (0.00001)")
    _, rows, rejected = read(read_postgres(pg.url, "public.v"), {"x": "decimal(10,2)"})
    assert [row["x"] for row in rows] == [Decimal("1.50")]
    assert [row["_position"] for row in rejected] == [2, 3, 4]


def test_a_column_is_read_as_text_if_the_contract_says_so(pg):
    pg.run("create table v (n int, b boolean, m money, a int[])", "insert into v values (1, true, '$1.50', '{1,2}')")
    _, rows, _ = read(read_postgres(pg.url, "public.v"), dict.fromkeys("nbma", "varchar"))
    assert rows == [{"n": "1", "b": "true", "m": "1.50", "a": "{1,2}", "_position": 1}]


def test_names_are_kept_as_they_are(pg):
    pg.run(
        'create table "odd ""t""" ("na!e" int, "na%e" int, r int, t int, "é.x" int)',
        'insert into "odd ""t""" values (1, 2, 3, 4, 5)',
    )
    _, rows, _ = read(read_postgres(pg.url, 'public.odd "t"'))
    assert rows == [{"na!e": 1, "na%e": 2, "r": 3, "t": 4, "é.x": 5, "_position": 1}]


def test_names_that_differ_in_case_are_refused(pg):
    pg.run('create table v ("Aa" int, "aA" int)', "insert into v values (1, 2)")
    reader = read_postgres(pg.url, "public.v")
    with pytest.raises(SourceError, match="differ only in case: got 'Aa' and 'aA'"):
        read(reader)
    assert read(read_postgres(pg.url, "public.v", columns=["aA"]))[1] == [{"aA": 2, "_position": 1}]


def test_a_changed_table_is_noticed(pg):
    pg.run("create table v (a int, b int)", "insert into v values (1, 2)")
    reader = read_postgres(pg.url, "public.v")
    pg.run("alter table v add c int default 3", "alter table v drop b")
    with pytest.raises(SchemaError, match="no 'b', new column 'c'"):
        read(reader, {"a": "int", "b": "int"})
    aside = reader.evolving("discard_row")
    _, rows, rejected = read(aside, {"a": "int"})
    assert (rows, rejected[0]["reason"]) == ([], "column 'c' is not in the contract: 3")
    split = reader.plan(None).splits[0]
    assert reader.evolving("evolve").beyond(split, Schema.of({"a": "int"})).as_dict() == {"c": "INTEGER"}
    with pytest.raises(SourceError, match=r'column "d" does not exist'):
        read(read_postgres(pg.url, "public.v", columns=["d"]))


@settings(max_examples=examples(20, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            st.one_of(st.none(), st.decimals(-(10**13), 10**13, places=4)),
            st.one_of(st.none(), st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))),
            st.one_of(st.none(), st.datetimes()),
            st.one_of(st.none(), st.dates()),
            st.one_of(st.none(), st.floats(allow_nan=False)),
            st.one_of(st.none(), st.binary()),
            st.one_of(
                st.none(),
                st.lists(
                    st.one_of(st.none(), st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
                ),
            ),
        ),
        max_size=20,
    )
)
def test_random_values_arrive_unchanged(pg, rows):
    pg.run(
        "drop table if exists v",
        "create table v (i bigint, n numeric(18,4), t text, at timestamp, d date, f float8, b bytea, l text[])",
    )
    with pg.connected() as con, con.cursor() as cursor:
        cursor.executemany("insert into v values (%s, %s, %s, %s, %s, %s, %s, %s)", rows)
    reader = read_postgres(pg.url, "public.v")
    plan = reader.plan(None)
    results = [reader.read(split, reader.schema(split.source_object)) for split in plan.splits]
    assert sum(result.rejected.num_rows for result in results) == 0
    got = [tuple(row.values())[:-1] for result in results for row in result.rows.to_pylist()]
    assert got == rows


def test_time_zones_of_the_session_do_not_matter(pg):
    pg.run(
        f"alter database {pg.name} set timezone to 'America/St_Johns'",
        f"alter database {pg.name} set datestyle to 'German'",
    )
    pg.run(
        "create table v (z timestamptz, n timestamp, d date)",
        "insert into v values ('2024-01-01 00:00+00', '2024-01-01', '2024-02-01')",
    )
    at = datetime(2024, 1, 1)  # noqa: DTZ001 - naive
    reader = read_postgres(pg.url, "public.v")
    assert read(reader)[1] == [{"z": at.replace(tzinfo=UTC), "n": at, "d": date(2024, 2, 1), "_position": 1}]
    texts = read(reader, dict.fromkeys("znd", "varchar"))[1][0]
    assert texts == {"z": "2024-01-01 00:00:00+00", "n": "2024-01-01 00:00:00", "d": "2024-02-01", "_position": 1}
