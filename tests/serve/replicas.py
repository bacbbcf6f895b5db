"""Replicas of a project that share by a Valkey server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from serve.access import shared_server
from tests.serve.conftest import Cafe


def share(cafe: Cafe, port: int, name: str) -> None:
    """Let the replicas of a café share by the server at a port, as a project of this name."""
    file = cafe.root / "headwater.toml"
    text = file.read_text().replace('name = "cafe"', f'name = "{name}"')
    url = f'[env.dev.serve]\nredis_url = "redis://127.0.0.1:{port}/0"\n'
    file.write_text(text.replace("[env.dev.serve]\n", url))


@contextmanager
def replicas(cafe: Cafe, count: int = 2, key: str | None = None) -> Iterator[list]:
    """Clients of replicas that ask with the same key."""
    key = cafe.key() if key is None else key
    with ExitStack() as stack:
        yield [stack.enter_context(cafe.client(key=key)) for _ in range(count)]


@pytest.fixture
def patient(monkeypatch):
    """Replicas that wait longer for the server, as a busy machine needs: it is never slow for them."""
    monkeypatch.setattr(shared_server, "TIMEOUT_S", 10.0)
