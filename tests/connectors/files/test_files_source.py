from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import files
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from tests.rigs.public_folder import public_folder as public_folder  # noqa: PLC0414 - the fixture

SCHEMA = Schema.of({"id": "BIGINT"})


def read(path, schema=SCHEMA, **options):
    reader = files(path, **options)
    return reader.read(SourceSplit(reader.source_objects()[0]), schema)


def test_objects_are_sorted_by_name_without_folders(tmp_path):
    for name in ("b.csv", "a.csv", "c.txt"):
        (tmp_path / name).write_text("id\n1\n")
    (tmp_path / "0.csv").mkdir()

    assert [source_object.uri for source_object in files(tmp_path / "*.csv").source_objects()] == [
        str(tmp_path / "a.csv"),
        str(tmp_path / "b.csv"),
    ]


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("nope.csv", "; check"),
        ("*.none.csv", "; check"),
        ("folder.csv", ": got the folder folder.csv; check"),
        ("lin*.csv", ": got the broken link link.csv; check"),
    ],
)
def test_no_match_is_an_error(name, got, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to(tmp_path / "nowhere")

    with pytest.raises(SourceError, match=rf"no file matches '[^']*'{got}"):
        files(tmp_path / name).source_objects()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.csv.zip", "a.ndjson", "a.parquet"])
def test_a_file_that_vanishes_is_named(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"id\n1\n")
    reader = files(path)
    (source_object,) = reader.source_objects()
    path.unlink()

    with pytest.raises(SourceError, match=rf"the file cannot be read: got No such file or directory \({path}\)"):
        reader.schema(source_object)


def test_content_change_changes_the_stamp(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n")
    before = files(path).source_objects()
    assert files(path).source_objects() == before

    path.write_text("id\n2\n")
    os.utime(path, ns=(1, 1))

    assert files(path).source_objects() != before


def test_name_without_a_known_format_is_rejected():
    with pytest.raises(
        SourceError,
        match=r"the format cannot be derived from the name .*; pass format=, one of avro, csv, excel, fixed width, json, orc, parquet, xml",
    ):
        files("a.xyz")
    assert files("a.xyz", format="csv").format == "csv"


@pytest.mark.parametrize("delimiter", ["||", "é", '"', "\n"])
def test_delimiter_must_be_one_ascii_character(delimiter):
    with pytest.raises(SourceError, match="a delimiter must be one ASCII character"):
        files("a.csv", delimiter=delimiter)


def test_fingerprint_depends_on_options_but_not_on_location():
    assert files("a.csv").fingerprint == files("elsewhere/*.csv").fingerprint
    assert len({files("a.csv", **o).fingerprint for o in ({}, {"delimiter": ";"}, {"null_values": ["NA"]})}) == 3


def test_parquet_positions_types_and_a_column_named_rowid(tmp_path):
    table = pa.table(
        {"rowid": [10, 20, 30], "x": [1.0, float("nan"), None], "t": pa.array([0, 1000, 2000], pa.timestamp("ns"))}
    )
    pq.write_table(table, tmp_path / "a.parquet")

    schema = Schema.of({"x": "DOUBLE", "rowid": "BIGINT", "t": "TIMESTAMP"})
    rows = read(tmp_path / "a.parquet", schema).rows

    assert rows.column("rowid").to_pylist() == [10, 20, 30]
    assert rows.column(POSITION).to_pylist() == [1, 2, 3]


def test_parquet_positions_across_row_groups(tmp_path):
    ids = [str(i) if i % 1000 else "q" for i in range(300_000)]
    pq.write_table(pa.table({"id": ids}), tmp_path / "a.parquet", row_group_size=10_000)

    reading = read(tmp_path / "a.parquet")

    assert reading.rejected.column(POSITION).to_pylist() == list(range(1, 300_001, 1000))
    assert all(
        p == i + 1 for p, i in zip(reading.rows[POSITION].to_pylist(), reading.rows["id"].to_pylist(), strict=True)
    )


def test_gzip_with_several_members(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id\n1\n") + gzip.compress(b"2\n"))

    assert read(tmp_path / "a.csv.gz").rows.column("id").to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b"id\n1\n"),
        ("a.csv.gz", b"\x1f\x8b\x08garbage"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfdgarbage"),
        ("a.csv.zip", b"PK\x03\x04garbage"),
    ],
)
def test_wrong_compression_suffix_is_rejected(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(SourceError, match="cannot be decompressed"):
        read(tmp_path / name)


def test_archive_with_a_wrong_checksum_is_rejected(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.csv", "id\n1234567890\n")
    (tmp_path / "a.csv.zip").write_bytes(stream.getvalue().replace(b"1234567890", b"1234567891", 1))

    with pytest.raises(SourceError, match="Bad CRC"):
        read(tmp_path / "a.csv.zip")


def test_zip_must_contain_one_file(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", "id\n1\n")
        archive.writestr("b.csv", "id\n1\n")

    with pytest.raises(SourceError, match="a zip archive must contain exactly one file: got 2"):
        read(tmp_path / "a.csv.zip")


def test_zip_cannot_write_outside_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as archive:
        archive.writestr("../../evil.csv", "id\n1\n")

    assert read(tmp_path / "a.csv.zip").rows.num_rows == 1
    assert not list(tmp_path.parent.glob("evil.csv"))


@pytest.mark.parametrize("content", [b"PAR1 not parquet at all PAR1", b"garbage"])
def test_invalid_parquet_is_rejected(content, tmp_path):
    (tmp_path / "a.parquet").write_bytes(content)

    with pytest.raises(SourceError, match="cannot be read as PARQUET"):
        read(tmp_path / "a.parquet")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody who may not read")
@pytest.mark.parametrize("name", ["a.csv", "a.ndjson", "a.csv.gz"])
def test_unreadable_file_is_rejected(name, public_folder):
    path = public_folder / name
    path.write_bytes(b'{"id":1}')
    path.chmod(0)

    errors = errors_of_another_user(public_folder, str(path))

    assert "SourceError: the file cannot be" in errors
    assert "Permission denied" in errors


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody who may not read")
@pytest.mark.share(2)
@pytest.mark.parametrize("mode", [0o000, 0o100, 0o001])
@pytest.mark.parametrize("pattern", ["a.csv", "*.csv", "**/*.csv"])
def test_an_unreadable_folder_is_an_error(mode, pattern, public_folder):
    folder = public_folder / "in"
    folder.mkdir()
    (folder / "a.csv").write_text("id\n1\n")
    (folder / "a.csv").chmod(0)
    folder.chmod(mode)

    errors = errors_of_another_user(public_folder, str(folder / pattern))

    assert "Error: the file cannot be read" in errors or "cannot be listed: got Permission denied; give" in errors
    assert "no file matches" not in errors


def errors_of_another_user(folder, pattern):
    """Return what a process writes to standard error that reads files as a user without rights."""
    (folder / "readable.csv").write_text("id\n1\n")
    code = (
        "import os, sys; from pipeline import files; from pipeline.core.schema import Schema; from pipeline.core.splits import SourceSplit\n"
        "def read(path): reader = files(path); reader.read(SourceSplit(reader.source_objects()[0]), Schema.of({'id': 'BIGINT'}))\n"
        "read(sys.argv[2])  # what is imported late is imported now\n"
        "os.seteuid(65534)\n"
        "read(sys.argv[1])"
    )

    return subprocess.run(
        [sys.executable, "-c", code, pattern, str(folder / "readable.csv")],
        capture_output=True,
        text=True,
        check=False,
    ).stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become somebody who may not read")
def test_file_in_a_folder_that_became_unreadable_is_rejected(public_folder):
    folder = public_folder / "closed"
    folder.mkdir()
    (folder / "a.csv").write_text("id\n1\n")
    code = (
        "import os, sys; from pipeline import files; from pipeline.core.schema import Schema; from pipeline.core.splits import SourceSplit\n"
        "reader = files(sys.argv[1] + '/a.csv'); (listed,) = reader.source_objects()\n"
        "split = SourceSplit(listed, 0, listed.size_bytes)\n"
        "reader.read(split, Schema.of({'id': 'BIGINT'}))\n"
        "os.chmod(sys.argv[1], 0); os.seteuid(65534)\n"
        "reader.read(split, Schema.of({'id': 'BIGINT'}))"
    )

    process = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)

    assert "SourceError: the file cannot be" in process.stderr
    assert "Permission denied" in process.stderr


def test_line_numbers_with_quoted_line_breaks_and_open_quotes():
    schema = Schema.of({"id": "BIGINT", "two\nlines": "VARCHAR"})

    reading = files("a.csv").parse(["1,a", '2,"x\n\ny"', '3,"open', "q,b", "5,c"], schema)

    assert [tuple(row.values()) for row in reading.rows.to_pylist()] == [(1, "a", 1), (2, "x\n\ny", 2), (5, "c", 5)]
    assert [tuple(row.values()) for row in reading.rejected.to_pylist()] == [
        (3, "a quote is not closed", '3,"open'),
        (4, "column 'id' is not BIGINT: q", "q,b"),
    ]
