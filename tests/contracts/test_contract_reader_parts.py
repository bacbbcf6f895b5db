"""One test suite for the splits of all readers: together they equal the entire file, or one of them reports an error.

The tests follow the rule for callers: the fast path of a split is used only if its counts match, otherwise it is read
by the validating pass; after a `SplitError`, all splits of the object are discarded.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline import files
from pipeline.connectors.files import Files
from pipeline.core.errors import SchemaError, SourceError, SplitError
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION, ReadResult
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from tests.rigs.proofs import examples

SCHEMA = Schema.of({"a": "BIGINT", "b": "VARCHAR"})
ALONE = Schema.of({"a": "VARCHAR"})


def fast_path_rows(reader: Files, split: SourceSplit, schema: Schema) -> pa.Table | None:
    """The rows of a split's fast path, or None if it is not usable."""
    with connect(Limits(threads=1)) as con, reader.scan(con, split, schema) as scanned:
        if scanned is None:
            return None
        try:
            rows = con.sql(scanned.query).to_arrow_table()
        except duckdb.Error:
            return None
        assert rows.column_names == [*schema.names, POSITION, MISFIT]
        odd = con.execute(scanned.error_query).fetchall()[0][0]
        if odd or rows.num_rows != scanned.rows or pc.any(rows[MISFIT]).as_py():
            return None
        return rows.drop_columns(MISFIT)


Outcome = ReadResult | str
"""The rows that were read, or the class of the error."""


def read(reader: Files, split: SourceSplit, schema: Schema) -> Outcome:
    try:
        return reader.read(split, schema)
    except (SourceError, SchemaError) as error:
        return type(error).__name__


def together(outcomes: list[Outcome]):
    """Rows and rejects of all splits, or the first error."""
    error = next((o for o in outcomes if isinstance(o, str)), None)
    rows = [row for o in outcomes if not isinstance(o, str) for row in o.rows.to_pylist()]
    rejected = [row for o in outcomes if not isinstance(o, str) for row in o.rejected.to_pylist()]
    return error or (rows, rejected)


def check(path: Path, schema: Schema, target_bytes: int, **options) -> tuple[int, int]:
    """Compare the splits of a file with the entire file; return their number, and how many use the fast path."""
    reader = files(path, **options)
    (source_object,) = reader.source_objects()
    splits = reader.splits(source_object, target_bytes)
    assert [split.begin for split in splits] == [0, *(split.end for split in splits[:-1])]
    assert splits[-1].end is None
    alone = [read(reader, split, schema) for split in splits]
    fast = [fast_path_rows(reader, split, schema) for split in splits]
    for outcome, rows in zip(alone, fast, strict=True):
        if rows is not None and not isinstance(outcome, str):
            assert rows.equals(outcome.rows)
            assert outcome.rejected.num_rows == 0
    whole_file = together([read(reader, SourceSplit(source_object), schema)])
    mixed = [o if rows is None else ReadResult(rows, rows.slice(0, 0)) for o, rows in zip(alone, fast, strict=True)]
    allowed = [whole_file, SplitError.__name__ if len(splits) > 1 else whole_file]
    if whole_file == SourceError.__name__:
        allowed.append(([], []))  # inconsistent line ends in separate splits, without loss of rows
    assert together(alone) in allowed
    assert together(mixed) in allowed
    return len(splits), sum(rows is not None for rows in fast)


TOKENS = [
    "1",
    "22",
    "2.5",
    "x",
    "é",
    "",
    '"',
    '"',
    '""',
    ",",
    ",",
    ",",
    "\n",
    "\n",
    "\r\n",
    '"q\nr"',
    '"s,t"',
    '5" t',
    "\ufeff",
    "\0",
]


@st.composite
def damaged(draw, tokens=TOKENS):
    """Text that resembles CSV, with stray quotes, unusual line ends and blank lines."""
    body = "".join(draw(st.lists(st.sampled_from(tokens), max_size=24)))
    return body.replace("\n", draw(st.sampled_from(["\n", "\n", "\r\n"])))


@st.composite
def written(draw):
    """Rows written by a CSV writer, damaged in places."""
    cell = st.text(alphabet='a1",\n;é', max_size=5)
    rows = draw(st.lists(st.tuples(st.sampled_from(["1", "2", "30", "1.5", "x", ""]), cell), min_size=1, max_size=8))
    stream = io.StringIO(newline="")
    end = draw(st.sampled_from(["\n", "\r\n"]))
    csv.writer(stream, lineterminator=end, quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))).writerows(
        rows
    )
    text = stream.getvalue()
    for at, token in draw(
        st.lists(st.tuples(st.integers(0, len(text)), st.sampled_from(['"', "\n", "\r", ",", "x"])), max_size=2)
    ):
        text = text[:at] + token + text[at:]
    return text


@settings(max_examples=examples(4, 40), deadline=None)
@given(
    body=st.one_of(damaged(), written()),
    head=st.sampled_from(["a,b\n", "a,b\r\n", "\ufeffa,b\n", "b,a\n"]),
    target=st.sampled_from([1, 8, 8, 20]),
)
def test_splits_of_delimited_text_equal_the_file(body, head, target, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "a.csv"
    path.write_bytes((head + body).encode())

    check(path, SCHEMA, target)


@settings(max_examples=examples(3, 25), deadline=None)
@given(body=damaged(), target=st.sampled_from([1, 8, 8]))
def test_splits_of_a_single_column_equal_the_file(body, target, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "a.csv"
    path.write_bytes(("a\n" + body).encode())

    check(path, ALONE, target)


JSON_LINES = [
    '{"a":1,"b":"x"}', '{"a":2,"b":null}', '{"b":"y","a":3}', '{"a":4}', "{}", '{"a":5,"a":6,"b":"z"}', '{"a":1e2,"b":5}',
    '{"a":"7","b":{"k":[1, "\\u00e9"]}}', '{"a":9223372036854775807,"b":"\\n\\u0000\\"q"}', ' {"a":8,"b":true} ', '{"a":1,"b":"\\ud83d\\ude00"}',
    '{"a":9223372036854775808}', '{"a":1.5}', '{"a":true}', '{"a":[1]}', "", "  ", "\t", "[1]", "5", "null", "{bad", '{"a":1} {"a":2}', '{"a":1,\r"b":"x"}',
    '{"b":"\x01"}', '{"b":"\\ud800"}',
]  # fmt: skip


@settings(max_examples=examples(4, 40), deadline=None)
@given(
    lines=st.lists(st.sampled_from([*JSON_LINES[:11] * 3, *JSON_LINES, '{"c":1}', '{"A":1}']), min_size=1, max_size=8),
    ends=st.sampled_from([("\n", ""), ("\n", "\n"), ("\r\n", "\r\n")]),
    start=st.sampled_from(["", "\ufeff"]),
    target=st.sampled_from([1, 30, 60]),
)
def test_splits_of_json_lines_equal_the_file(lines, ends, start, target, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "a.ndjson"
    path.write_bytes((start + ends[0].join(lines) + ends[1]).encode())
    assume(path.stat().st_size > 0)

    reader = files(path)
    (source_object,) = reader.source_objects()
    if (
        read(reader, SourceSplit(source_object), SCHEMA) == SchemaError.__name__
    ):  # a split has only the fields of its own lines
        outcomes = [read(reader, split, SCHEMA) for split in reader.splits(source_object, target)]
        assert SchemaError.__name__ in outcomes
        assert all(
            fast_path_rows(reader, split, SCHEMA) is None
            for split, o in zip(reader.splits(source_object, target), outcomes, strict=True)
            if isinstance(o, str)
        )
        return
    check(path, SCHEMA, target)


@pytest.mark.parametrize(
    "body",
    [
        '1,5" x\n2,"a\nb"\n3,5" c\n4,d\n',
        '1,"a\nb"\n2,5" x\n3,"a\nb"\n4,5" c\n5,"\n"\n',
        '1,"x"y\n2,z\n3,"q"r"s\n4,w\n5,"a\nb"\n6,c\n',
    ],
)
def test_split_point_inside_a_quoted_field_is_detected(body, tmp_path):
    """Stray quotes invert what is quoted, so the split points are line breaks inside fields."""
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + body)
    reader = files(path)
    (source_object,) = reader.source_objects()
    splits = reader.splits(source_object, 4)

    (first, *_) = (split for split in splits if read(reader, split, SCHEMA) == SplitError.__name__)
    with pytest.raises(
        SplitError, match="cannot be read independently: the last record is incomplete; read the file as one split"
    ):
        reader.read(first, SCHEMA)
    check(path, SCHEMA, 4)


def test_all_splits_of_a_regular_file_use_the_fast_path(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f'{i},"n, {i}"\n' for i in range(9)))
    (tmp_path / "a.ndjson").write_text("".join(f'{{"b":"x","a":{i}}}\n' for i in range(9)))
    pq.write_table(pa.table({"b": ["x"] * 9, "a": range(9)}), tmp_path / "a.parquet", row_group_size=2)

    assert check(tmp_path / "a.csv", SCHEMA, 20) == (4, 4)
    assert check(tmp_path / "a.ndjson", SCHEMA, 40) == (3, 3)
    assert check(tmp_path / "a.parquet", SCHEMA, 1) == (5, 5)


def test_invalid_row_affects_the_fast_path_of_its_split_only(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n2.5,x\n3,x\n0x1F,x\n5,x\n6,x,y\n7,x\n,x\n")
    (tmp_path / "a.ndjson").write_text('{"a":1}\n{"a":2.5}\n{"a":3}\n\n{"a":5}\n')

    assert check(tmp_path / "a.csv", SCHEMA, 1) == (8, 5)
    assert check(tmp_path / "a.ndjson", SCHEMA, 1) == (5, 3)


@pytest.mark.parametrize("rows", [1, 3, 30])
def test_splits_of_parquet_equal_the_file(rows, tmp_path):
    table = pa.table({"a": [str(i) if i % 7 else "q" for i in range(rows)], "b": [f"n{i}" for i in range(rows)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")

    for target in (1, 300, 10_000):
        count, flow = check(tmp_path / "a.parquet", SCHEMA, target)
        assert flow == 0  # text that is read as integers
        assert (count > 1) == (rows > 3 and target < 10_000)
    assert check(tmp_path / "none.parquet", SCHEMA, 1) == (1, 0)


def test_parquet_with_a_column_named_like_the_row_number_is_not_split(tmp_path):
    pq.write_table(pa.table({"file_row_number": [7, 8, 9]}), tmp_path / "a.parquet", row_group_size=1)

    assert check(tmp_path / "a.parquet", Schema.of({"file_row_number": "BIGINT"}), 1) == (1, 1)


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zip", "a.ndjson.zst"])
def test_compressed_file_is_not_split_and_uses_the_fast_path(name, tmp_path):
    text = b'{"a":1,"b":"x"}\n{"a":2}\n' if "json" in name else b"a,b\n1,x\n2,y\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("inside", text)
    packed = {"gz": gzip.compress(text), "zip": stream.getvalue(), "zst": pa.Codec("zstd").compress(text, asbytes=True)}
    (tmp_path / name).write_bytes(packed[name.rpartition(".")[2]])

    assert check(tmp_path / name, SCHEMA, 1) == (1, 1)


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet"])
def test_file_below_the_target_size_is_not_opened(name):
    source_object = SourceObject(f"nowhere/{name}", 100, "")

    assert list(files(name).splits(source_object, 100)) == [SourceSplit(source_object)]
    assert list(files(name).splits(source_object, 1)) == [
        SourceSplit(source_object)
    ]  # only reading it raises the error


@pytest.mark.parametrize("head", ['"a\nc",b\n', 'a",b\n', 'a,"b\n', "a\rc,b\n"])
def test_unusual_header_prevents_splits(head, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(head + "1,2\n" * 9, newline="")
    reader = files(path)

    assert len(reader.splits(reader.source_objects()[0], 1)) == (10 - 1 if head == 'a",b\n' else 1)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_split_with_different_columns_is_rejected(name, tmp_path):
    (tmp_path / "a.csv").write_text("a,c\n1,x\n")
    pq.write_table(pa.table({"a": [1], "c": ["x"]}), tmp_path / "a.parquet")
    reader = files(tmp_path / name)
    split = SourceSplit(reader.source_objects()[0])

    with (
        connect() as con,
        pytest.raises(SchemaError, match="no 'b', new column 'c'"),
        reader.scan(con, split, SCHEMA),
    ):
        pass
    Path(split.source_object.uri).unlink()
    with connect() as con, pytest.raises(SourceError, match="cannot be read"), reader.scan(con, split, SCHEMA):
        pass


@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.parquet"])
def test_column_named_like_the_internal_flag_disables_the_fast_path(name, tmp_path):
    schema = Schema.of({MISFIT: "BIGINT"})
    (tmp_path / "a.csv").write_text(f"{MISFIT}\n1\n")
    (tmp_path / "a.ndjson").write_text(json.dumps({MISFIT: 1}))
    pq.write_table(pa.table({MISFIT: [1]}), tmp_path / "a.parquet")

    assert check(tmp_path / name, schema, 1000) == (1, 0)


def test_connection_is_reused_for_several_splits(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,x\n2,x,y\n3,z\n")
    reader = files(path)
    odd = []
    with connect(Limits(threads=1)) as con:
        for split in reader.splits(reader.source_objects()[0], 1):
            with reader.scan(con, split, SCHEMA) as scanned:
                odd += con.sql(scanned.query).to_arrow_table()[MISFIT].to_pylist()
                assert con.execute(scanned.error_query).fetchall() == [(0,)]
        assert con.execute("from duckdb_tables()").fetchall() == []
    assert odd == [False, True, False]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_splits_of_a_large_file_keep_all_positions(end, tmp_path):
    lines = [f"{i},a name of some length {i}" for i in range(60_000)]
    for i in range(100, 60_000, 1_000):
        lines[i] = f'{i},"two{end}lines"'
    lines[30_000] = "x,b"
    path = tmp_path / "a.csv"
    path.write_text(end.join(["a,b", *lines]) + end, newline="")

    assert check(path, SCHEMA, 300_000)[0] == 7
