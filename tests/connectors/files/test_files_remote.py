"""Remote files, against real servers: the contract, listings, changes, ranges, credentials and errors."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import fastavro
import paramiko
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.orc import write_table as write_orc

from pipeline import files
from pipeline.connectors.files.downloads import Downloads
from pipeline.connectors.files.remote_clients import RemoteClient
from pipeline.core.errors import DefinitionError, SourceError, SourceUnavailableError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceSplit
from pipeline.testing import ReaderContract
from tests.rigs import azure
from tests.rigs.azure import azurite as azurite  # noqa: PLC0414 - the fixture
from tests.rigs.file_servers import FileServer
from tests.rigs.gcs import google_storage as google_storage  # noqa: PLC0414 - the fixture
from tests.rigs.remote_folders import BUCKETS, KINDS, LISTING, SCHEMA, Remote, read, remote_folder, url_of

WRONG_KEY = base64.b64encode(b"another key, of the same account.").decode()


@pytest.fixture(params=KINDS)
def store(request, tmp_path) -> Iterator[Remote]:
    with remote_folder(request.param, request, tmp_path) as remote:
        yield remote


class RemoteWorld:
    """A remote folder that receives files; every third row is invalid."""

    schema = SCHEMA

    def __init__(self, at: Remote) -> None:
        self._at, self._numbers = at, itertools.count()
        self.reader = at.reader("f*.ndjson")

    def produce(self) -> int:
        for _ in range(2):
            number = next(self._numbers)
            ids = (number * 10, "zz", number * 10 + 2)
            rows = "".join(json.dumps({"id": each, "name": f"n{each}"}) + "\n" for each in ids)
            self._at.write(f"f{number:03}.ndjson", rows.encode())
        return 6


@pytest.mark.share(1)
class TestRemote(ReaderContract):
    @pytest.fixture
    def world(self, store: Remote) -> RemoteWorld:
        return RemoteWorld(store)


def table(rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    ids = pa.array(range(rows), pa.int64())
    names = pa.array([f"name {number * 7919 % 1000}" for number in range(rows)])
    pq.write_table(pa.table({"id": ids, "name": names}), sink, row_group_size=rows // 8)
    return sink.getvalue().to_pybytes()


def avro_file(rows: int) -> bytes:
    stream, fields = io.BytesIO(), [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}]
    schema = fastavro.parse_schema({"type": "record", "name": "r", "fields": fields})
    fastavro.writer(stream, schema, ({"id": n, "name": f"n{n}"} for n in range(rows)), sync_interval=4000)
    return stream.getvalue()


def orc_file(rows: int) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"id": range(rows), "name": [f"n{n * 7919 % 100_003}" for n in range(rows)]})
    write_orc(table, sink, stripe_size=100_000, compression_block_size=65536)
    return sink.getvalue().to_pybytes()


CONTENTS = {
    "x.csv": "id,name\n" + "".join(f'{number},"n, {number}"\n' for number in range(20_000)),
    "x.ndjson": "".join(f'{{"id": {number}, "name": "n{number}"}}\n' for number in range(20_000)),
    "x.parquet": table(20_000),
    "x.avro": avro_file(20_000),
    "x.orc": orc_file(300_000),
}


@pytest.mark.share(6)
@pytest.mark.parametrize("name", CONTENTS)
def test_splits_contain_what_the_file_contains(store, name):
    content = CONTENTS[name]
    store.write(name, content if isinstance(content, bytes) else content.encode())
    reader = store.reader(name)
    (listed,) = reader.source_objects()

    splits = reader.splits(listed, listed.size_bytes // 4)
    parts = [part for split in splits for part in reader.parts(split, listed.size_bytes // 8)]
    whole = reader.read(SourceSplit(listed), Schema.of(SCHEMA)).rows

    assert len(splits) > 2
    for division in (splits, parts):
        assert pa.concat_tables(reader.read(each, Schema.of(SCHEMA)).rows for each in division).equals(whole)
    first, rows = whole[POSITION][0].as_py(), 300_000 if name.endswith("orc") else 20_000
    assert whole[POSITION].to_pylist() == list(range(first, first + rows))


@pytest.mark.share(2)
def test_a_change_is_noticed_and_a_touched_file_is_not(store):
    store.write("x.csv", b"id,name\n1,a\n")
    reader = store.reader("x.csv")
    before = reader.plan(None)

    store.write("x.csv", b"id,name\n2,a\n")

    if store.has_tags:
        assert reader.plan(before.cursor).changed == "x.csv changed"
        with pytest.raises(
            SourceError, match=r"the file changed after it was listed: got \d+ bytes, previously \d+; upl"
        ):
            reader.read(before.splits[0], Schema.of(SCHEMA))
    store.write("x.csv", b"id,name\n2,aaaa\n")
    assert reader.plan(before.cursor).changed == "x.csv changed"


@pytest.mark.share(2)
def test_a_removed_file_is_named(store):
    store.write("x.csv", b"id,name\n1,a\n")
    reader = store.reader("x.csv")
    before = reader.plan(None)
    (split,) = before.splits
    store.remove("x.csv")

    after = reader.plan(before.cursor)
    assert (after.splits, after.lost) == ((), (split.source_object.uri,))
    with pytest.raises(SourceError, match=r"the file cannot be read: got .*x\.csv"):
        reader.read(split, Schema.of(SCHEMA))
    with pytest.raises(SourceError, match=r"no file matches '.*x\.csv'"):
        reader.plan(None)


@pytest.mark.share(2)
def test_a_manifest_lists_names_beside_it_and_whole_addresses(store):
    for number in range(3):
        store.write(f"f{number:03}.csv", b"id,name\n1,a\n")
    every = [split.source_object.uri for split in store.reader("f*.csv").plan(None).splits]
    reader = store.reader("f*.csv", manifest=f"{store.uri}/list.txt")
    store.write("list.txt", f"f000.csv\n{every[2]}\n".encode())
    assert [split.source_object.uri for split in reader.plan(None).splits] == [every[0], every[2]]
    store.write("list.txt", b"f000.csv\nnone.csv\n")
    with pytest.raises(SourceError, match=r"the manifest lists a file that does not exist: got .*/none\.csv"):
        reader.plan(None)


@pytest.mark.share(2)
def test_compressed_names_and_strange_names(store):
    names = ["a.csv.gz", "with space.csv", "ü#%41.csv"]
    for number, name in enumerate(names):
        content = f"id,name\n{number},n\n".encode()
        store.write(name, gzip.compress(content) if name.endswith("gz") else content)
    for number, name in enumerate(names):
        assert read(store.reader(url_of(store, name), format="csv")) == [(number, "n", 2)]


@pytest.fixture(params=LISTING)
def listing(request, tmp_path) -> Iterator[Remote]:
    with remote_folder(request.param, request, tmp_path) as remote:
        yield remote


def test_patterns_match_as_in_local_folders(listing, tmp_path):
    names = [
        "a/f1.csv",
        "a/f2.csv",
        "a/.hidden.csv",
        "a/b/f3.csv",
        "a/b/c/f4.csv",
        "other/f5.csv",
        "f6.csv",
        "a/f7.txt",
        "a/f/f8.csv",
        "ab/f9.csv",
    ]
    patterns = [
        "a/*.csv",
        "*/f?.csv",
        "**/f*.csv",
        "a/**/*.csv",
        "a/f[1]*.csv",
        "*.csv",
        "a/b/f3.csv",
        "a/**",
        "?/b/*",
        "a/.*",
        "a/f*",
        "a*/*",
    ]
    local = tmp_path / "local"
    for name in names:
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text("id\n1\n")
        listing.write(name, b"id\n1\n")
    base = listing.uri.replace("az://", "abfs://")
    for pattern in patterns:
        here = files(local / pattern, format="csv").source_objects()
        there = listing.reader(pattern, format="csv").source_objects()
        expected = [each.uri.removeprefix(f"{local}/") for each in here]
        assert [each.uri.removeprefix(f"{base}/") for each in there] == expected, pattern


def test_a_wrong_secret_is_an_error_and_not_shown(listing):
    listing.write("x.csv", b"id,name\n1,a\n")
    right = listing.options[listing.secret]
    wrong = right.replace(azure.KEY, WRONG_KEY) if "AccountKey" in right else "not-this-one"
    reader = files(f"{listing.uri}/*.csv", options={**listing.options, listing.secret: wrong})
    assert wrong not in repr(reader)
    with pytest.raises(SourceError, match="the files cannot be listed") as raised:
        reader.plan(None)
    assert not isinstance(raised.value, SourceUnavailableError)
    assert len(str(raised.value)) < 400
    assert not any(secret in str(raised.value) for secret in (wrong, right, azure.KEY, WRONG_KEY))
    assert right not in repr(listing.reader("*.csv"))


@pytest.mark.parametrize("kind", BUCKETS)
def test_a_bucket_that_does_not_exist_is_not_an_empty_folder(kind, request, tmp_path):
    with remote_folder(kind, request, tmp_path) as store:
        store.write("x.csv", b"id,name\n1,a\n")
        scheme = store.uri.partition("://")[0]
        what = "container" if scheme == "az" else "bucket"
        for name in ("x.csv", "*.csv", "**"):
            uris = [f"{store.uri}/x.csv", f"{scheme}://no-such-{what}/{name}"]
            with pytest.raises(SourceError, match=f"the {what} does not exist: got 'no-such-{what}'; check the name"):
                files(uris, format="csv", options=store.options).source_objects()
        with pytest.raises(SourceError, match="no file matches"):
            store.reader("nothing/*.csv").plan(None)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az", "sftp", "ftp", "ftps", "http"])
def test_a_server_that_does_not_answer_is_unavailable(scheme):
    nowhere = "http://127.0.0.1:9"
    options = {
        "s3": {"endpoint_url": nowhere, "access_key_id": "k", "secret_access_key": "s", "max_retries": "0"},
        "gs": {"endpoint_url": nowhere, "token": "t"},
        "az": {"connection_string": f"AccountName=a;AccountKey=a2V5;BlobEndpoint={nowhere}/a"},
    }
    host = "bucket" if scheme in options else "127.0.0.1:9"
    with pytest.raises(SourceUnavailableError, match="the files cannot be listed"):
        files(f"{scheme}://{host}/x.csv", options=options.get(scheme, {})).plan(None)


def test_host_key_of_sftp(tmp_path, file_servers):
    server = file_servers.server("sftp", tmp_path.name)
    (server.folder / "x.csv").write_text("id,name\n1,a\n")
    address, fingerprint = f"{server.uri}/x.csv", server.options["host_key"]
    login = {name: server.options[name] for name in ("username", "password")}
    nowhere, known = {"known_hosts": str(tmp_path / "none")}, tmp_path / "known_hosts"
    with pytest.raises(SourceError, match=rf"is not known: got {re.escape(fingerprint)}; if it is the right one"):
        files(address, options={**login, **nowhere}).plan(None)
    with pytest.raises(SourceError, match="differs from the known one"):
        files(address, options={**login, "host_key": "SHA256:AAAA"}).plan(None)
    assert files(address, options={**login, "host_key": "any"}).plan(None).splits
    known.write_text(_known_host(server))
    assert files(address, options={**login, "known_hosts": str(known)}).plan(None).splits


def _known_host(server: FileServer) -> str:
    host, _, port = server.uri.split("/")[2].partition(":")
    with paramiko.Transport((host, int(port))) as transport:
        transport.start_client(timeout=30)
        key = transport.get_remote_server_key()
    return f"[{host}]:{port} {key.get_name()} {key.get_base64()}\n"


def test_uris_of_stores():
    azure = RemoteClient.of("abfs://box@acme.dfs.core.windows.net/in/*.csv", {"account_key": "env:KEY"})
    assert azure.path("abfs://box@acme.dfs.core.windows.net/in/*.csv") == "box/in/*.csv"
    assert (azure.location("box/in/a.csv"), dict(azure.options)["account_name"]) == ("abfs://box/in/a.csv", "acme")
    google = RemoteClient.of("gcs://bucket/a?.csv", {})
    assert (google.path("gcs://bucket/a?.csv"), google.location("bucket/ab.csv")) == (
        "bucket/a?.csv",
        "gs://bucket/ab.csv",
    )
    sftp = RemoteClient.of("sftp://joe@host:2222/in/a?.csv", {})
    assert (sftp.path("sftp://joe@host:2222/in/a?.csv"), sftp.location("/in/ab.csv")) == (
        "/in/a?.csv",
        "sftp://host:2222/in/ab.csv",
    )
    assert dict(sftp.options) == {"username": "joe"}


def test_definition_errors():
    with pytest.raises(DefinitionError, match=r"must not contain a password: got sftp://joe:…@host; pass options"):
        files("sftp://joe:pw@host/x.csv")
    with pytest.raises(
        DefinitionError, match="token or a signature, because it is stored with each row: got the parameter 'Sig'"
    ):
        files("https://host/x.csv?a=1&Sig=abc")
    with pytest.raises(DefinitionError, match=r"this kind of URI: got gopher://; use a path"):
        files("gopher://host/x.csv")
    with pytest.raises(DefinitionError, match=r"unknown name for sftp://: got 'pasword'; did you mean 'password'\?"):
        files("sftp://host/x.csv", options={"pasword": "env:X"})
    with pytest.raises(DefinitionError, match="the option 'timeout' must be text: got int"):
        files("sftp://host/x.csv", options={"timeout": 3})
    with pytest.raises(DefinitionError, match="all files of a source must be in one store"):
        files(["sftp://one/x.csv", "sftp://two/x.csv"])
    with pytest.raises(DefinitionError, match="all files of a source must be in one store"):
        files(["a.csv", "sftp://two/x.csv"])
    with pytest.raises(DefinitionError, match="HTTP servers cannot list files"):
        files("https://host/*.csv")
    with pytest.raises(DefinitionError, match="options= applies only to remote files"):
        files("a.csv", options={"token": "x"})
    with pytest.raises(SourceError, match="needs at least one path"):
        files([])


def test_several_local_patterns(tmp_path):
    for name in ("a.csv", "b.csv", "c.txt"):
        (tmp_path / name).write_text("id\n1\n")

    assert [
        each.uri.rpartition("/")[2] for each in files([tmp_path / "[ab].csv", tmp_path / "b*"]).source_objects()
    ] == ["a.csv", "b.csv"]


def test_downloads_are_shared_and_bounded():
    downloads, calls = Downloads(kept_bytes=1 << 20), []

    def writes(name: str, size: int):
        def write(path: str) -> None:
            calls.append(name)
            Path(path).write_bytes(b"x" * size)

        return write

    with downloads.copy("a", writes("a", 700_000)) as first, downloads.copy("a", writes("a", 700_000)) as second:
        assert first == second
    with downloads.copy("b", writes("b", 700_000)):
        assert Path(first).exists()
    assert not Path(first).exists()
    assert (downloads.has("a"), downloads.has("b")) == (False, True)
    with pytest.raises(OSError, match="cannot"), downloads.copy("c", _fails):
        pass
    with downloads.copy("c", writes("c", 1)) as path:
        assert Path(path).read_bytes() == b"x"
    assert calls == ["a", "b", "c"]


def _fails(path: str) -> None:
    Path(path).write_bytes(b"part")
    raise OSError("cannot")
