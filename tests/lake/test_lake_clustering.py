"""Compaction orders rows so that conditions on each of the columns skip row groups."""

from __future__ import annotations

import random

import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import ConflictError
from pipeline.kernel.engine import connect
from pipeline.lake import CompactionOptions, compact, compaction
from pipeline.lake.clustering import clustered


def row_groups(file: str, column: str, value: int) -> int:
    """Count the row groups that may have a value of a column, by their bounds."""
    metadata = pq.ParquetFile(file).metadata
    index = metadata.schema.to_arrow_schema().get_field_index(column)
    bounds = [metadata.row_group(number).column(index).statistics for number in range(metadata.num_row_groups)]
    return sum(each.min <= value <= each.max for each in bounds)


def test_rows_follow_the_curve_and_none_is_lost(writer, monkeypatch):
    monkeypatch.setattr("pipeline.lake.stager.ROW_GROUP", 2048)
    w, seen = writer(), None
    for number in range(4):
        select = f"select hash(i) % 300 as a, hash(i + 7777777) % 40 as b, i from range({number * 8192}, {number * 8192 + 8192}) as t(i)"
        seen = w.write(f"select a::integer as a, b::integer as b, i from ({select})", f"r{number}", "append", seen)
    before = [sum(row_groups(file.uri, name, 20) for file in seen.files) for name in ("a", "b")]

    compact(w.table, w.table.head(), CompactionOptions(cluster_by=("a", "b", "unknown")))

    [file] = w.table.version().files
    with connect() as con:
        rows = con.execute(f"select count(*), count(distinct i), sum(a) from '{file.uri}'").fetchone()
        assert rows[:2] == (32768, 32768)
        assert con.execute(f"select sum(a) from ({seen.scan().query()})").fetchone() == rows[2:]
    after = [row_groups(file.uri, name, 20) for name in ("a", "b")]
    assert before == [16, 16]
    assert after[0] <= 6
    assert after[1] <= 8


@pytest.mark.parametrize("columns", [(), ("unknown",), ("a",), ("a", "b"), ("b", "a", "c")])
def test_any_values_can_be_ordered(writer, columns):
    dice = random.Random(len(columns))  # noqa: S311 - test data
    values = ", ".join(
        f"({dice.choice(['null', '1', '2'])}, {dice.choice(['null', repr('x'), repr('y')])}, [{dice.randint(0, 3)}])"
        for _ in range(50)
    )
    version = writer().write(f"select * from (values {values}) as t(a, b, c)")
    with connect() as con:
        rows = con.execute(clustered(version.scan(), columns)).fetchall()
        assert sorted(map(str, rows)) == sorted(map(str, con.execute(version.scan().query()).fetchall()))
        if columns == ("a",):
            assert [row[0] for row in rows if row[0] is not None] == sorted(
                row[0] for row in rows if row[0] is not None
            )


def test_a_compaction_that_loses_to_a_writer_leaves_no_files(writer, monkeypatch):
    w = writer()
    for n in range(4):
        w.write(f"select {n} as a", f"r{n}", "append", w.table.version() if n else None)
    written = compaction._written  # noqa: SLF001 - between staging and commit

    def beside(*args):
        files = written(*args)
        w.write("select 9 as a", "r9", "append", w.table.version())
        return files

    monkeypatch.setattr(compaction, "_written", beside)
    with pytest.raises(ConflictError, match="another process committed 't' concurrently"):
        compact(w.table, w.table.head())
    assert w.table.storage.names("part-compacted") == ()
    assert w.table.version().rows == 5
