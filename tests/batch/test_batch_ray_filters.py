"""Filters of Ray datasets in SQL: rows that the expression keeps are never lost, and what can be translated is."""

from __future__ import annotations

import datetime as dt
import math

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from ray.data.datatype import DataType
from ray.data.expressions import col, lit, udf

from pipeline.batch.ray_filters import columns_of, conditions_of
from pipeline.kernel.engine import connect
from pipeline.kernel.types import from_arrow

pytestmark = pytest.mark.ray
AT = dt.datetime(2026, 1, 1, 12, 0, 0, 1, tzinfo=None)  # noqa: DTZ001 - a column without a time zone
ROWS = pa.table(
    {
        "row": range(6),
        "n": pa.array([None, -1, 0, 1, 2, 1 << 60], pa.int64()),
        "x": pa.array([None, math.nan, -0.0, 0.1, 1.0, math.inf], pa.float64()),
        "s": pa.array([None, "", "a", "A", "a'b", "ä"]),
        "b": pa.array([None, True, False, True, False, True]),
        "day": pa.array([None, *(dt.date(2026, 1, day) for day in range(1, 6))]),
        "at": pa.array([None, *(AT + dt.timedelta(microseconds=n) for n in range(5))], pa.timestamp("us")),
        "z": pa.array([None, *(AT.replace(tzinfo=dt.UTC) for _ in range(5))], pa.timestamp("us", "UTC")),
        "f": pa.array([None, 0.1, 0.2, 0.3, 0.4, 0.5], pa.float32()),
    }
)


@udf(return_dtype=DataType.bool())
def is_odd(n: pa.Array) -> pa.Array:
    return pc.equal(pc.bit_wise_and(n, 1), 1)


def kept_by_sql(conditions: tuple[str, ...]) -> set[int]:
    with connect() as con:
        con.register("rows", ROWS)
        where = " and ".join(f"({condition})" for condition in conditions)
        return {row[0] for row in con.execute(f"select row from rows where {where}").fetchall()}


def kept_by_ray(expr) -> set[int]:
    return set(ROWS.filter(expr.to_pyarrow())["row"].to_pylist())


@pytest.mark.parametrize(
    ("expr", "sql"),
    [
        (col("n") > 0, '"n" > 0'),
        (lit(0) < col("n"), '"n" > 0'),
        (col("n") != 1, '"n" <> 1'),
        (col("n") <= -1, '"n" <= -1'),
        (col("n") == 1 << 60, f'"n" = {1 << 60}'),
        (col("n").is_in([1, 2]), '"n" in (1, 2)'),
        (col("n").is_null(), '"n" is null'),
        (col("n").is_not_null(), '"n" is not null'),
        (col("x") == 0.1, '"x" = 0.1e0'),
        (col("x") < 1e300, '"x" < 1e+300'),
        (col("x") == 0, '"x" = 0'),
        (col("s") == "a'b", "\"s\" = 'a''b'"),
        (col("s") > "a", "\"s\" > 'a'"),
        (col("b") == True, '"b" = true'),  # noqa: E712 - an expression
        (col("day") >= dt.date(2026, 1, 3), "\"day\" >= '2026-01-03'"),
        (col("at") > AT, "\"at\" > '2026-01-01 12:00:00.000001'"),
        (col("z") == AT.replace(tzinfo=dt.UTC), "\"z\" = '2026-01-01 12:00:00.000001+00:00'"),
        ((col("n") < 0) | (col("s") == "a"), '("n" < 0) or ("s" = \'a\')'),
        ((col("n") < 0) | ((col("s") == "a") & ~col("b")), '("n" < 0) or (("s" = \'a\'))'),
    ],
    ids=str,
)
def test_a_filter_is_translated(expr, sql):
    assert conditions_of(expr, from_arrow(ROWS.schema)) == (sql,)
    assert kept_by_ray(expr) <= kept_by_sql((sql,))


def test_infinite_and_missing_numbers_are_compared_by_ray():
    expr = (col("x") > 1.0) & (col("n") > 1)

    assert kept_by_ray(col("x") > 1.0) == {5}
    assert kept_by_sql(conditions_of(col("x") > 1.0, from_arrow(ROWS.schema))) == {1, 5}  # NaN is the greatest in SQL
    assert kept_by_ray(expr) == kept_by_sql(conditions_of(expr, from_arrow(ROWS.schema))) == {5}


@pytest.mark.parametrize(
    "expr",
    [
        ~(col("x") > 0.5),
        col("n").not_in([1]),
        col("x") == lit(math.nan),
        col("x") < math.inf,
        col("x").is_in([0.1, math.nan]),
        col("n") == 1.0,
        col("s") == 1,
        col("f") == 0.1,
        col("at") == AT.replace(tzinfo=dt.UTC),
        col("n") + 1 > 2,
        col("n") > col("x"),
        col("nothing") > 1,
        is_odd(col("n")),
        (col("n") < 0) | ~col("b"),
    ],
    ids=str,
)
def test_what_the_engines_compare_differently_is_left_to_ray(expr):
    assert conditions_of(expr, from_arrow(ROWS.schema)) == ()


def test_a_part_of_a_conjunction_is_translated():
    expr = (col("n") > 0) & ~col("b") & (col("s") == "a'b")

    assert conditions_of(expr, from_arrow(ROWS.schema)) == ('"n" > 0', "\"s\" = 'a''b'")
    assert columns_of(expr) == ("n", "b", "s")
    assert columns_of(is_odd(col("n")) | col("x").is_in([0.1])) == ("n", "x")
