"""ORC files: types, splits between stripes, and damaged files."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import orc

from pipeline import files
from pipeline.connectors.files import orc_stripes
from pipeline.connectors.files.orc_tail import stripes
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from tests.rigs.proofs import examples

COMPRESSIONS = ("uncompressed", "zlib", "snappy", "lz4", "zstd")


def read(path, schema=None, **options):
    reader = files(path, **options)
    (listed,) = reader.source_objects()
    return reader.read(SourceSplit(listed), schema or Schema.of(reader.schema(listed).as_dict()))


def test_types_are_kept(tmp_path):
    moment = dt.datetime(2026, 1, 31, 12, 30, 0, 123456)  # noqa: DTZ001
    table = pa.table(
        {
            "i8": pa.array([1, None], pa.int8()),
            "i64": [2**62, -1],
            "f": pa.array([1.5, None], pa.float32()),
            "text": ["ü", ""],
            "raw": [b"\xff", b""],
            "day": [dt.date(2026, 1, 1), None],
            "at": pa.array([moment, None], pa.timestamp("us")),
            "zoned": pa.array([moment, None], pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(10, 2)),
            "tags": pa.array([["a"], None], pa.list_(pa.string())),
            "more": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32())),
            "at_home": pa.array([{"t": moment}, None], pa.struct([("t", pa.timestamp("us"))])),
            "flag": [True, None],
        }
    )
    orc.write_table(table, tmp_path / "a.orc")

    reader = files(tmp_path / "a.orc")
    schema = reader.schema(reader.source_objects()[0]).as_dict()
    found = read(tmp_path / "a.orc")

    assert (schema["at"], schema["zoned"], schema["i8"]) == ("TIMESTAMP", "TIMESTAMPTZ", "TINYINT")
    assert schema["at_home"] == 'STRUCT("t" TIMESTAMP)'
    assert found.rejected.num_rows == 0
    for name in table.column_names:
        values = found.rows[name].to_pylist()
        expected = table[name].to_pylist()
        assert [v.replace(tzinfo=None) if name == "zoned" and v else v for v in values] == [
            v.replace(tzinfo=None) if name == "zoned" and v else v for v in expected
        ]


def test_nanoseconds_are_rejected_only_where_they_would_be_lost(tmp_path):
    table = pa.table(
        {"a": pa.array([1000, 1001], pa.timestamp("ns")), "b": pa.array([1000, 2000], pa.timestamp("ns", "UTC"))}
    )
    orc.write_table(table, tmp_path / "a.orc")

    found = read(tmp_path / "a.orc")

    assert found.rows[POSITION].to_pylist() == [1]
    assert found.rejected["reason"].to_pylist() == ["column 'a' is not TIMESTAMP: 1970-01-01 00:00:00.000001001"]


@pytest.mark.share(2)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_splits_are_between_stripes(compression, tmp_path):
    table = pa.table({"x": range(300_000), "y": [f"n{n * 7919 % 100_003}" for n in range(300_000)]})
    orc.write_table(
        table, tmp_path / "a.orc", compression=compression, stripe_size=200_000, compression_block_size=65536
    )
    reader, schema = files(tmp_path / "a.orc"), Schema.of({"x": "bigint", "y": "varchar"})
    (listed,) = reader.source_objects()
    with (tmp_path / "a.orc").open("rb") as file:
        found = stripes(file)
    assert sum(stripe.rows for stripe in found) == 300_000
    assert len(found) == orc.ORCFile(tmp_path / "a.orc").nstripes > 2

    whole = reader.read(SourceSplit(listed), schema).rows
    assert whole[POSITION].to_pylist() == list(range(1, 300_001))
    for target in (100_000, 700_000):
        splits = reader.splits(listed, target)
        parts = [part for split in splits for part in reader.parts(split, target // 3)]
        assert pa.concat_tables(reader.read(each, schema).rows for each in splits).equals(whole)
        assert pa.concat_tables(reader.read(each, schema).rows for each in parts).equals(whole)
        with connect(Limits(threads=1)) as con, reader.scan(con, splits[-1], schema) as scan:
            assert scan is not None
            rows = arrow(con, f"select x, y, {POSITION} from ({scan.query}) where not {MISFIT}")
            assert rows.equals(reader.read(splits[-1], schema).rows)
            assert scan.rows == rows.num_rows


def test_names_differing_in_case_can_be_renamed(tmp_path):
    orc.write_table(pa.table([[1], [2]], ["x", "X"]), tmp_path / "a.orc")

    with pytest.raises(SourceError, match="differ only in case"):
        read(tmp_path / "a.orc")
    found = read(tmp_path / "a.orc", Schema.of({"x": "bigint", "y": "bigint"}), rename={"X": "y"})
    assert found.rows.to_pylist() == [{"x": 1, "y": 2, POSITION: 1}]


def test_a_file_that_crashes_its_reader_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.orc"
    orc.write_table(pa.table({"x": [1]}), path)
    assert read(path).rows.num_rows == 1
    program = tmp_path / "crash.py"
    program.write_text("import os; os.abort()")
    with monkeypatch.context() as patch:
        patch.setattr(orc_stripes, "_PROGRAM", str(program))
        patch.setattr(orc_stripes, "_READERS", orc_stripes.ReaderProcesses())
        with pytest.raises(SourceError, match="cannot be read as ORC: got the file is damaged: its reader crashed"):
            read(path)
    assert read(path).rows.num_rows == 1


@settings(max_examples=examples(15, 1500), deadline=None)
@given(seed=st.integers(0, 10**9), compression=st.sampled_from(COMPRESSIONS))
def test_garbage_is_an_error_or_rows_but_never_a_crash(tmp_path_factory, seed, compression):
    drawn = random.Random(seed)  # noqa: S311 - a reproducible seed
    path = tmp_path_factory.mktemp("orc") / "a.orc"
    orc.write_table(pa.table({"x": range(50), "y": ["é"] * 50}), path, compression=compression)
    content = bytearray(path.read_bytes())
    for _ in range(drawn.randint(1, 3)):
        content[drawn.randrange(len(content))] = drawn.randrange(256)
    path.write_bytes(content if drawn.random() < 0.8 else content[: drawn.randrange(1, len(content))])
    try:
        found = read(path, Schema.of({"x": "bigint", "y": "varchar"}))
    except (SourceError, SchemaError):  # the second: a name changed
        return
    assert found.rows.num_rows + found.rejected.num_rows <= 50


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"ORC", ".*"), (b"garbage that is long enough", ".*"), (b"", "0 bytes")],
)
def test_invalid_files_are_named(content, reason, tmp_path):
    (tmp_path / "a.orc").write_bytes(content)
    with pytest.raises(SourceError, match=f"(cannot be read as ORC|the file is empty): got {reason}"):
        read(tmp_path / "a.orc")
