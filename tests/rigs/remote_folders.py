"""Folders of remote stores, to which tests add files through another client than ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from pipeline import files
from pipeline.connectors.files import Files
from pipeline.core.schema import Schema
from tests.rigs.azure import Azure
from tests.rigs.file_servers import FileServer, http_server
from tests.rigs.gcs import TOKEN, GoogleCloudStorage
from tests.rigs.weed import BUCKET, KEY, S3, SECRET

SCHEMA = {"id": "bigint", "name": "varchar"}
BUCKETS = ("s3", "google_storage gs", "azurite az")
LISTING = (*BUCKETS, "file_servers sftp", "file_servers ftp", "file_servers ftps")
KINDS = (*LISTING, "http", "plain http")
"""The kinds of stores: the fixture of the server if there is one, and the scheme."""


@dataclass(frozen=True)
class Remote:
    """A folder of a server."""

    uri: str
    options: dict[str, str]
    write: Callable[[str, bytes], object]
    remove: Callable[[str], object]
    secret: str = ""
    """The name of the option with the secret."""

    def reader(self, pattern: str, **more: object) -> Files:
        if self.uri.startswith("http"):
            return files([f"{self.uri}/{name}" for name in self.names(pattern)], options=self.options, **more)
        return files(f"{self.uri}/{pattern}", options=self.options, **more)

    @staticmethod
    def names(pattern: str) -> list[str]:
        return [pattern.replace("*", f"{number:03}") for number in range(12)] if "*" in pattern else [pattern]

    @property
    def has_tags(self) -> bool:
        """Whether a change is noticed that keeps the size and the second."""
        return not self.uri.startswith(("ftp", "sftp"))


@contextmanager
def remote_folder(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Remote]:
    """Yield a folder of a kind of store, whose name is that of the local folder."""
    if "http" in kind:
        with http_server(folder, is_plain=kind == "plain http") as server:
            yield _in_folder(server)
        return
    name, _, scheme = kind.partition(" ")
    server = request.getfixturevalue(name)
    made = {"s3": _in_bucket, "google_storage": _in_google_bucket, "azurite": _in_container}.get(name)
    yield made(server, folder.name) if made else _in_folder(server.server(scheme, folder.name))


def _in_bucket(s3: S3, below: str) -> Remote:
    filesystem, base = s3.storage("").filesystem(), f"{BUCKET}/{below}"
    options = {"access_key_id": KEY, "secret_access_key": SECRET, "endpoint_url": s3.endpoint, "region": "us-east-1"}
    return Remote(
        f"s3://{base}",
        options,
        lambda name, content: filesystem.pipe_file(f"{base}/{name}", content),
        lambda name: filesystem.rm_file(f"{base}/{name}"),
        "secret_access_key",
    )


def _in_google_bucket(server: GoogleCloudStorage, below: str) -> Remote:
    server.create("landing")
    return Remote(
        f"gs://landing/{below}",
        {"token": TOKEN, "endpoint_url": server.endpoint},
        lambda name, content: server.write("landing", f"{below}/{name}", content),
        lambda name: server.remove("landing", f"{below}/{name}"),
        "token",
    )


def _in_container(azure: Azure, below: str) -> Remote:
    client = azure.container("landing")
    return Remote(
        f"az://landing/{below}",
        {"connection_string": azure.connection_string()},
        lambda name, content: client.upload_blob(f"{below}/{name}", content, overwrite=True),
        lambda name: client.delete_blob(f"{below}/{name}"),
        "connection_string",
    )


def _in_folder(server: FileServer) -> Remote:
    def write(name: str, content: bytes) -> None:
        (server.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (server.folder / name).write_bytes(content)

    return Remote(server.uri, server.options, write, lambda name: (server.folder / name).unlink(), "password")


def read(reader: Files, columns: Mapping[str, str] | None = None) -> list[tuple[object, ...]]:
    """Return the rows of all files."""
    rows: list[tuple[object, ...]] = []
    for split in reader.plan(None).splits:
        reading = reader.read(split, Schema.of(columns or SCHEMA))
        rows += [tuple(row.values()) for row in reading.rows.to_pylist()]
    return rows


def url_of(store: Remote, name: str) -> str:
    """Return a name as it stands in a URI of a store: HTTP needs it encoded."""
    return quote(name) if store.uri.startswith("http") else name
