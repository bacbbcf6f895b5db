"""Splits of a scan consist of complete files in order, and together equal the scan."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect, one
from pipeline.kernel.scan import DataFile, Scan, register

SCHEMA = Schema.of({"x": "BIGINT", 'odd "name"': "VARCHAR"})
FILES = st.lists(st.builds(DataFile, st.uuids().map(str), st.integers(0, 9), st.integers(0, 100)), max_size=20)


@given(files=FILES, target=st.integers(1, 300))
def test_splits_together_equal_the_scan(files, target):
    scan = Scan(SCHEMA, tuple(files))
    parts = scan.splits(target)
    assert tuple(file for part in parts for file in part.files) == scan.files
    assert all(part.schema == SCHEMA for part in parts)
    assert (sum(part.rows for part in parts), sum(part.size_bytes for part in parts)) == (scan.rows, scan.size_bytes)


@given(files=FILES, target=st.integers(1, 300))
def test_split_has_at_most_the_target_size_unless_it_is_one_file(files, target):
    for part in Scan(SCHEMA, tuple(files)).splits(target):
        assert part.size_bytes <= target or len([f for f in part.files if f.size_bytes]) == 1


@given(files=FILES.filter(bool), target=st.integers(1, 300))
def test_consecutive_splits_cannot_be_combined(files, target):
    parts = Scan(SCHEMA, tuple(files)).splits(target)
    for left, right in pairwise(parts):
        assert left.size_bytes + right.files[0].size_bytes > target


def test_a_scan_without_files_is_one_split_without_rows():
    scan = Scan(SCHEMA)
    assert scan.splits(10) == (scan,)
    with connect() as con:
        assert arrow(con, scan.query()).schema == pa.schema([("x", pa.int64()), ('odd "name"', pa.string())])


@pytest.fixture
def files(tmp_path):
    """Three files with two rows each; the columns of the second are in another order."""
    written = []
    for number in range(3):
        rows = pa.table({"x": [number * 2, number * 2 + 1], 'odd "name"': ["a", "b"]})
        path = tmp_path / f"it's {number}.parquet"
        pq.write_table(rows if number != 1 else rows.select(['odd "name"', "x"]), path)
        written.append(DataFile(str(path), 2, path.stat().st_size))
    return tuple(written)


def test_rows_are_in_the_order_of_the_files(files):
    scan = Scan(SCHEMA, files)
    with connect() as con:
        rows = con.execute(scan.query()).fetchall()
        pieces = [row for part in scan.splits(1) for row in con.execute(part.query()).fetchall()]
    assert rows == pieces == [(0, "a"), (1, "b"), (2, "a"), (3, "b"), (4, "a"), (5, "b")]


def test_inputs_become_views_of_their_names(files):
    with connect() as con:
        register(con, {"some files": Scan(SCHEMA, files), "rows": pa.table({"x": [1, 5]})})
        assert one(con, 'select count(*) from "some files" semi join rows using (x)') == (2,)
        register(con, {"some files": Scan(SCHEMA, files[:1])})
        assert one(con, 'select count(*) from "Some Files"') == (2,)


def test_a_scan_survives_pickling(files):
    scan = Scan(SCHEMA, files)
    assert pickle.loads(pickle.dumps(scan)) == scan  # noqa: S301 - pickled by this test
