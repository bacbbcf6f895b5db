"""Archives: each file is a source object; hostile and damaged archives are errors."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import files
from pipeline.connectors.files import expansion
from pipeline.connectors.files.archives import archive_of
from pipeline.connectors.files.expansion import Expansion
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.testing import ReaderContract
from tests.rigs.file_servers import http_server

SCHEMA = Schema.of({"id": "bigint"})
COLUMNS = {"id": "bigint", "name": "varchar"}
ZIP, TARS = "a.csv.zip", ["a.csv.tar", "a.csv.tgz", "a.csv.tar.gz", "a.csv.tar.zst"]


def tar_of(contents: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return stream.getvalue()


def packed(name: str, contents: dict[str, bytes]) -> bytes:
    if name.endswith(".zip"):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in contents.items():
                archive.writestr(member, content)
        return stream.getvalue()
    content = tar_of(contents)
    if name.endswith("gz"):
        return gzip.compress(content)
    return pa.Codec("zstd").compress(content, asbytes=True) if name.endswith("zst") else content


def read_all(reader) -> list[tuple[str, int, int]]:
    found = []
    for split in reader.plan(None).splits:
        reading = reader.read(split, SCHEMA)
        uri = (
            split.source_object.uri.rpartition("/")[2]
            if "!/" not in split.source_object.uri
            else split.source_object.uri.partition("!/")[2]
        )
        found += [(uri, row["id"], row[POSITION]) for row in reading.rows.to_pylist()]
    return found


@pytest.mark.parametrize("name", [ZIP, *TARS])
def test_each_file_is_a_source_object(name, tmp_path):
    contents = {
        "b.csv": b"id\n3\n",
        "in/a.csv": b"id\n1\n2\n",
        "in/c.csv.gz": gzip.compress(b"id\n4\n"),
        ".DS_Store": b"x",
        "__MACOSX/._b.csv": b"x",
    }
    (tmp_path / name).write_bytes(packed(name, contents))
    reader = files(tmp_path / name)

    plan = reader.plan(None)

    assert [split.source_object.uri for split in plan.splits] == [
        f"{tmp_path / name}!/{m}" for m in ("b.csv", "in/a.csv", "in/c.csv.gz")
    ]
    assert read_all(reader) == [("b.csv", 3, 2), ("in/a.csv", 1, 2), ("in/a.csv", 2, 3), ("in/c.csv.gz", 4, 2)]
    assert plan.new == "1 new file"
    assert reader.plan(plan.cursor).splits == ()
    assert reader.schema(plan.splits[0].source_object).names == ("id",)
    assert sorted(reader.extents()) == [split.source_object.uri for split in plan.splits]
    extent = reader.extents()[plan.splits[1].source_object.uri]
    assert reader.read(SourceSplit(plan.splits[1].source_object, 0, extent.end), SCHEMA).rows.num_rows == 2


def test_a_stream_reads_a_file_of_an_archive_without_a_stamp(tmp_path):
    (tmp_path / ZIP).write_bytes(packed(ZIP, {"x.csv": b"id\n1\n", "y.csv": b"id\n2\n"}))
    listed = SourceObject(f"{tmp_path / ZIP}!/y.csv", 5, "")

    assert files(tmp_path / ZIP).read(SourceSplit(listed, 0, 5, 0), SCHEMA).rows["id"].to_pylist() == [2]


def test_members_selects_files_and_their_format(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed("a.zip", {"x.json": b'{"id": 1}\n', "y.csv": b"id\n2\n", "README": b"no"}))

    assert read_all(files(tmp_path / "a.zip", members="*.csv")) == [("y.csv", 2, 2)]
    assert read_all(files(tmp_path / "a.zip", members="*.json")) == [("x.json", 1, 1)]
    assert (
        files(tmp_path / "a.zip", members="*.csv").fingerprint
        != files(tmp_path / "a.zip", members="y*.csv").fingerprint
    )
    (tmp_path / "a.tar").write_bytes(packed("a.tar", {"a": b"", "b": b"", "c": b""}))
    with pytest.raises(SourceError, match=r"the archive has no file to read: got 3 others; correct members='\*\.txt'"):
        read_all(files(tmp_path / "a.tar", members="*.txt", format="csv"))


def test_a_zip_with_one_file_beside_hidden_ones_is_a_file(tmp_path):
    (tmp_path / ZIP).write_bytes(packed(ZIP, {"x.csv": b"id\n1\n", "__MACOSX/._x.csv": b"?"}))

    assert read_all(files(tmp_path / ZIP)) == [(ZIP, 1, 2)]


def test_a_changed_archive_changes_the_source(tmp_path):
    (tmp_path / ZIP).write_bytes(packed(ZIP, {"x.csv": b"id\n1\n", "y.csv": b"id\n1\n"}))
    reader = files(tmp_path / ZIP)
    plan = reader.plan(None)
    os.utime(tmp_path / ZIP, ns=(5, 5))
    assert reader.plan(plan.cursor).changed == ""

    (tmp_path / ZIP).write_bytes(packed(ZIP, {"x.csv": b"id\n7\n", "y.csv": b"id\n1\n"}))

    assert reader.plan(plan.cursor).changed == "a.csv.zip changed"
    extent = plan.splits[0].source_object
    (tmp_path / ZIP).write_bytes(b"PK")
    with pytest.raises(SourceError, match="the file changed after it was listed: got 2 bytes"):
        reader.read(SourceSplit(extent, 0, extent.size_bytes), SCHEMA)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["../x.csv", "/x.csv", "in/../../x.csv", "C:/x.csv", "..\\x.csv"])
@pytest.mark.parametrize("archive", [ZIP, "a.csv.tar"])
def test_names_that_lead_out_of_an_archive_are_errors(archive, name, tmp_path):
    (tmp_path / archive).write_bytes(packed(archive, {name: b"id\n1\n", "y.csv": b"id\n1\n"}))

    with pytest.raises(
        SourceError,
        match=r"the archive contains what is not read from archives: got the name '.*', which leads out|exactly one file",
    ):
        read_all(files(tmp_path / archive))
    assert not list(tmp_path.parent.glob("x.csv"))


@pytest.mark.parametrize(
    ("info", "got"),
    [
        (link("l.csv", "/etc/passwd"), "the link 'l.csv'"),
        (link("l.csv", "x.csv", tarfile.LNKTYPE), "the link 'l.csv'"),
        (link("d", "", tarfile.CHRTYPE), "the device 'd'"),
        (tarfile.TarInfo("x.csv"), "two files named 'x.csv'"),
    ],
)
def test_what_is_not_a_file_is_an_error(info, got, tmp_path):
    (tmp_path / "a.csv.tar").write_bytes(tar_of({"x.csv": b"id\n1\n"}, info))

    with pytest.raises(SourceError, match=f"not read from archives: got {got}; create it without"):
        read_all(files(tmp_path / "a.csv.tar"))


def test_links_and_encrypted_files_of_zip_are_errors(tmp_path):
    for number, (attributes, flags, got) in enumerate(
        [(0o120777 << 16, 0, "the link 'x.csv'"), (0, 1, "the encrypted file 'x.csv'")]
    ):
        path = tmp_path / f"{number}.csv.zip"
        with zipfile.ZipFile(path, "w") as archive:
            info = zipfile.ZipInfo("x.csv")
            info.external_attr = attributes
            archive.writestr(info, "/etc/passwd")
            archive.writestr("y.csv", "id\n1\n")
        if flags:
            content = bytearray(path.read_bytes())
            content[content.index(b"PK\x01\x02") + 8] |= flags
            path.write_bytes(content)
        reader = files(path)
        with pytest.raises(SourceError, match=rf"not read from archives: got {got}"):
            read_all(reader)


@pytest.mark.parametrize("name", ["a.csv.tar", "a.csv.tgz", "a.csv.tar.zst", ZIP])
@pytest.mark.parametrize("content", [b"", b"garbage" * 200])
def test_damaged_archives_are_named(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=r"the file cannot be decompressed|the archive has no file to read"):
        read_all(files(tmp_path / name))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "a.csv.tgz", ZIP])
def test_a_file_that_expands_too_far_is_an_error(name, tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "_UNCHECKED_BYTES", 10_000)
    rows = b"id\n" + b"1\n" * 500_000
    if name in {"a.csv.gz", "a.csv.zst"}:
        codec = "gzip" if name.endswith("gz") else "zstd"
        (tmp_path / name).write_bytes(pa.Codec(codec).compress(rows, asbytes=True))
    else:
        (tmp_path / name).write_bytes(packed(name, {"x.csv": rows, "y.csv": rows}))

    with pytest.raises(
        SourceError,
        match=r"expands to more than 20 times its size: got more than [\d,]+ bytes from [\d,]+; if .* most_expansion=40",
    ):
        read_all(files(tmp_path / name, most_expansion=20))
    assert len(read_all(files(tmp_path / name, most_expansion=100_000))) >= 500_000


def test_limits_of_a_compressed_file_in_an_archive_do_not_multiply(tmp_path, monkeypatch):
    monkeypatch.setattr(expansion, "_UNCHECKED_BYTES", 1000)
    inner = gzip.compress(b"id\n" + b"1\n" * 2_000_000, 1)  # 4 MB in 18 KB, which deflate once more
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.csv.gz", inner)
        archive.writestr("y.csv.gz", gzip.compress(b"id\n1\n"))
    assert 4_000_000 / len(inner) < 400 < 4_000_000 / (tmp_path / "a.csv.zip").stat().st_size
    with pytest.raises(SourceError, match="expands to more than 400 times its size"):
        read_all(files(tmp_path / "a.csv.zip", most_expansion=400))
    assert len(read_all(files(tmp_path / "a.csv.zip", most_expansion=100_000))) == 2_000_001


def test_limits_of_expansion():
    Expansion(2).check(256 << 20, 1, Place("x"))
    with pytest.raises(SourceError, match="more than 2 times"):
        Expansion(2).check((256 << 20) + 1, 1, Place("x"))
    with pytest.raises(SourceError, match="most_expansion= must be positive: got 0"):
        files("a.csv", most_expansion=0)


def test_a_missing_member_is_named(tmp_path):
    for name in (ZIP, "a.csv.tar"):
        (tmp_path / name).write_bytes(packed(name, {"x.csv": b"id\n1\n", "y.csv": b"id\n1\n"}))
        reader = files(tmp_path / name)
        with pytest.raises(SourceError, match="the archive has no such file"):
            reader.read(SourceSplit(SourceObject(f"{tmp_path / name}!/z.csv", 1, "5-5")), SCHEMA)


def test_locations():
    for uri, archive, member in [
        ("a.zip!/x.csv", "a.zip", "x.csv"),
        ("s3://b/k.tar.gz!/in/x!/y.csv", "s3://b/k.tar.gz", "in/x!/y.csv"),
        ("a.zip", "a.zip", ""),
        ("in!/x.csv", "in!/x.csv", ""),
    ]:
        found, name = archive_of(SourceObject(uri, 1, "7-3"))
        assert (found.uri, name) == (archive, member)


def test_remote_archives_are_downloaded_once(tmp_path):
    for name in (ZIP, "a.csv.tgz"):
        (tmp_path / name).write_bytes(packed(name, {"x.csv": b"id\n1\n", "y.csv": b"id\n2\n"}))
        with http_server(tmp_path) as server:
            assert [row[1] for row in read_all(files(f"{server.uri}/{name}"))] == [1, 2]
            assert [each for each in server.requests if each.startswith("GET")] == [f"GET /{name}"]


class ArchivesWorld:
    """A folder that receives archives with two files each; every third row is invalid."""

    schema = COLUMNS

    def __init__(self, folder: Path) -> None:
        self.reader = files(folder / "f*.ndjson.tgz")
        self._folder, self._numbers = folder, itertools.count()

    def produce(self) -> int:
        number = next(self._numbers)
        rows = "".join(json.dumps({"id": each, "name": "n"}) + "\n" for each in (number, "zz", number + 1))
        name = f"f{number:03}.ndjson.tgz"
        (self._folder / name).write_bytes(packed(name, {"a.ndjson": rows.encode(), "b.ndjson": rows.encode()}))
        return 6


class TestArchives(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> ArchivesWorld:
        return ArchivesWorld(tmp_path)
