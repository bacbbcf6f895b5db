"""Rows that are read while they are computed: what fails in the middle is DuckDB's error, as in a query that is computed at once."""

from __future__ import annotations

import threading

import duckdb
import pytest

from pipeline.kernel.engine import arrow_reader, arrow_within, connect
from pipeline.kernel.pool import Limits

ROWS = "(select i, i::varchar || if(i = 700000, 'x', '') as s from range(800000) as r(i))"


@pytest.fixture
def con():
    with connect(Limits(256 << 20, 1)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("expression", "error"),
    [
        ("s::bigint", duckdb.ConversionException),
        ("if(i = 700000, error('no'), 1)", duckdb.InvalidInputException),
        ("(if(i = 700000, 100000, 1))::smallint", duckdb.ConversionException),
        ("9223372036854775807 + if(i = 700000, 1, 0)", duckdb.OutOfRangeException),
    ],
)
def test_an_error_in_the_middle_is_that_of_the_engine(con, expression, error):
    reader = arrow_reader(con, f"select {expression} as v from {ROWS}", 1000)
    with pytest.raises(error):
        for _ in reader:
            pass
    with pytest.raises(error):
        arrow_within(con, f"select {expression} as v from {ROWS}", 1 << 30)


def test_an_interrupt_in_the_middle_is_one(con):
    reader = arrow_reader(con, f"select a.i from {ROWS} as a, {ROWS} as b where hash(a.i, b.i) % 1000 = 1", 1000)
    reader.read_next_batch()
    timer = threading.Timer(0.2, con.interrupt)
    timer.start()
    with pytest.raises(duckdb.InterruptException):
        for _ in reader:
            pass
    timer.join()


def test_all_rows_are_read_in_batches(con):
    batches = [batch.num_rows for batch in arrow_reader(con, f"select i from {ROWS}", 100_000)]
    assert sum(batches) == 800_000
    assert max(batches) <= 100_352  # whole vectors
