"""A server like Google Cloud Storage on loopback: fake-gcs-server, which `make peers` builds, with a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from tests.rigs.go_programs import go_program
from tests.rigs.streams import started

TOKEN = "a-token-of-tests"  # noqa: S105 - of tests
CONFLICT = 409


@dataclass(frozen=True)
class GoogleCloudStorage:
    """A running server."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def create(self, bucket: str) -> None:
        """Create a bucket, unless it exists."""
        try:
            self._request("POST", "/storage/v1/b?project=tests", json.dumps({"name": bucket}).encode())
        except HTTPError as error:
            if error.code != CONFLICT:
                raise

    def write(self, bucket: str, name: str, content: bytes) -> None:
        self._request("POST", f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(name, safe='')}", content)

    def remove(self, bucket: str, name: str) -> None:
        self._request("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")

    def _request(self, method: str, path: str, body: bytes | None = None) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        with urlopen(Request(self.endpoint + path, body, headers, method=method), timeout=30):  # noqa: S310 - loopback
            pass


@pytest.fixture(scope="session")
def google_storage() -> Iterator[GoogleCloudStorage]:
    pytest.importorskip("gcsfs", reason="no client of Google Cloud Storage: pip install 'headwater[gcs]'")
    with started([go_program("gcs"), "{port}", TOKEN]) as server:
        yield GoogleCloudStorage(server.port)
