"""Each type arrives in Snowflake exactly: values are compared inside Snowflake, because fakesnow's answers lie for some."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipeline.core.errors import StorageError
from pipeline.kernel.engine import connect, schema_of
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.types import as_stored
from pipeline.warehouse import Load

VALUES = [
    # type in DuckDB, value in DuckDB, and a condition of Snowflake on the column "X" that holds for exactly this value
    ("bigint", "9223372036854775807", '"X" = 9223372036854775807'),
    ("bigint", "-9223372036854775808", '"X" = -9223372036854775808'),
    ("tinyint", "-128", '"X" = -128'),
    ("ubigint", "18446744073709551615", '"X" = 18446744073709551615'),
    (
        "decimal(38,18)",
        "12345678901234567890.123456789012345678",
        "CAST(\"X\" AS VARCHAR) = '12345678901234567890.123456789012345678'",
    ),
    (
        "decimal(38,0)",
        "99999999999999999999999999999999999999",
        "CAST(\"X\" AS VARCHAR) = '99999999999999999999999999999999999999'",
    ),
    ("decimal(9,2)", "-0.01", "CAST(\"X\" AS VARCHAR) = '-0.01'"),
    ("double", "0.1", '"X" = CAST(0.1 AS FLOAT)'),
    ("double", "'nan'", "\"X\" = CAST('NaN' AS FLOAT)"),
    ("double", "'-infinity'", "\"X\" = CAST('-inf' AS FLOAT)"),
    ("float", "1.5", '"X" = 1.5'),
    ("boolean", "true", '"X"'),
    (
        "varchar",
        "'it''s a \\ ''NULL'' ' || chr(10) || 'ü€𝄞'",
        "LENGTH(\"X\") = 20 AND \"X\" LIKE 'it''s a %' AND \"X\" LIKE '%ü€𝄞'",
    ),
    ("varchar", "''", "\"X\" = ''"),
    ("date", "'2024-02-29'", "CAST(\"X\" AS VARCHAR) = '2024-02-29'"),
    ("date", "'0001-01-01'", "CAST(\"X\" AS VARCHAR) = '0001-01-01'"),
    ("date", "'9999-12-31'", "CAST(\"X\" AS VARCHAR) = '9999-12-31'"),
    ("timestamp", "'2024-01-01 00:00:00.123456'", "\"X\" = CAST('2024-01-01 00:00:00.123456' AS TIMESTAMP_NTZ)"),
    ("timestamp", "'1969-12-31 23:59:59.999999'", "\"X\" = CAST('1969-12-31 23:59:59.999999' AS TIMESTAMP_NTZ)"),
    (
        "timestamptz",
        "'2024-01-01 00:00:00.123456+02'",
        "\"X\" = CAST('2023-12-31 22:00:00.123456 +00:00' AS TIMESTAMP_TZ)",
    ),
    ("time", "'23:59:59.999999'", "\"X\" = '23:59:59.999999'"),
    ("uuid", "'00000000-0000-4000-8000-0000000000aa'", "\"X\" = '00000000-0000-4000-8000-0000000000aa'"),
    ("blob", "'\\x00\\xAB\\xFF'::blob", "\"X\" = TO_BINARY('00ABFF', 'HEX')"),
    ("integer[]", "[1, null, 3]", 'ARRAY_SIZE("X") = 3 AND CAST("X"[2] AS INT) = 3'),
    ("integer[]", "[]", 'ARRAY_SIZE("X") = 0'),
    (
        "struct(a integer, b varchar)",
        "{'a': 1, 'b': 'it''s'}",
        'CAST("X":"a" AS INT) = 1 AND CAST("X":"b" AS VARCHAR) = \'it\'\'s\'',
    ),
    (
        "struct(n double, big bigint)",
        "{'n': 'nan', 'big': 9223372036854775807}",
        'CAST("X":"n" AS VARCHAR) = \'nan\' AND CAST("X":"big" AS BIGINT) = 9223372036854775807',
    ),
    ("struct(b blob)[]", "[{'b': '\\xAB'::blob}]", 'CAST("X"[0]:"b" AS VARCHAR) = \'AB\''),
    ("map(varchar, double)", "map {'k': 0.5}", 'CAST("X":"k" AS FLOAT) = 0.5'),
]


def load_of(tmp_path, kind: str, values: list[str]) -> Load:
    path = str(tmp_path / "values.parquet")
    rows = ", ".join(f"({number}, ({value})::{kind})" for number, value in enumerate(values))
    with connect() as con:
        query = as_stored(con, f"select * from (values {rows}) as v(id, x)")
        con.execute(f"copy ({query}) to '{path}' (format parquet)")
        schema = schema_of(con, query)
    return Load("t", 0, 7, Scan(schema, (DataFile(path, len(values), 1000),)), key=("id",))


@pytest.mark.share(12)
@pytest.mark.parametrize("case", VALUES, ids=lambda case: f"{case[0]}-{case[1][:12]}")
def test_values_and_nulls_arrive_exactly(snowflake_account, snowflake, tmp_path, case):
    kind, value, condition = case
    if kind == "decimal(38,0)" and not snowflake_account.is_real:
        pytest.skip("fakesnow stores NUMBER(38,0) in 64 bits")
    snowflake.load(load_of(tmp_path, kind, [value, "null"]))
    with snowflake.sessions.session("test") as session:
        given = f'SELECT COUNT(*) AS "N" FROM "T" WHERE "ID" = 0 AND "X" IS NOT NULL AND {condition}'
        assert session.number(given) == 1
        assert session.number('SELECT COUNT(*) AS "N" FROM "T" WHERE "ID" = 1 AND "X" IS NULL') == 1


@pytest.mark.parametrize("value", ["timestamp 'infinity'", "timestamp '10000-01-01'", "date '0044-03-15 (BC)'"])
def test_times_that_snowflake_cannot_store_are_named(snowflake, tmp_path, value):
    kind = value.partition(" ")[0]
    with pytest.raises(StorageError, match="column 'x' has a date outside the years 1 to 9999"):
        snowflake.load(load_of(tmp_path, kind, [value]))
    assert snowflake.loaded() == {}


def test_an_arrow_answer_has_the_values(snowflake, tmp_path):
    snowflake.load(load_of(tmp_path, "bigint", ["5"]))
    assert snowflake.query("select id, x from t").to_pylist() == [{"ID": 0, "X": 5}]
    assert isinstance(snowflake.query("select x from t"), pa.Table)
