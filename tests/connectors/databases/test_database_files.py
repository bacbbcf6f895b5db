"""SQLite and DuckDB files: values arrive as they are, or as rejected rows."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, date, datetime
from decimal import Decimal

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import duckdb_file, sqlite
from pipeline.core.errors import SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from tests.rigs.proofs import examples


def read(reader, schema=None):
    plan = reader.plan(None)
    contract = reader.schema(plan.splits[0].source_object) if schema is None else Schema.of(schema)
    results = [reader.read(split, contract) for split in plan.splits]
    rows = [row for result in results for row in result.rows.to_pylist()]
    return contract, rows, [row for result in results for row in result.rejected.to_pylist()]


@pytest.fixture
def lite(tmp_path):
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as con:
        con.execute("pragma synchronous = off")
        con.execute("pragma journal_mode = memory")
        yield con


def test_sqlite_values_of_another_type_are_rejected(lite, tmp_path):
    lite.execute("create table v (i integer, r real, t text, b blob, f boolean, d decimal(10,2), x)")
    rows = [
        (1, 1.5, "a", b"\x00", 1, 1.1, 5),
        (None,) * 7,
        ("abc", 1.5, "a", b"\x00", 1, 1, 1),
        (1, "zz", "a", b"\x00", 1, 1, 1),
        (1, 1.5, b"\x01", b"\x00", 1, 1, 1),
        (1, 1.5, "a", "text", 1, 1, 1),
        (1, 1.5, "a", b"\x00", 2, 1, 1),
        (2**63 - 1, 5, 7, b"", 0, "word", "y"),
    ]
    lite.executemany("insert into v values (?, ?, ?, ?, ?, ?, ?)", rows)
    reader = sqlite(tmp_path / "a.db", "v")
    contract, good, bad = read(reader)
    kinds = ("BIGINT", "DOUBLE", "VARCHAR", "BLOB", "BOOLEAN", "VARCHAR", "VARCHAR")
    assert tuple(contract.as_dict().values()) == kinds
    assert [tuple(row.values()) for row in good] == [
        (1, 1.5, "a", b"\x00", True, "1.1", "5", 1),
        (None, None, None, None, None, None, None, 2),
        (2**63 - 1, 5.0, "7", b"", False, "word", "y", 8),
    ]
    assert [(row["_position"], row["reason"]) for row in bad] == [
        (3, "column 'i' is not BIGINT: abc"),
        (4, "column 'r' is not DOUBLE: zz"),
        (5, "column 't' is not VARCHAR: 01"),
        (6, "column 'b' is not BLOB: text"),
        (7, "column 'f' is not BOOLEAN: 2"),
    ]
    assert json.loads(bad[0]["row"]) == {"i": "abc", "r": 1.5, "t": "a", "b": "00", "f": 1, "d": 1, "x": 1}
    _, texts, none = read(reader, dict.fromkeys("irtbfdx", "varchar"))
    assert (len(texts), texts[2]["i"]) == (7, "abc")
    assert [row["_position"] for row in none] == [5]


def test_sqlite_types_do_not_depend_on_the_first_rows(lite, tmp_path):
    lite.execute("create table v (id integer primary key, t text, r real)")
    lite.execute("begin")
    lite.executemany(
        "insert into v values (?, ?, ?)",
        [(n, None if n < 3000 else "x", None if n < 3000 else 0.1) for n in range(4000)],
    )
    lite.execute("commit")
    _, rows, bad = read(sqlite(tmp_path / "a.db", "v"))
    assert (len(rows), rows[-1]["t"], rows[-1]["r"], bad) == (4000, "x", 0.1, [])


def test_sqlite_contracts_convert_dates_and_decimals(lite, tmp_path):
    lite.execute("create table v (d date, at timestamp, n numeric)")
    lite.executemany(
        "insert into v values (?, ?, ?)", [("2026-01-02", "2026-01-02T03:04:05.5", "1.10"), ("soon", None, 1)]
    )
    _, rows, bad = read(sqlite(tmp_path / "a.db", "v"), {"d": "date", "at": "timestamp", "n": "decimal(10,2)"})
    at = datetime(2026, 1, 2, 3, 4, 5, 500000)  # noqa: DTZ001 - naive
    assert rows == [{"d": date(2026, 1, 2), "at": at, "n": Decimal("1.10"), "_position": 1}]
    assert bad[0]["reason"] == "column 'd' is not DATE: soon"


def test_sqlite_queries_views_and_names(lite, tmp_path):
    lite.execute('create table "odd ""t""" ("na!e" integer, "na%e" text)')
    lite.execute('insert into "odd ""t""" values (?, ?)', (1, "a"))
    lite.execute('create view w as select "na!e" + 1 as n from "odd ""t""" ')
    assert read(sqlite(tmp_path / "a.db", 'odd "t"'))[1] == [{"na!e": 1, "na%e": "a", "_position": 1}]
    assert read(sqlite(tmp_path / "a.db", "w"), {"n": "int"})[1] == [{"n": 2, "_position": 1}]
    assert read(sqlite(tmp_path / "a.db", query="select 1 as x"), {"x": "int"})[1] == [{"x": 1, "_position": 1}]


def test_sqlite_files_that_cannot_be_read(lite, tmp_path):
    with pytest.raises(SourceError, match=r"there is no such SQLite file.*none\.db"):
        sqlite(tmp_path / "none.db", "v").plan(None)
    with pytest.raises(SourceError, match='there is no such table: got "v"'):
        sqlite(tmp_path / "a.db", "v").plan(None)
    with pytest.raises(SourceError, match=r"the SQLite file cannot be read: got .*syntax error"):
        sqlite(tmp_path / "a.db", query="select").plan(None)
    (tmp_path / "b.db").write_text("not a database" * 100)
    with pytest.raises(SourceError, match="file is not a database"):
        sqlite(tmp_path / "b.db", "v").plan(None)
    lite.execute("create table v (i integer)")
    assert sqlite(tmp_path / "a.db", "v").check()[0].detail == "can be read"


def test_duckdb_values(tmp_path):
    path = tmp_path / "a.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "create table v (n int, h hugeint, u ubigint, u4 uinteger, d date, ts timestamptz, ns timestamp_ns, id uuid, iv interval, l int[], s struct(a decimal(5,2)), dec decimal(38,10), t time, e enum('x'))"
        )
        good = "1, 5, 18446744073709551615, 4294967295, '2026-01-01', '2026-01-01 00:00+00', '2026-01-01 00:00:00.000001', '00000000-0000-0000-0000-000000000001', interval 1 day, [1, null], {a: 1.5}, 1.1, '10:00', 'x'"
        con.execute(f"insert into v values ({good})")
        for column, value in {
            "h": "170141183460469231731687303715884105727",
            "d": "'infinity'",
            "ts": "'-infinity'",
            "ns": "'2026-01-01 00:00:00.000000001'",
        }.items():
            con.execute(f"insert into v (n, {column}) values (2, {value})")
    reader = duckdb_file(path, "v")
    contract, rows, bad = read(reader)
    assert contract.as_dict()["u"] == "DECIMAL(20,0)"
    assert list(rows[0].values()) == [
        1,
        5,
        Decimal(18446744073709551615),
        4294967295,
        date(2026, 1, 1),
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 0, 0, 1),  # noqa: DTZ001 - naive
        "00000000-0000-0000-0000-000000000001",
        "1 day",
        [1, None],
        {"a": Decimal("1.50")},
        Decimal("1.1000000000"),
        "10:00:00",
        "x",
        1,
    ]
    assert [(row["_position"], row["reason"].partition(":")[0]) for row in bad] == [
        (2, "column 'h' is not BIGINT"),
        (3, "column 'd' is not DATE"),
        (4, "column 'ts' is not TIMESTAMPTZ"),
        (5, "column 'ns' is not TIMESTAMP"),
    ]
    assert bad[1]["reason"] == "column 'd' is not DATE: infinity"
    as_text = read(reader, {**contract.as_dict(), "d": "varchar"})
    assert as_text[1][1]["d"] == "infinity"


def test_duckdb_keys_and_queries(tmp_path):
    path = tmp_path / "a.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "create schema s; create table s.v (a int, b int, primary key (b, a)); insert into s.v values (1, 2)"
        )
    plan = duckdb_file(path, "s.v", cursor="a").plan(None)
    assert json.loads(plan.splits[0].source_object.stamp)["identity"] == ["b", "a", "a"]
    assert read(duckdb_file(path, query="select a + 1 as c from s.v"))[1] == [{"c": 2, "_position": 1}]


def test_duckdb_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "a.duckdb"
    with pytest.raises(SourceError, match="there is no such DuckDB file"):
        duckdb_file(path, "v").plan(None)
    duckdb.connect(str(path)).close()
    with pytest.raises(SourceError, match=r"the DuckDB file cannot be read: got .*nothing"):
        duckdb_file(path, "nothing").plan(None)
    assert duckdb_file(path, query="select 1").check()[0].what == "query"
    script = f"import duckdb, sys; con = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with pytest.raises(SourceUnavailableError, match="written to by another process"):
            duckdb_file(path, "v").plan(None)
        writer.communicate()
    path.write_text("not a database")
    with pytest.raises(SourceError, match="not a valid DuckDB database file"):
        duckdb_file(path, "v").plan(None)


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]))


@settings(max_examples=examples(20, 300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            *(
                st.one_of(st.none(), each)
                for each in (
                    st.integers(-(2**63), 2**63 - 1),
                    TEXT,
                    st.floats(allow_nan=False, allow_infinity=False),
                    st.binary(),
                )
            )
        ),
        max_size=20,
    )
)
def test_random_values_of_sqlite_arrive_unchanged(lite, tmp_path, rows):
    lite.execute("drop table if exists v")
    lite.execute("create table v (i integer, t text, r real, b blob)")
    lite.executemany("insert into v values (?, ?, ?, ?)", rows)
    reader = sqlite(tmp_path / "a.db", "v")
    results = [reader.read(split, reader.schema(split.source_object)) for split in reader.plan(None).splits]
    assert sum(result.rejected.num_rows for result in results) == 0
    assert [tuple(row.values())[:-1] for result in results for row in result.rows.to_pylist()] == rows
