"""Files of HTTP servers: ranges, tokens, redirects, outages."""

from __future__ import annotations

import gzip
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Self

import pytest

from pipeline import files
from pipeline.core.errors import SettingsError, SourceError, SourceUnavailableError, SplitError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from tests.rigs.file_servers import http_server
from tests.rigs.http_listener import HttpListener
from tests.rigs.remote_folders import SCHEMA, read


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


class Redirecting(HttpListener):
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


class Encoding(Redirecting):
    """Answers each request with a gzip file, and says that it has an encoding."""

    encoding = ""

    class Handler(Redirecting.Handler):
        def do_GET(self) -> None:
            body = gzip.compress(b"id,name\n1,a\n")
            self.send_response(200)
            self.send_header("Content-Encoding", self.server.encoding)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 - the name of the library


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "gzip, gzip"])
def test_the_bytes_of_a_compressed_file_are_not_decompressed_on_the_way(encoding):
    with Encoding(("127.0.0.1", 0), Encoding.Handler) as server:
        server.encoding, at = encoding, f"http://127.0.0.1:{server.server_port}"
        assert read(files(f"{at}/x.csv.gz")) == [(1, "a", 2)]
        with pytest.raises(SourceError, match=f"has an encoding that is not read: got '{encoding}'"):
            read(files(f"{at}/x.csv"))


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
