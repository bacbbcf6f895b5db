"""Runs programs beside the tests, which end with the test process, even if that is killed."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

_GUARD = '"$@" & pid=$!; read -r _; kill -TERM $pid; wait $pid 2>/dev/null; exit 0'
"""The shell reads a pipe, whose other end is closed when the test process ends."""


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    user: str | None = None,
) -> Iterator[None]:
    """Run a program in a folder, as a user, with its output in a file; end it at the end."""
    with log.open("ab") as output:
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            user=user,
        )
    try:
        yield
    finally:
        guard.communicate()


def wait_for_port(port: int, log: Path, *, within_s: float) -> None:
    """Wait until a server on loopback accepts connections; fail the test with its output if it does not."""
    until = time.monotonic() + within_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                pytest.fail(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.02)
        else:
            return
