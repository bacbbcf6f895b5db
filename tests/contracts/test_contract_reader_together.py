"""A group of small files equals the individual files: rows, positions, sources, rejects and errors, in order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.batch import row_producers
from pipeline.batch.row_producers import SourceProducer
from pipeline.batch.validating_pass import REJECTED
from pipeline.batch.work import Split
from pipeline.connectors.files import Files
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, SOURCE
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from tests.rigs.proofs import PROOFS

SCHEMA = Schema.of({"a": "BIGINT", "b": "VARCHAR"})
AT = "2026-01-01T00:00:00+00:00"
EXAMPLES = 400 if PROOFS else 12
CSV = st.tuples(
    st.sampled_from(["a,b", "b,a", '"a",b', "\ufeffa,b"]),
    st.lists(
        st.sampled_from(
            ["1,x", "2,3", "x,1", "3,", ",", "", '4,"q"', '5,"two\nlines"', '6,"open', "7,a\rb", "8", "9,x,y"]
        ),
        max_size=4,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
JSON_LINE = st.sampled_from(
    [
        '{"a":1,"b":"x"}',
        '{"b":"y","a":2}',
        '{"a":"z"}',
        "",
        "[1]",
        "{",
        '{"a":3.5}',
        '{"a":4,"b":"\ufffd"}',
        '{"a":5,"b":null}',
    ]
)
JSON = st.tuples(st.lists(JSON_LINE, min_size=1, max_size=4), st.booleans())
PARQUET = st.sampled_from(
    [
        {"a": pa.array([1, 2]), "b": pa.array(["x", None])},
        {"b": pa.array(["x"]), "a": pa.array([7])},
        {"a": pa.array(["4", "x"]), "b": pa.array(["y", "z"])},
        {"a": pa.array([], pa.int64()), "b": pa.array([], pa.string())},
    ]
)


def one_by_one(reader: Files, splits: list[SourceSplit]):
    """The result of reading each file individually."""
    rows, rejected = [], []
    for split in splits:
        reading = reader.read(split, SCHEMA)
        rows += [(split.source_object.uri, r[POSITION], r["a"], r["b"]) for r in reading.rows.to_pylist()]
        rejected += [
            (split.source_object.uri, r[POSITION], r["reason"], r["row"]) for r in reading.rejected.to_pylist()
        ]
    return rows, rejected


def by_blocks(reader: Files, splits: list[SourceSplit]):
    """The result of the validating pass."""
    with connect(Limits(threads=1)) as con:
        blocks = list(SourceProducer(reader, SCHEMA, AT).blocks(con, Split(0, source_splits=tuple(splits)), Counter()))
        rows = [(r[SOURCE], r[POSITION], r["a"], r["b"]) for block in blocks for r in block.to_pylist()]
        return rows, con.sql(f"select _source, _position, reasons, row from {REJECTED}").fetchall()


def by_scan(reader: Files, splits: list[SourceSplit]):
    """The result of the fast path; `None` if it is not usable."""
    with (
        connect(Limits(threads=1)) as con,
        SourceProducer(reader, SCHEMA, AT).for_fast_path(con, Split(0, source_splits=tuple(splits))) as query,
    ):
        if query is None:
            return None
        try:
            rows = con.sql(query.query).fetchall()
        except duckdb.Error:
            return None
        if len(rows) != query.rows_in or any(con.execute(odd).fetchall()[0][0] for odd in query.error_queries):
            return None
        return [(source, position, a, b) for a, b, source, position, _ in rows]


def outcome(call, *given):
    try:
        return call(*given)
    except (SourceError, SchemaError) as error:
        return type(error)


def check(reader: Files) -> None:
    splits = [SourceSplit(source_object) for source_object in reader.source_objects()]
    expected = outcome(one_by_one, reader, splits)
    assert outcome(by_blocks, reader, splits) == expected
    scanned = outcome(by_scan, reader, splits)
    if isinstance(scanned, type):
        assert scanned == expected
    elif scanned is not None:
        assert (scanned, []) == expected


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(CSV, min_size=1, max_size=6))
def test_delimited_files(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("many")
    for number, (head, lines, end, is_ended) in enumerate(contents):
        text = end.join([head, *lines]) + end * is_ended
        (folder / f"{number}.csv").write_bytes(text.encode())
    check(files(folder / "*.csv"))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(JSON, min_size=1, max_size=6))
def test_json_files(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("many")
    for number, (lines, is_ended) in enumerate(contents):
        (folder / f"{number}.ndjson").write_bytes(("\n".join(lines) + "\n" * is_ended or "\n").encode() or b"\n")
    check(files(folder / "*.ndjson"))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(PARQUET, min_size=1, max_size=6))
def test_parquet_files(tmp_path_factory, contents):
    folder = tmp_path_factory.mktemp("many")
    for number, columns in enumerate(contents):
        pq.write_table(pa.table(columns), folder / f"{number}.parquet")
    check(files(folder / "*.parquet"))


def write(folder: Path, kind: str, count: int) -> Files:
    folder.mkdir(exist_ok=True)
    for n in range(count):
        path = folder / f"{n:04d}.{kind}"
        if kind == "csv":
            path.write_text(f"a,b\n{n},x\n" if n % 2 else f"b,a\nx,{n}\n")
        elif kind == "ndjson":
            path.write_text(json.dumps({"a": n, "b": "x"}) + "\n")
        else:
            columns = {"a": [n], "b": ["x"]}
            pq.write_table(pa.table(columns if n % 2 else dict(reversed(columns.items()))), path)
    return files(folder / f"*.{kind}")


@pytest.mark.parametrize("kind", ["csv", "ndjson", "parquet"])
def test_small_files_share_a_scan_per_order_of_columns(kind, tmp_path):
    reader = write(tmp_path, kind, 60)
    splits = [SourceSplit(source_object) for source_object in reader.source_objects()]

    with (
        connect(Limits(threads=1)) as con,
        SourceProducer(reader, SCHEMA, AT).for_fast_path(con, Split(0, source_splits=tuple(splits))) as query,
    ):
        assert query.query.count("read_csv(") + query.query.count("read_parquet(") == (1 if kind == "ndjson" else 2)
        rows = con.sql(f"select a, {SOURCE}, {POSITION} from ({query.query})").fetchall()
        assert con.execute("select count(*) from duckdb_tables()").fetchall()[0][0] in {0, 2, 4}
    assert rows == [(n, split.source_object.uri, 2 if kind == "csv" else 1) for n, split in enumerate(splits)]


@pytest.mark.parametrize("kind", ["csv", "ndjson"])
def test_only_the_invalid_file_is_read_individually(kind, tmp_path, monkeypatch):
    reader = write(tmp_path, kind, 64)
    odd = tmp_path / f"0041.{kind}"
    odd.write_text(odd.read_text().replace("41", '"x"'))
    read = []
    monkeypatch.setattr(
        Files, "read", lambda self, split, schema, was=Files.read: read.append(split) or was(self, split, schema)
    )
    splits = [SourceSplit(source_object) for source_object in reader.source_objects()]

    rows, rejected = by_blocks(reader, splits)

    assert [split.source_object.uri for split in read] == [str(odd)]
    assert (len(rows), len(rejected)) == (63, 1)
    assert [source for source, *_ in rows] == [
        split.source_object.uri for split in splits if split.source_object.uri != str(odd)
    ]


def test_scan_is_limited_in_files_and_bytes_and_large_files_are_separate(tmp_path, monkeypatch):
    reader = write(tmp_path, "csv", 10)
    (tmp_path / "0004.csv").write_text("a,b\n" + "1,x\n" * 400_000)
    monkeypatch.setattr(row_producers, "TOGETHER_FILES", 3)
    splits = [SourceSplit(source_object) for source_object in reader.source_objects()]

    groups = SourceProducer(reader, SCHEMA, AT).groups(splits)

    assert [len(group) for group in groups] == [3, 1, 1, 3, 2]
    assert [split for group in groups for split in group] == splits


def test_glob_characters_in_a_file_name_are_literal(tmp_path):
    for name in ("a.csv", "[ab].csv", "b.csv"):
        (tmp_path / name).write_text(f"a,b\n1,{name}\n")
    check(files(tmp_path / "*.csv"))
