"""One test suite for all readers: the contract of `pipeline.core.sources.Reader`, on three valid rows and one invalid row."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import files
from pipeline.connectors.files import Files
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceObject, SourceSplit

SCHEMA = Schema.of({"id": "BIGINT", "name": "VARCHAR", "x": "DOUBLE"})
ROWS = [("1", "a", "1.5"), ("zz", "b", "2"), ("3", "c, d", ""), ("4", 'e "f"', "-0.25")]
FIT = [(1, "a", 1.5), (3, "c, d", None), (4, 'e "f"', -0.25)]
Rows = list[tuple[str, ...]]
Writer = Callable[[tuple[str, ...], Rows], bytes]


def delimited(delimiter: str) -> Writer:
    def write(names: tuple[str, ...], rows: Rows) -> bytes:
        lines = [names, *rows]
        quoted = [
            [f'"{v.replace(chr(34), chr(34) * 2)}"' if set(v) & {delimiter, '"'} else v for v in r] for r in lines
        ]
        return "".join(delimiter.join(line) + "\n" for line in quoted).encode()

    return write


def ndjson(names: tuple[str, ...], rows: Rows) -> bytes:
    return "".join(json.dumps({n: v or None for n, v in zip(names, r, strict=True)}) + "\n" for r in rows).encode()


def parquet(names: tuple[str, ...], rows: Rows) -> bytes:
    columns = {n: pa.array([r[i] or None for r in rows], pa.string()) for i, n in enumerate(names)}
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream)
    return stream.getvalue()


def gzipped(write: Writer) -> Writer:
    return lambda names, rows: gzip.compress(write(names, rows))


def zstd(write: Writer) -> Writer:
    return lambda names, rows: pa.Codec("zstd").compress(write(names, rows), asbytes=True)


def zipped(write: Writer) -> Writer:
    def packed(names: tuple[str, ...], rows: Rows) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside.any", write(names, rows))
        return stream.getvalue()

    return packed


READERS: dict[str, Writer] = {
    "a.csv": delimited(","),
    "a.tsv": delimited("\t"),
    "a.csv.gz": gzipped(delimited(",")),
    "a.csv.zst": zstd(delimited(",")),
    "a.csv.zip": zipped(delimited(",")),
    "a.ndjson": ndjson,
    "a.ndjson.gz": gzipped(ndjson),
    "a.parquet": parquet,
    "a.parquet.zip": zipped(parquet),
}
NAMES = ("id", "name", "x")


@pytest.fixture(params=READERS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def put(
    folder: Path, kind: str, names: tuple[str, ...] = NAMES, rows: Rows | None = None
) -> tuple[Files, SourceObject]:
    path = folder / kind
    path.write_bytes(READERS[kind](names, ROWS if rows is None else rows))
    reader = files(path)
    return reader, reader.source_objects()[0]


def first_row(kind: str) -> int:
    """The position of the first row; delimited text has a header on line 1."""
    return 2 if ".csv" in kind or ".tsv" in kind else 1


def test_valid_rows_are_read_and_others_have_a_reason(kind, tmp_path):
    reader, source_object = put(tmp_path, kind)

    reading = reader.read(SourceSplit(source_object), SCHEMA)

    assert reading.rows.column_names == [*NAMES, POSITION]
    assert [tuple(row.values())[:3] for row in reading.rows.to_pylist()] == FIT
    assert reading.rejected.column("reason").to_pylist() == ["column 'id' is not BIGINT: zz"]
    assert "zz" in reading.rejected.column("row").to_pylist()[0]


def test_each_record_is_a_row_or_rejected_at_its_own_position(kind, tmp_path):
    reader, source_object = put(tmp_path, kind)

    reading = reader.read(SourceSplit(source_object), SCHEMA)

    first = first_row(kind)
    assert reading.rows.column(POSITION).to_pylist() == [first, first + 2, first + 3]
    assert reading.rejected.column(POSITION).to_pylist() == [first + 1]


def test_reading_twice_gives_the_same_rows(kind, tmp_path):
    reader, source_object = put(tmp_path, kind)

    first, second = reader.read(SourceSplit(source_object), SCHEMA), reader.read(SourceSplit(source_object), SCHEMA)

    assert first.rows.equals(second.rows)
    assert first.rejected.equals(second.rejected)


def test_rejects_of_one_object_do_not_affect_the_next(kind, tmp_path):
    reader, source_object = put(tmp_path, kind)
    other = tmp_path / "other"
    other.mkdir()
    clean, clean_piece = put(other, kind, rows=[ROWS[0]])

    assert reader.read(SourceSplit(source_object), SCHEMA).rejected.num_rows == 1
    assert clean.read(SourceSplit(clean_piece), SCHEMA).rejected.num_rows == 0


def test_order_of_columns_does_not_matter(kind, tmp_path):
    reader, source_object = put(tmp_path, kind, ("x", "id", "name"), [("1.5", "1", "a")])

    assert reader.read(SourceSplit(source_object), SCHEMA).rows.to_pylist() == [
        {"id": 1, "name": "a", "x": 1.5, POSITION: first_row(kind)}
    ]


def test_new_column_is_an_error_with_file_and_change(kind, tmp_path):
    reader, source_object = put(tmp_path, kind, (*NAMES, "y"), [("1", "a", "1.5", "9")])

    with pytest.raises(SchemaError, match="new column 'y'") as error:
        reader.read(SourceSplit(source_object), SCHEMA)
    assert error.value.place is not None
    assert error.value.place.file == source_object.uri


def test_missing_column_is_an_error_unless_the_format_has_none(kind, tmp_path):
    reader, source_object = put(tmp_path, kind, ("id", "name"), [("1", "a")])

    if "json" in kind:  # a field that no object has is null
        assert reader.read(SourceSplit(source_object), SCHEMA).rows.column("x").to_pylist() == [None]
        return
    with pytest.raises(SchemaError, match="no 'x'"):
        reader.read(SourceSplit(source_object), SCHEMA)


def test_provenance_column_name_is_rejected(kind, tmp_path):
    reader, source_object = put(tmp_path, kind, ("id", "_position"), [("1", "7")])

    with pytest.raises(SchemaError, match="'_position' is reserved for the origin"):
        reader.read(SourceSplit(source_object), Schema.of({"id": "BIGINT", "_position": "BIGINT"}))


def test_fractional_number_is_not_an_integer(kind, tmp_path):
    rows = [("1.5", "a", "1"), ("2.0", "b", "1"), ("9223372036854775807", "c", "1"), ("9223372036854775808", "d", "1")]
    reader, source_object = put(tmp_path, kind, rows=rows)

    reading = reader.read(SourceSplit(source_object), SCHEMA)

    assert reading.rows.column("id").to_pylist() == [2, 9223372036854775807]
    assert reading.rejected.column("reason").to_pylist() == [
        "column 'id' is not BIGINT: 1.5",
        "column 'id' is not BIGINT: 9223372036854775808",
    ]


def test_zero_rows_are_valid(kind, tmp_path):
    if "json" in kind:
        pytest.skip("without lines there is no JSON file: that is an empty file")
    reader, source_object = put(tmp_path, kind, rows=[])

    reading = reader.read(SourceSplit(source_object), SCHEMA)

    assert reading.rows.num_rows == reading.rejected.num_rows == 0
    assert reading.rows.schema.names == [*NAMES, POSITION]


@pytest.mark.parametrize("kind", ["a.csv", "a.ndjson", "a.parquet"])
def test_glob_characters_in_a_name_are_literal(kind, tmp_path):
    content = READERS[kind](NAMES, [ROWS[0]])
    _, suffix = kind.split(".", 1)
    for name in ("a b[1]", "it's", "a*b", "q?x", "{a,b}", "50%20", "~home", "year=2024"):
        folder = tmp_path / name
        folder.mkdir()
        for neighbour in (name, "a b1", "aXb", "qQx"):
            (folder / f"{neighbour}.{suffix}").write_bytes(content)
        reader = files(folder / f"{name}.{suffix}")
        (source_object,) = reader.source_objects()
        assert reader.read(SourceSplit(source_object), SCHEMA).rows.num_rows == 1
        assert reader.schema(source_object).names == NAMES


def test_empty_file_is_rejected(kind, tmp_path):
    (tmp_path / kind).write_bytes(b"")
    reader = files(tmp_path / kind)

    with pytest.raises(SourceError, match=r"empty|unpacked"):
        reader.read(SourceSplit(reader.source_objects()[0]), SCHEMA)


def test_truncated_file_is_rejected_or_the_loss_is_counted(kind, tmp_path):
    content = READERS[kind](NAMES, ROWS * 2000)
    (tmp_path / kind).write_bytes(content[: len(content) * 2 // 3])
    reader = files(tmp_path / kind)
    source_object = reader.source_objects()[0]

    if kind in {"a.csv", "a.tsv", "a.ndjson"}:  # plain text does not show where it should end
        reading = reader.read(SourceSplit(source_object), SCHEMA)
        assert 0 < reading.rows.num_rows + reading.rejected.num_rows < 8000
        return
    with pytest.raises(SourceError, match=r"cannot be (decompressed|read)"):
        reader.read(SourceSplit(source_object), SCHEMA)


def test_deleted_file_is_rejected(kind, tmp_path):
    reader, source_object = put(tmp_path, kind)
    Path(source_object.uri).unlink()

    with pytest.raises(SourceError, match=r"cannot be (decompressed|read)"):
        reader.read(SourceSplit(source_object), SCHEMA)


def test_rejected_rows_are_valid_under_a_wider_contract(kind, tmp_path):
    reader, source_object = put(tmp_path, kind, ("x", "id", "name"), [("1", f"q{i}", 'a, "b"') for i in range(3)])
    texts = reader.read(SourceSplit(source_object), SCHEMA).rejected.column("row").to_pylist()

    again = reader.parse(texts, Schema.of({"id": "VARCHAR", "name": "VARCHAR", "x": "DOUBLE"}))

    rows = [tuple(row.values()) for row in again.rows.to_pylist()]
    assert rows == [(f"q{i}", 'a, "b"', 1.0, i + 1) for i in range(3)]
    assert again.rejected.num_rows == 0


def test_rejected_rows_are_rejected_again_under_the_same_contract(kind, tmp_path):
    reader, source_object = put(tmp_path, kind, rows=[ROWS[1], ROWS[1]])
    rejected = reader.read(SourceSplit(source_object), SCHEMA).rejected

    again = reader.parse(rejected.column("row").to_pylist(), SCHEMA)

    assert again.rows.num_rows == 0
    assert again.rejected.column(POSITION).to_pylist() == [1, 2]
    assert again.rejected.drop_columns(POSITION).equals(rejected.drop_columns(POSITION))


def test_replay_without_rejected_rows_returns_no_rows(kind):
    reading = files(kind).parse([], SCHEMA)

    assert reading.rows.num_rows == reading.rejected.num_rows == 0


def test_undecodable_text_is_never_a_row(kind):
    reading = files(kind).parse(["\ufffd{}", "1,\ufffd,1"], SCHEMA)

    assert reading.rejected.column("reason").to_pylist() == ["not UTF-8"] * 2
