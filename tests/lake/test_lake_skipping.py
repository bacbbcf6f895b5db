"""Data skipping excludes files that a statement cannot need, and never one that it needs."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pytest

from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect
from pipeline.kernel.planner.pruning import file_conditions
from pipeline.kernel.sql import parse
from pipeline.kernel.types import from_arrow
from pipeline.lake import Lake, Storage, files_for

DAYS = [dt.date(2024, 1, day) for day in range(1, 13)]
ROWS = pa.table(
    {
        "n": range(12),
        "word": ["9", "10", "11", "a", "b", "c", "d", "e", "f", None, "g", "h"],
        "day": DAYS,
        "moment": pa.array([1_704_067_200_000_000 + 1500 * n for n in range(12)], pa.timestamp("us")),
        "x": [n / 4 for n in range(12)],
        "part": [n // 6 for n in range(12)],
    }
)


@pytest.fixture(params=[(), ("part",)], ids=["plain", "partitioned"])
def table(tmp_path, request):
    """A table of four files with three rows each."""
    lake_table = Lake(Storage(str(tmp_path))).table("silver", "t", partition_by=request.param)
    stager = lake_table.stager("r")
    files = []
    with connect() as con:
        for number in range(4):
            con.register("rows", ROWS.slice(3 * number, 3))
            files += stager.stage(con, "select * from rows", number)
    lake_table.commit(Manifest("t", "r", "f", "overwrite"), files, from_arrow(ROWS.schema), None)
    return lake_table


@pytest.mark.parametrize(
    ("statement", "left"),
    [
        ("select * from t", 4),
        ("select * from t where n > 8", 1),
        ("select * from t where 8 < N and x < 100", 1),
        ("select * from t where n between 2 and 3", 2),
        ("select * from t where n in (0, 11)", 2),
        ("select * from t where n = 4 or n = 5", 4),
        ("select * from t where n + 1 > 11", 4),
        ("select * from t where day >= date '2024-01-10'", 1),
        ("select * from t where day = '2024-01-05'", 1),
        ("select * from t where word = 'g'", 1),
        ("select * from t where part = 1", 2),
        ("select * from t where part = 1 and n < 7", 1),
        ("select * from t where x >= -1 and x < 0.5", 1),
        ("with c as (select * from t where n < 3) select * from c", 1),
        ("select * from u where exists (select 1 from t where t.n = 5 and t.n = u.n)", 1),
        ("select * from u left join t on t.n = u.n where t.n > 8", 1),
        ("select * from u left join t on t.n = u.n and t.n > 8", 4),
        ("select * from t a join t b using (n) where a.n > 8", 4),
        ("select t.n from t, u where x > 2.1", 4),  # the text does not determine which table `x` belongs to
        ("select * from t where n > 100", 0),
        ("select * from t where moment > timestamp '2024-01-01 00:00:00.0165'", 1),
    ],
)
def test_files_are_skipped(table, statement, left):
    version = table.version()

    selected = files_for(table, version, file_conditions(parse(statement), "t", version.schema))

    assert len(selected) == left
    with connect() as con:
        con.register("u", pa.table({"n": [5, 9]}))
        answers = []
        for files in (version.files, selected):
            scan = version.scan() if files is version.files else type(version.scan())(version.schema, files)
            con.execute(f"create or replace temp view t as {scan.query()}")
            answers.append(con.execute(f"select * from ({statement}) order by all").fetchall())
    assert answers[0] == answers[1]


def test_text_compared_with_a_number_has_a_different_order_than_the_bounds(table):
    version = table.version()

    assert file_conditions(parse("select * from t where word > 9 and '3' < n"), "t", version.schema) == ()


def test_all_files_are_kept_if_a_condition_cannot_be_evaluated(table):
    version = table.version()
    schema = Schema.of({"n": "BIGINT", "unknown": "BIGINT"})

    assert len(files_for(table, version, file_conditions(parse("select * from t where unknown = 1"), "t", schema))) == 4
    assert (
        len(
            files_for(table, version, file_conditions(parse("select * from t where day = 'soon'"), "t", version.schema))
        )
        == 4
    )
