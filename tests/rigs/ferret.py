"""A server that speaks MongoDB's protocol on loopback: FerretDB, which `make peers` builds."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.rigs.go_programs import go_program
from tests.rigs.streams import started


class MongoDatabase:
    """A database of its own on the server."""

    def __init__(self, server: str) -> None:
        self.name = f"hw_{uuid.uuid4().hex[:12]}"
        self.url = f"{server}/{self.name}"
        self._server = server

    def insert(self, collection: str, *documents: dict[str, Any]) -> None:
        """Insert documents."""
        with self.client() as client:
            client[self.name][collection].insert_many(documents)

    def client(self) -> Any:
        """A client of PyMongo."""
        import pymongo  # noqa: PLC0415 - the fixture skips without it

        return pymongo.MongoClient(self._server)


@pytest.fixture(scope="session")
def ferret() -> Iterator[str]:
    """The URL of the server. Its arguments are its address and the folder of its SQLite files."""
    pytest.importorskip("pymongo", reason="no driver for MongoDB: pip install 'headwater[mongodb]'")
    with started([go_program("ferretdb"), "127.0.0.1:{port}", "{folder}"]) as server:
        yield f"mongodb://127.0.0.1:{server.port}"


@pytest.fixture
def mongo(ferret: str) -> MongoDatabase:
    """An empty database."""
    return MongoDatabase(ferret)
