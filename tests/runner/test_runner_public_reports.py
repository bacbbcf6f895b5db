"""Inputs that gave wrong results in other engines, as reported by users, with the correct result.

docs/decisions/0009-public-reports.md lists the reports and the results.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import HeadwaterError
from pipeline.project import Workspace, load
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.runner import Runner, RunOptions

TOML = '[project]\nname = "p"\ndefinitions = "p.py"\n'
IMPORTS = (
    "import pyarrow as pa\nfrom pipeline import dimension, fact, files, lookup, mart, quarantine, source, sql, table\n"
)


@pytest.fixture
def project(tmp_path):
    """Write the definitions of a project, and return its folder."""

    def write(text: str) -> Path:
        folder = tmp_path / "project"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "headwater.toml").write_text(TOML)
        (folder / "p.py").write_text(IMPORTS + text)
        return folder

    return write


def run(folder: Path, **options: object) -> None:
    Runner(load(folder), RunOptions(**options)).run()


def ask(folder: Path, query: str) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in Workspace(load(folder)).query(query).to_pylist()]


def reasons(folder: Path, table: str = "raw") -> list[str]:
    return quarantined_rows(Workspace(load(folder)), table).column("reasons").to_pylist()


RAW = 'raw = source(files("data/*.csv"), schema={"id": "bigint", "val": "varchar"})\n'


# --- text


def test_rows_with_cr_cr_lf_line_ends_are_read_once(project):
    """duckdb 25164: rows of a file with CR CR LF line ends were read twice at split boundaries."""
    folder = project(RAW)
    lines = ["id,val", *(f"{number},x" for number in range(60_000))]
    (folder / "data" / "a.csv").write_bytes("".join(f"{line}\r\r\n" for line in lines).encode())
    try:
        run(folder)
    except HeadwaterError as error:  # rejecting the file is also correct
        assert "a.csv" in str(error)  # noqa: PT017
        return
    rows, distinct = ask(folder, "select count(*), count(distinct id) from raw")[0]
    assert rows == distinct
    assert rows + len(reasons(folder)) == 60_000


def test_valid_rows_near_a_stray_line_break_are_kept(project):
    """duckdb 14177: valid rows near invalid line breaks were lost."""
    folder = project(RAW)
    text = "id,val\n" + "".join(f"{n},v{n}\n" if n % 1000 else f"{n},v\n{n}\n" for n in range(1, 20_001))
    (folder / "data" / "a.csv").write_text(text)
    run(folder)
    kept = {row[0] for row in ask(folder, "select id from raw")}
    assert {n for n in range(1, 20_001) if n % 1000} <= kept
    assert len(kept) + len(reasons(folder)) >= 20_000
    assert ask(folder, "select count(*) from raw")[0][0] + len(reasons(folder)) == text.count("\n") - 1


def test_single_text_column_with_a_doubly_quoted_last_line(project):
    """duckdb 1501: a file with one column and a last line `\"\"A\"\"` lost ten rows."""
    folder = project('raw = source(files("data/*.csv"), schema={"a": "varchar"})\n')
    (folder / "data" / "a.csv").write_text("a\n" + "A\n" * 1034 + '""A""\n')
    run(folder)
    assert ask(folder, "select count(*) from raw")[0][0] + len(reasons(folder)) == 1035


def test_integers_at_and_beyond_the_limits_of_their_type(project):
    """polars 10635: out-of-range integers became null below ten digits, and an error above."""
    folder = project('raw = source(files("data/*.csv"), schema={"a": "tinyint", "b": "smallint"})\n')
    values = ["127,1", "128,1", "-128,1", "-129,1", "9999999999,1", "10000000000,1", "1,32767", "1,32768"]
    (folder / "data" / "a.csv").write_text("a,b\n" + "\n".join(values) + "\n")
    run(folder)
    assert ask(folder, "select a, b from raw order by all") == [(-128, 1), (1, 32767), (127, 1)]
    assert len(reasons(folder)) == 5


def test_integers_above_bigint_are_exact(project):
    """cudf 7088: integers above BIGINT in a column with nulls were read as floating-point numbers, and lost digits."""
    folder = project('raw = source(files("data/*.csv"))\n')
    (folder / "data" / "a.csv").write_text("id,n\n1,17758512297797920768\n2,\n3,3374168267804635136\n")
    run(folder)
    values = dict(ask(folder, "select id, n::varchar from raw"))
    assert values[1] == "17758512297797920768"
    assert values[2] is None
    assert values[3] == "3374168267804635136"


# --- tables that grow, are merged and partitioned


def test_merge_into_a_partition_value_with_a_space(project):
    """delta-rs 4352: a second merge into a partition whose value contains a space duplicated its rows."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"id": "bigint", "town": "varchar", "at": "timestamp", "n": "bigint"})\n'
        'towns = sql("select * exclude (_source, _position, _ingested_at) from raw", key=["id", "town"], '
        'sequence_by="at", partition_by="town")\n'
    )
    for number in range(3):
        rows = "".join(
            f"{i},New York,2026-01-0{number + 1},{number}\n{i},a/b c,2026-01-0{number + 1},{number}\n" for i in range(3)
        )
        (folder / "data" / f"f{number}.csv").write_text("id,town,at,n\n" + rows)
        run(folder)
        assert ask(folder, "select count(*), min(n), max(n) from towns") == [(6, number, number)]


def test_row_that_changes_its_partition_is_removed_from_the_old_one(project):
    """delta-rs 2362: a merge that changed the partition column lost rows, or kept rows that it should remove."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"id": "bigint", "part": "varchar", "at": "bigint"})\n'
        'things = sql("select id, part, at from raw", key="id", sequence_by="at", partition_by="part")\n'
    )
    (folder / "data" / "a.csv").write_text("id,part,at\n" + "".join(f"{i},A,1\n" for i in range(100)))
    run(folder)
    (folder / "data" / "b.csv").write_text("id,part,at\n" + "".join(f"{i},B,2\n" for i in range(0, 100, 2)))
    run(folder)
    assert ask(folder, "select part, count(*) from things group by part order by part") == [("A", 50), ("B", 50)]


def test_duplicates_in_the_source_of_a_merge(project):
    """delta-rs 2961: duplicates in the source of a merge were all inserted."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"id": "bigint", "at": "bigint", "v": "varchar"})\n'
        'things = sql("select id, at, v from raw", key="id", sequence_by="at")\n'
    )
    (folder / "data" / "a.csv").write_text("id,at,v\n1,1,a\n1,1,a\n1,2,b\n1,2,b\n2,1,c\n")
    run(folder)
    (folder / "data" / "b.csv").write_text("id,at,v\n1,2,b\n2,1,c\n2,1,c\n")
    run(folder)
    assert ask(folder, 'select id, "at", v from things order by id') == [(1, 2, "b"), (2, 1, "c")]


def test_rows_with_the_same_cursor_value_are_read_once(project):
    """airbyte 44450 and dlt 1062: rows that share the last cursor value were lost by `>` or duplicated by `>=`."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"id": "bigint", "day": "date"})\n'
        'days = mart("select day, count(*) as n from raw group by day", key="day")\n'
    )
    for number in range(4):
        (folder / "data" / f"f{number}.csv").write_text(f"id,day\n{number},2026-01-01\n{number + 10},2026-01-01\n")
        run(folder)
        run(folder)
    assert ask(folder, "select * from days") == [(datetime(2026, 1, 1).date(), 8)]  # noqa: DTZ001 - a date


# --- data skipping


MICROS = ["2026-01-01 00:00:00.123456", "2026-01-01 00:00:00.123999", "2026-01-01 00:00:00.124000"]


@pytest.mark.parametrize("kind", ["timestamp", "timestamptz"])
def test_filter_between_two_milliseconds_matches(project, kind):
    """iceberg 18173 and pond 107: bounds in other units, or truncated to milliseconds, excluded files with matching rows."""
    folder = project(
        f'raw = source(files("data/*.csv"), schema={{"at": "{kind}"}})\n'
        f"late = sql(\"select at from raw where at > {kind} '2026-01-01 00:00:00.123998'\")\n"
        f"exact = sql(\"select at from raw where at = {kind} '2026-01-01 00:00:00.123999'\")\n"
        f"text = sql(\"select at from raw where at >= '2026-01-01 00:00:00.123999'\")\n"
    )
    zone = "Z" if kind == "timestamptz" else ""
    for number, at in enumerate(MICROS):
        (folder / "data" / f"f{number}.csv").write_text(f"at\n{at}{zone}\n")
    run(folder)
    assert ask(
        folder, "select (select count(*) from late), (select count(*) from exact), (select count(*) from text)"
    ) == [(2, 1, 2)]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_parquet_timestamps_of_every_unit(project, unit):
    """iceberg 18173: milliseconds in a Parquet file were compared as microseconds."""
    folder = project(
        'raw = source(files("data/*.parquet"))\n'
        "old = sql(\"select at from raw where at < timestamp '1990-01-01'\")\n"
        "new = sql(\"select at from raw where at > timestamp '1990-01-01'\")\n"
    )
    at = pa.array([datetime(2020, 1, 1)], pa.timestamp(unit))  # noqa: DTZ001 - a TIMESTAMP has no zone
    pq.write_table(pa.table({"at": at}), folder / "data" / "a.parquet")
    run(folder)
    assert ask(folder, "select (select count(*) from old), (select count(*) from new)") == [(0, 1)]


def test_text_compared_as_time_is_not_skipped_by_its_text_order(project):
    """databend 20442: `2024-01-01T01` is between `2024-01-01 00` and `2024-01-01 23` as a time, but not as text."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"a": "varchar"})\n'
        "evening = sql(\"select a from raw where a::timestamp >= timestamp '2024-01-01 22:00:00'\")\n"
    )
    (folder / "data" / "a.csv").write_text("a\n2024-01-01 00:00:00\n2024-01-01 23:00:00\n2024-01-01T01:00:00\n")
    run(folder)
    assert ask(folder, "select a from evening") == [("2024-01-01 23:00:00",)]


def test_repeated_hour_at_the_end_of_daylight_saving_time(project):
    """doris 68118 and trino 9704: bounds or partition values in local time merged the repeated hour."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"at": "timestamptz"}, partition_by="at")\n'
        "second = sql(\"select at from raw where at > timestamptz '2021-10-31 00:45:00+00'\")\n"
    )
    moments = ["2021-10-31T00:30:00Z", "2021-10-31T01:30:00Z", "2021-10-31T02:30:00Z"]
    (folder / "data" / "a.csv").write_text("at\n" + "".join(f"{moment}\n" for moment in moments))
    run(folder)
    assert ask(folder, 'select count(*), count(distinct "at") from raw') == [(3, 3)]
    assert ask(folder, "select count(*) from second") == [(2,)]
    instants = [row[0].astimezone(UTC) for row in ask(folder, 'select "at" from raw order by 1')]
    assert instants == [datetime.fromisoformat(moment) for moment in moments]


def test_first_and_last_year(project):
    """risingwave 16895: 0001-01-01 became a date in 1 BC."""
    folder = project('raw = source(files("data/*.ndjson"), schema={"at": "timestamp", "day": "date"})\n')
    rows = [
        {"at": "0001-01-01T00:00:00", "day": "0001-01-01"},
        {"at": "9999-12-31T23:59:59.999999", "day": "9999-12-31"},
    ]
    (folder / "data" / "a.ndjson").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(folder)
    assert ask(folder, 'select "at", day from raw order by 1') == [
        (datetime(1, 1, 1), datetime(1, 1, 1).date()),  # noqa: DTZ001
        (datetime(9999, 12, 31, 23, 59, 59, 999999), datetime(9999, 12, 31).date()),  # noqa: DTZ001
    ]


# --- decimals, groups, joins


def test_decimals_and_large_integers_in_json_are_exact(project):
    """ticdc 6253: BIGINT and DECIMAL lost digits as JSON numbers."""
    folder = project('raw = source(files("data/*.ndjson"), schema={"n": "bigint", "d": "decimal(38,10)"})\n')
    (folder / "data" / "a.ndjson").write_text(
        '{"n": 9223372036854775807, "d": 1234567890123456789012345678.0123456789}\n'
    )
    run(folder)
    assert ask(folder, "select n, d::varchar from raw") == [
        (9223372036854775807, "1234567890123456789012345678.0123456789")
    ]


def test_null_in_a_not_in_and_in_a_key(project):
    """NOT IN over a column with a null is true for no row, in incremental and full runs; two null keys are two violations."""
    folder = project(
        'raw = source(files("data/r*.csv"), schema={"id": "bigint"})\n'
        'gone = source(files("data/g*.csv"), schema={"id": "bigint"})\n'
        'left_over = sql("select id from raw where id not in (select id from gone)")\n'
        'keyed = sql("select id from raw", key="id")\n'
    )
    (folder / "data" / "r.csv").write_text("id,\n1,\n2,\n,\n,\n".replace(",", "").replace("\n\n", '\n""\n'))
    (folder / "data" / "g.csv").write_text("id\n1\n")
    run(folder)
    before = ask(folder, "select count(*) from left_over")[0][0]
    (folder / "data" / "g2.csv").write_text('id\n""\n')
    run(folder)
    assert before >= 1
    assert ask(folder, "select count(*) from left_over") == [(0,)]
    assert ask(folder, "select count(*), count(distinct id) from keyed") == [(2, 2)]


def test_negative_zero_nan_and_infinity_as_groups_and_keys(project):
    """Engines differ in whether -0.0 and 0.0, or two NaN, are one group; GROUP BY and keys must agree."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"x": "double"})\n'
        'groups = mart("select x, count(*) as n from raw group by x", key="x")\n'
        'firsts = sql("select x from raw", key="x")\n'
    )
    (folder / "data" / "a.csv").write_text("x\n0.0\n-0.0\nnan\nNaN\ninf\n")
    run(folder)
    (folder / "data" / "b.csv").write_text("x\n-0.0\nnan\ninf\n")
    run(folder)
    assert sorted(n for _, n in ask(folder, "select x::varchar, n from groups")) == [2, 3, 3]
    assert ask(folder, "select count(*) from firsts") == [(3,)]
    equal = "select (x + 0)::varchar, n from groups order by all"  # which of the two zeros represents the group is not specified
    before = ask(folder, equal)
    run(folder, full=True)
    assert ask(folder, equal) == before


# --- event time (the corresponding streams are in tests/streaming/runtime and tests/streaming/operators)


@pytest.mark.proof
def test_join_at_the_end_of_its_interval_in_batch_and_stream(project):
    """flink 33524: a row exactly at the watermark was treated as late. Interval ends are inclusive in both clocks."""
    from pipeline.streaming.runtime.job import catch_up  # noqa: PLC0415 - only used here
    from pipeline.streaming.runtime.verify import verify  # noqa: PLC0415

    both = (
        'met = sql("select l.id, l.at, r.at as other from lefts l join rights r on l.id = r.id and '
        "r.at between l.at and l.at + interval '10 seconds'\")\n"
    )
    text = "".join(
        f'{name} = source(files("data/{name}*.csv"), schema={{"id": "bigint", "at": "timestamp"}}, event_time="at", stored=False)\n'
        for name in ("lefts", "rights")
    )
    folder = project(text + both)
    start = datetime(2026, 1, 1)  # noqa: DTZ001
    for number in range(3):
        left, right = start + timedelta(seconds=10 * number), start + timedelta(seconds=10 * number + 10)
        (folder / "data" / f"lefts{number}.csv").write_text(f"id,at\n{number},{left}\n")
        (folder / "data" / f"rights{number}.csv").write_text(f"id,at\n{number},{right}\n")
        catch_up(Workspace(load(folder)))
    assert ask(folder, "select count(*) from met") == [(3,)]
    assert verify(Workspace(load(folder)), "met").holds


def test_grouping_downstream_of_sessions_keeps_keys_apart(project):
    """beam 20438: a second grouping after sessions mixed elements of different users."""
    folder = project(
        'raw = source(files("data/*.csv"), schema={"who": "varchar", "what": "varchar", "at": "timestamp"})\n'
        "sessions = sql(\"select who, what, session(at, interval '15 seconds') as s, count(*) as n from raw group by all\")\n"
        'totals = sql("select who, s, sum(n)::bigint as n, count(*) as kinds from sessions group by who, s")\n'
    )
    rows = [(who, what, f"2026-01-01 00:00:{second:02}") for who in "ab" for what in "xy" for second in (0, 5, 40)]
    (folder / "data" / "a.csv").write_text("who,what,at\n" + "".join(",".join(row) + "\n" for row in rows))
    run(folder)
    assert ask(folder, "select who, n, kinds from totals order by all") == [
        ("a", 2, 2),
        ("a", 4, 2),
        ("b", 2, 2),
        ("b", 4, 2),
    ]
