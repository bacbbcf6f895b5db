"""Functions on arrow, polars and pandas frames, and the errors that name their lines."""

from __future__ import annotations

import datetime as dt
import decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipeline.core.errors import DefinitionError
from pipeline.core.functions import table
from pipeline.kernel.frames import call

ROWS = pa.table(
    {
        "i": pa.array([1, None, 3], pa.int64()),
        "s": pa.array(["a", None, "c"]),
        "b": pa.array([True, None, False]),
        "d": pa.array([dt.date(2013, 1, 1), None, dt.date(2013, 1, 3)]),
        "m": pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("-2.25")], pa.decimal128(9, 2)),
        "t": pa.array([dt.datetime(2013, 1, 1, tzinfo=dt.UTC), None, None], pa.timestamp("us", "UTC")),
        "l": pa.array([[1], None, []], pa.list_(pa.int32())),
    }
)


def run(definition, **tables):
    return call(definition.transform, tables, definition.place)


@table()
def same_arrow(rows: pa.Table) -> pa.Table:
    return rows


@table()
def same_polars(rows: pl.DataFrame) -> pl.DataFrame:
    return rows


@table()
def same_pandas(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


@pytest.mark.parametrize("definition", [same_arrow, same_pandas], ids=["arrow", "pandas"])
@pytest.mark.parametrize("rows", [ROWS, ROWS.slice(1, 1), ROWS.slice(0, 0)], ids=["all", "nulls", "none"])
def test_types_and_nulls_survive(definition, rows):
    result = run(definition, rows=rows)
    assert result.schema.equals(rows.schema)
    assert result.equals(rows)


def test_polars_keeps_values():
    result = run(same_polars, rows=ROWS)
    assert result.to_pylist() == ROWS.to_pylist()
    assert result.schema.field("i").type == pa.int64()


@table()
def doubled_arrow(rows: pa.Table, factors: pa.Table) -> pa.Table:
    return rows.select(["i"]).append_column("j", pc.multiply(rows["i"], factors["f"][0]))


@table()
def doubled_polars(rows: pl.DataFrame, factors: pl.DataFrame) -> pl.DataFrame:
    return rows.select("i", j=pl.col("i") * factors["f"][0])


@table()
def doubled_pandas(rows: pd.DataFrame, factors: pd.DataFrame) -> pd.DataFrame:
    return rows[["i"]].assign(j=rows["i"] * factors["f"].iloc[0]).sort_values("i", ascending=False)


@pytest.mark.parametrize("definition", [doubled_arrow, doubled_polars, doubled_pandas])
def test_two_inputs(definition):
    result = run(definition, rows=ROWS, factors=pa.table({"f": [2]}))
    assert result.schema == pa.schema([("i", pa.int64()), ("j", pa.int64())])
    assert {row["i"]: row["j"] for row in result.to_pylist()} == {1: 2, 3: 6, None: None}


@table()
def wrong_arrow(rows: pa.Table) -> pa.Table:
    return rows.to_pylist()


@table()
def wrong_polars(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.lazy()


@table()
def wrong_pandas(rows: pd.DataFrame) -> pd.DataFrame:
    return rows["i"]


@pytest.mark.parametrize(
    ("definition", "got"), [(wrong_arrow, "list"), (wrong_polars, "LazyFrame"), (wrong_pandas, "Series")]
)
def test_functions_that_do_not_return_a_table(definition, got):
    with pytest.raises(
        DefinitionError, match=f"must return a table: got {got}; return the type of its inputs"
    ) as caught:
        run(definition, rows=ROWS)
    assert caught.value.place == definition.place


@table()
def mixed_pandas(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"x": [rows, "a", 1]})


def test_a_column_of_mixed_values():
    with pytest.raises(
        DefinitionError, match=r"'mixed_pandas' returned a column that cannot be converted to Arrow.*single type"
    ):
        run(mixed_pandas, rows=ROWS)


def _helper(rows):
    return rows["nowhere"]


@table()
def failing(rows: pa.Table) -> pa.Table:
    doubled = rows
    return _helper(doubled)


@table()
def failing_inside_arrow(rows: pa.Table) -> pa.Table:
    return (
        rows
        .select(["nowhere"])
    )  # fmt: skip


def test_an_error_names_the_deepest_line_of_the_users_file():
    with pytest.raises(DefinitionError, match="table 'failing' raised KeyError") as caught:
        run(failing, rows=ROWS)
    assert caught.value.place.file == __file__
    assert caught.value.place.line == _helper.__code__.co_firstlineno + 1
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_error_inside_a_library_names_the_users_line():
    with pytest.raises(DefinitionError, match="raised KeyError") as caught:
        run(failing_inside_arrow, rows=ROWS)
    first = failing_inside_arrow.transform.function.__code__.co_firstlineno
    assert caught.value.place.line in range(first + 2, first + 6)


@table()
def zoned(rows: pd.DataFrame) -> pd.DataFrame:
    assert len(rows) == 3
    at = pd.Series([pd.Timestamp("2026-03-01 12:00", tz="Europe/Berlin"), pd.NaT], index=[7, 8])
    return pd.DataFrame({"at": at, "n": [1, 2]})


def test_times_with_a_zone_are_instants():
    at = dt.datetime(2026, 3, 1, 11, tzinfo=dt.UTC)
    assert run(zoned, rows=ROWS).to_pylist() == [{"at": at, "n": 1}, {"at": None, "n": 2}]
