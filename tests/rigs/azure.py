"""A server like Azure's storage on loopback: Azurite, which `make peers` installs. It verifies signatures."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cluster.local.ports import unused_port
from tests.rigs.npm_programs import npm_program
from tests.rigs.streams import started

ACCOUNT, KEY = "acme", base64.b64encode(b"a key of tests, not of an account").decode()


@dataclass(frozen=True)
class Azure:
    """A running server with one account."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def connection_string(self, key: str = KEY) -> str:
        return f"AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={self.endpoint};"

    def container(self, name: str) -> Any:
        """Return a client of a container, which is created if it does not exist."""
        from azure.core.exceptions import ResourceExistsError  # noqa: PLC0415 - the fixture skips without it
        from azure.storage.blob import ContainerClient  # noqa: PLC0415

        client = ContainerClient.from_connection_string(self.connection_string(), name)
        with suppress(ResourceExistsError):
            client.create_container()
        return client

    def sas(self, container: str) -> str:
        """Return a signature for reading and listing a container."""
        from azure.storage.blob import generate_container_sas  # noqa: PLC0415 - the fixture skips without it

        ends = datetime.now(UTC) + timedelta(hours=1)
        return str(generate_container_sas(ACCOUNT, container, account_key=KEY, permission="rl", expiry=ends))


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azure]:
    pytest.importorskip("adlfs", reason="no client of Azure: pip install 'headwater[azure]'")
    port = unused_port()
    words = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    environment = {**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    command = [*npm_program("azurite-blob"), *words, "--skipApiVersionCheck", "--silent"]
    with started(command, port, environment=environment):
        yield Azure(port)
