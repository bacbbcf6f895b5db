"""Remote files, against real servers: the contract, listings, changes, ranges, credentials and errors."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import fastavro
import paramiko
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.orc import write_table as write_orc

from pipeline import files
from pipeline.connectors.files import Files
from pipeline.connectors.files.downloads import Downloads
from pipeline.connectors.files.remote_clients import RemoteClient
from pipeline.core.errors import DefinitionError, SettingsError, SourceError, SourceUnavailableError, SplitError
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.testing import ReaderContract
from tests.rigs.file_servers import PASSWORD, FileServer, http_server
from tests.rigs.weed import BUCKET, KEY, S3, SECRET

SCHEMA = {"id": "bigint", "name": "varchar"}
KINDS = ("s3", "sftp", "ftp", "http", "plain http")


class Remote:
    """A folder of a server, to which files are added through another client."""

    def __init__(self, uri: str, options: dict[str, str], write, remove) -> None:
        self.uri, self.options, self.write, self.remove = uri, options, write, remove

    def reader(self, pattern: str, **more: object) -> Files:
        if self.uri.startswith("http"):
            return files([f"{self.uri}/{name}" for name in self.names(pattern)], options=self.options, **more)
        return files(f"{self.uri}/{pattern}", options=self.options, **more)

    @staticmethod
    def names(pattern: str) -> list[str]:
        return [pattern.replace("*", f"{number:03}") for number in range(12)] if "*" in pattern else [pattern]


def in_bucket(s3: S3, below: str) -> Remote:
    filesystem, base = s3.storage("").filesystem(), f"{BUCKET}/{below}"
    options = {"access_key_id": KEY, "secret_access_key": SECRET, "endpoint_url": s3.endpoint, "region": "us-east-1"}
    return Remote(
        f"s3://{base}",
        options,
        lambda name, content: filesystem.pipe_file(f"{base}/{name}", content),
        lambda name: filesystem.rm_file(f"{base}/{name}"),
    )


def in_folder(server: FileServer) -> Remote:
    def write(name: str, content: bytes) -> None:
        (server.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (server.folder / name).write_bytes(content)

    return Remote(server.uri, server.options, write, lambda name: (server.folder / name).unlink())


@pytest.fixture(params=KINDS)
def store(request, tmp_path, s3, file_servers) -> Iterator[Remote]:
    if request.param == "s3":
        yield in_bucket(s3, f"files-{tmp_path.name}")
    elif "http" in request.param:
        with http_server(tmp_path, is_plain=request.param == "plain http") as server:
            yield in_folder(server)
    else:
        yield in_folder(file_servers.server(request.param, tmp_path.name))


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


def read(reader: Files, columns: dict[str, str] = SCHEMA) -> list[tuple[object, ...]]:
    rows = []
    for split in reader.plan(None).splits:
        reading = reader.read(split, Schema.of(columns))
        rows += [tuple(row.values()) for row in reading.rows.to_pylist()]
    return rows


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

    if not store.uri.startswith(("ftp", "sftp")):  # they have times in seconds, and no tags
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
    (split,) = reader.plan(None).splits
    store.remove("x.csv")

    with pytest.raises(SourceError, match=r"the file cannot be read: got .*x\.csv"):
        reader.read(split, Schema.of(SCHEMA))
    with pytest.raises(SourceError, match=r"no file matches '.*x\.csv'"):
        reader.plan(None)


@pytest.mark.share(2)
def test_compressed_names_and_strange_names(store):
    names = ["a.csv.gz", "with space.csv", "ü#%41.csv"]
    for number, name in enumerate(names):
        content = f"id,name\n{number},n\n".encode()
        store.write(name, gzip.compress(content) if name.endswith("gz") else content)
    if store.uri.startswith("http"):
        names = ["a.csv.gz", "with%20space.csv", "%C3%BC%23%2541.csv"]
    for number, name in enumerate(names):
        assert read(store.reader(name, format="csv")) == [(number, "n", 2)]


@pytest.mark.parametrize("kind", ["s3", "sftp", "ftp"])
def test_patterns_match_as_in_local_folders(kind, tmp_path, s3, file_servers):
    names = [
        "a/f1.csv",
        "a/f2.csv",
        "a/.hidden.csv",
        "a/b/f3.csv",
        "a/b/c/f4.csv",
        "other/f5.csv",
        "f6.csv",
        "a/f7.txt",
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
    ]
    local = tmp_path / "local"
    at = in_bucket(s3, "patterns") if kind == "s3" else in_folder(file_servers.server(kind, f"patterns-{kind}"))
    for name in names:
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_text("id\n1\n")
        at.write(name, b"id\n1\n")
    for pattern in patterns:
        here = files(local / pattern, format="csv").source_objects()
        there = at.reader(pattern, format="csv").source_objects()
        expected = [each.uri.removeprefix(f"{local}/") for each in here]
        assert [each.uri.removeprefix(f"{at.uri}/") for each in there] == expected, pattern


def test_only_the_bytes_of_a_split_are_downloaded(tmp_path):
    content = b"id,name\n" + b"".join(b"%d,%s\n" % (number, b"x" * 100) for number in range(50_000))
    (tmp_path / "x.csv").write_bytes(content)
    with http_server(tmp_path) as server:
        reader = files(f"{server.uri}/x.csv")
        (listed,) = reader.source_objects()
        splits = files(tmp_path / "x.csv").splits(files(tmp_path / "x.csv").source_objects()[0], 1_500_000)
        last = SourceSplit(listed, splits[-1].begin, None, splits[-1].first, splits[-1].planned_bytes, splits[-1].lines)
        server.requests.clear()

        assert reader.read(last, Schema.of(SCHEMA)).rows["id"].to_pylist()[-1] == 49_999

        sizes = [
            int(end) - int(begin)
            for begin, end in (r.rpartition("=")[2].split("-") for r in server.requests if "=" in r)
        ]
        assert 0 < sum(sizes) < len(content) * 0.8
        assert "GET /x.csv" not in server.requests


def test_a_file_is_downloaded_once(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,name\n1,a\n")
    with http_server(tmp_path) as server:
        reader = files(f"{server.uri}/x.csv")
        (split,) = reader.plan(None).splits
        assert reader.schema(split.source_object).names == ("id", "name")
        reader.read(split, Schema.of(SCHEMA))

        assert [each for each in server.requests if each.startswith("GET")] == ["GET /x.csv"]


def test_a_split_without_a_stamp_is_downloaded_each_time(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,name\n1,a\n")
    with http_server(tmp_path) as server:
        reader = files(f"{server.uri}/x.csv")
        for row in (1, 2):
            (tmp_path / "x.csv").write_bytes(b"id,name\n%d,a\n" % row)
            split = SourceSplit(SourceObject(f"{server.uri}/x.csv", 12, ""), 0, 12, 0)
            assert reader.read(split, Schema.of(SCHEMA)).rows["id"].to_pylist() == [row]


def test_http_needs_its_token(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text("id,name\n1,a\n")
    monkeypatch.setenv("FILES_TOKEN", "t-1")
    with http_server(tmp_path, login="t-1") as server:
        url = f"{server.uri}/x.csv"
        assert read(files(url, options={"token": "env:FILES_TOKEN"})) == [(1, "a", 2)]
        assert read(files(url, options={"header:Authorization": "Bearer t-1"})) == [(1, "a", 2)]
        with pytest.raises(
            SourceError, match=r"cannot be listed: got 401.*; check the URI, and the credentials in options="
        ) as raised:
            files(url, options={"token": "wrong-one"}).plan(None)
        assert "wrong-one" not in str(raised.value)
        with pytest.raises(SettingsError, match="'NOT_SET' with the option 'token' is not set"):
            files(url, options={"token": "env:NOT_SET"}).plan(None)


class Redirecting(ThreadingHTTPServer):
    """Answers each request with a redirect to `target`, or with its headers if there is none."""

    target = ""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"" if self.server.target else "\n".join(["header", *map(str.lower, self.headers)]).encode()
            self.send_response(302 if self.server.target else 200)
            self.send_header("Content-Length", str(len(body)))
            if self.server.target:
                self.send_header("Location", self.server.target)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name of the library

        def log_message(self, *_: object) -> None: ...

    def __enter__(self) -> Self:
        threading.Thread(target=partial(self.serve_forever, poll_interval=0.05), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


@pytest.mark.parametrize(
    ("host", "target"),
    [
        ("localhost", "http://127.0.0.2:9/x.csv"),
        ("localhost", "http://[::1]:9/x.csv"),
        ("localhost", "http://0177.0.0.1:9/x.csv"),
        ("127.0.0.1", "http://localhost:9/x.csv"),
    ],
)
def test_a_redirect_to_another_private_address_is_refused(host, target):
    with Redirecting(("127.0.0.1", 0), Redirecting.Handler) as server:
        server.target = target
        with pytest.raises(SourceError, match=r"a response refers to '.*', which has a private address") as raised:
            files(f"http://{host}:{server.server_port}/x.csv").plan(None)
        assert not isinstance(raised.value, SourceUnavailableError)


def test_a_redirect_to_an_allowed_host_is_followed():
    with (
        Redirecting(("127.0.0.1", 0), Redirecting.Handler) as first,
        Redirecting(("127.0.0.1", 0), Redirecting.Handler) as other,
    ):
        first.target = f"http://localhost:{other.server_port}/x.csv"
        at = f"http://127.0.0.1:{first.server_port}/x.csv"
        assert rows_of_headers(files(at, options={"allowed_hosts": "localhost"}))


def test_a_redirect_to_another_host_gets_no_credentials(monkeypatch):
    monkeypatch.setattr("pipeline.connectors.http.addresses.is_public", lambda _: True)
    with (
        Redirecting(("127.0.0.1", 0), Redirecting.Handler) as first,
        Redirecting(("127.0.0.1", 0), Redirecting.Handler) as other,
    ):
        options = {"header:X-Api-Key": "k-1", "token": "t-1"}
        at = f"http://127.0.0.1:{first.server_port}/x.csv"
        names = [row[0] for row in rows_of_headers(files(at, options=options))]
        assert {"x-api-key", "authorization"} <= set(names)
        first.target = f"http://localhost:{other.server_port}/x.csv"
        names = [row[0] for row in rows_of_headers(files(at, options=options))]
        assert {"x-api-key", "authorization"}.isdisjoint(names)
        assert "accept-encoding" in names


def rows_of_headers(reader) -> list[tuple[str]]:
    (split,) = reader.plan(None).splits
    return [(name,) for name in reader.read(split, Schema.of({"header": "varchar"})).rows["header"].to_pylist()]


def test_a_tail_lists_a_remote_store_at_intervals_and_survives_an_outage(tmp_path):
    (tmp_path / "x.csv").write_text("id,name\n1,a\n")
    with http_server(tmp_path) as server:
        reader = files(f"{server.uri}/x.csv")
        with reader.tail({f"{server.uri}/x.csv": 0}) as tail:
            for _ in range(3):
                assert tail.ready(0.05).offsets == {f"{server.uri}/x.csv": 12}
            assert len(server.requests) == 1
    tail.reuse_s = 0.0
    assert tail.ready(0.05).is_unanswered
    with pytest.raises(SourceUnavailableError, match="cannot be listed"):
        reader.extents()


def test_parameters_of_a_url_belong_to_the_file(tmp_path):
    (tmp_path / "x.csv").write_text("id,name\n1,a\n")
    with http_server(tmp_path) as server:
        reader = files([f"{server.uri}/x.csv?day=1", f"{server.uri}/x.csv?day=2"])
        assert len(reader.plan(None).splits) == 2
        assert read(reader) == [(1, "a", 2), (1, "a", 2)]


@pytest.mark.parametrize("kind", ["sftp", "ftp", "s3"])
def test_a_wrong_password_is_not_shown(kind, tmp_path, s3, file_servers):
    at = in_bucket(s3, tmp_path.name) if kind == "s3" else in_folder(file_servers.server(kind, tmp_path.name))
    at.write("x.csv", b"id,name\n1,a\n")
    name = "secret_access_key" if kind == "s3" else "password"
    reader = files(f"{at.uri}/*.csv", options={**at.options, name: "not-this-one"})
    assert "not-this-one" not in repr(reader)
    with pytest.raises(SourceError, match="the files cannot be listed") as raised:
        reader.plan(None)
    assert "not-this-one" not in str(raised.value)
    assert not isinstance(raised.value, SourceUnavailableError)
    assert PASSWORD not in repr(at.reader("*.csv"))


@pytest.mark.parametrize("scheme", ["s3", "sftp", "ftp", "http"])
def test_a_server_that_does_not_answer_is_unavailable(scheme):
    options = {
        "s3": {"endpoint_url": "http://127.0.0.1:9", "access_key_id": "k", "secret_access_key": "s", "max_retries": "0"}
    }
    host = "bucket" if scheme == "s3" else "127.0.0.1:9"
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


def test_a_split_that_cannot_be_read_alone(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,name\n" + b'1,"a\n' * 1000)
    with http_server(tmp_path) as server:
        reader = files(f"{server.uri}/x.csv")
        (listed,) = reader.source_objects()
        with pytest.raises(SplitError, match="cannot be read independently"):
            reader.read(SourceSplit(listed, 8, 23, 2), Schema.of(SCHEMA))


def test_an_outage_is_not_an_error_of_a_split(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,name\n" + b"1,a\n" * 1000)
    with http_server(tmp_path) as server:
        reader = files(f"{server.uri}/x.csv")
        (listed,) = reader.source_objects()
    with pytest.raises(SourceUnavailableError, match="the file cannot be read"):
        reader.read(SourceSplit(listed, 8, 2000, 2), Schema.of(SCHEMA))


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
