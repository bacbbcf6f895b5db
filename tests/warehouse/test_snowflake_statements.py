"""What is sent to Snowflake is Snowflake's SQL: sqlglot parses it, or a person has reviewed its golden file."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from pipeline.core.errors import RequestError
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect
from pipeline.kernel.scan import Scan
from pipeline.warehouse import Load
from pipeline.warehouse.snowflake import statements
from pipeline.warehouse.snowflake.column_types import columns_of
from pipeline.warehouse.snowflake.load_plan import plan_load
from pipeline.warehouse.snowflake.queries import in_snowflake
from pipeline.warehouse.warehouse import ForeignKey
from tests.rigs.reviewed import reviewed

SCHEMA = Schema.of(
    {
        "id": "BIGINT",
        "odd name": "VARCHAR",
        "d": "DECIMAL(12,2)",
        "f": "FLOAT",
        "at": "TIMESTAMPTZ",
        "day": "DATE",
        "b": "BLOB",
        "tags": "VARCHAR[]",
        "point": "STRUCT(x DOUBLE, y DOUBLE)",
    }
)
COLUMNS = columns_of(SCHEMA)
AT = dt.datetime(2024, 5, 1, 12, 0, 0, 123456, dt.UTC)
LOAD = Load("orders", 3, -9, Scan(SCHEMA), run_id="r", committed_at=AT)
KEY = ForeignKey("customer_key", "dim_customer", "customer_key")
STATEMENTS = {
    "begin": statements.BEGIN,
    "commit": statements.COMMIT,
    "rollback": statements.ROLLBACK,
    "create stage": statements.CREATE_STAGE,
    "list stage": statements.LIST_STAGE,
    "create ledger": statements.CREATE_LEDGER,
    "read ledger": statements.READ_LEDGER,
    "expect table": statements.expect_table("it's"),
    "claim": statements.claim("orders", "ATTEMPT"),
    "loaded version": statements.loaded_version("orders"),
    "record": statements.record(LOAD, 5, "merge"),
    "record without a time": statements.record(replace(LOAD, committed_at=None), 5, "merge"),
    "mark unknown": statements.mark_unknown("orders"),
    "forget": statements.forget("orders"),
    "put": statements.put("/data/a b/*", "ORDERS_1/merge_1_2_f1"),
    "remove": statements.remove("ORDERS_1"),
    "create landing": statements.create_landing("LANDING", COLUMNS, is_merge=True),
    "copy into": statements.copy_into("LANDING", "ORDERS_1/merge_1_2_f1"),
    "count": statements.count("ORDERS"),
    "missing keys": statements.missing_keys("LANDING", KEY, is_merge=False),
    "missing keys, merged": statements.missing_keys("LANDING", KEY, is_merge=True),
    "create table": statements.create_table("orders", COLUMNS),
    "find table": statements.find_table("orders"),
    "describe": statements.describe("orders"),
    "add column": statements.add_column("orders", COLUMNS[2]),
    "add column, masked": statements.add_column("orders", COLUMNS[2], "hidden"),
    "widen column": statements.widen_column("orders", COLUMNS[2]),
    "drop column": statements.drop_column("orders", "D"),
    "set comment": statements.set_comment("orders", "it's \\ a comment"),
    "drop table": statements.drop_table("orders"),
    "delete all": statements.delete_all("orders"),
    "insert": statements.insert("orders", "LANDING", COLUMNS),
    "merge": statements.merge("orders", "LANDING", COLUMNS, ("id", "odd name")),
    "merge, by a nested key": statements.merge("orders", "LANDING", COLUMNS[-1:], ("point",)),
}
UNPARSED = {"remove"}
"""Statements that sqlglot does not understand: a person has compared them with Snowflake's reference."""


def understood(text: str) -> bool:
    try:
        parsed = sqlglot.parse(text, read="snowflake", error_level=ErrorLevel.RAISE)
    except SqlglotError:
        return False
    return len(parsed) == 1 and not isinstance(parsed[0], exp.Command)


@pytest.mark.parametrize("name", STATEMENTS)
def test_each_statement_is_parsed_or_reviewed(name):
    assert understood(STATEMENTS[name]) is (name not in UNPARSED)


def test_the_statements_are_those_that_were_reviewed():
    assert reviewed(Path(__file__).parent / "golden" / "snowflake_loading.sql", STATEMENTS)


def test_every_statement_of_the_module_is_tested():
    makers = {name.replace("_", " ").lower() for name, value in vars(statements).items() if _is_statement(name, value)}
    assert makers - {"text"} <= set(STATEMENTS)


def test_columns_of_a_table_that_exists_get_their_masking_policies():
    load = replace(LOAD, since=(2, -8), masking=(("d", "HIDDEN"), ("f", "BARE")))
    known = {column.identifier.strip('"'): column.type for column in COLUMNS}
    del known["D"]
    assert plan_load(load, (2, -8), known, COLUMNS).before == (statements.add_column("orders", COLUMNS[2], "HIDDEN"),)
    retyped = plan_load(load, (2, -8), {**known, "D": "NUMBER(12,2)", "F": "VARCHAR"}, COLUMNS)
    assert retyped.before[-1] == statements.add_column("orders", COLUMNS[3], "BARE")
    assert retyped.changes_columns


def _is_statement(name: str, value: object) -> bool:
    if isinstance(value, str):
        return name.isupper() and name not in {"LEDGER", "STAGE", "OPERATION"}
    return getattr(value, "__module__", "") == statements.__name__


QUERIES = {
    'select "odd name", count(*) from "my Table" group by all': '"ODD NAME"',
    "from t select id where at > timestamp '2024-01-01' - interval 1 day": "FROM t",
    "select list_contains([1, 2], 1), date_trunc('month', at) from t qualify row_number() over (partition by id) = 1": "QUALIFY",
}


@pytest.mark.parametrize("text", QUERIES)
def test_queries_are_transpiled(text):
    transpiled = in_snowflake(text)
    assert understood(transpiled)
    assert QUERIES[text] in transpiled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("select (", "this query cannot be parsed"),
        ("drop table t", "the warehouse runs one SELECT"),
        ("select 1; select 2", "the warehouse runs one SELECT"),
    ],
)
def test_other_texts_are_rejected(text, message):
    with pytest.raises(RequestError, match=message):
        in_snowflake(text)


SAME_ROWS = [
    "select id % 3 as g, count(*) as n, sum(v) as s from t group by all order by g",
    "select *, row_number() over (partition by id % 3 order by v desc) as r from t qualify r <= 2 order by id",
    "select date_trunc('month', t.at) as m, max(v) - min(v) as spread from t group by 1 order by 1",
    "select case when v > 5 then 'high' else 'low' end as k, avg(v) as a from t group by 1 having count(*) > 1 order by 1",
    "select a.id, b.v from t a left join t b on a.id = b.id + 1 where coalesce(b.v, 0) >= 0 order by a.id",
    "with big as (select * from t where v > 3) select count(distinct id) as n, string_agg(name, ',' order by id) as l from big",
    "select name, upper(substr(name, 1, 2)) as u, length(name) as l, name ilike 'N%' as y from t order by id",
    "select id, t.at + interval 1 day as later, extract(year from t.at) as y, cast(v as varchar) as t from t order by id",
]


@pytest.mark.parametrize("text", SAME_ROWS)
def test_a_transpiled_query_returns_the_same_rows(text):
    """Snowflake's SQL is transpiled back and run by DuckDB, because the answers of fakesnow cannot be relied on."""
    back = sqlglot.transpile(in_snowflake(text), read="snowflake", write="duckdb", error_level=ErrorLevel.RAISE)[0]
    with connect() as con:
        con.execute(
            "create temp table t as select i::bigint as id, (i * 7 % 11)::decimal(9,2) as v, 'n' || i as name, "
            "timestamp '2024-01-30' + to_days(i::integer) as at from range(12) r(i)"
        )
        assert con.execute(back).fetchall() == con.execute(text).fetchall()
