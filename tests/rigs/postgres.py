"""A PostgreSQL server on loopback, from the installed programs; tests are skipped if these or a driver are missing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

STARTS_WITHIN_S = 60
_GUARD = '"$@" & pid=$!; read -r _; kill -INT $pid; wait $pid 2>/dev/null; exit 0'
"""The server ends with the test process, even if that is killed, because its end of the pipe closes."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The SQLAlchemy URL of an empty database."""
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: pip install psycopg[binary]")
    if missing := [name for name in ("initdb", "postgres") if shutil.which(name) is None]:
        pytest.skip(f"no PostgreSQL on this machine: {' and '.join(missing)} not found")
    user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None  # the server does not run as root
    folder = Path(tempfile.mkdtemp(prefix="headwater-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    data = str(folder / "data")
    command = ["initdb", "-D", data, "-U", "headwater", "--auth", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True)
    served = ["postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *served], user=user, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    url = f"postgresql+psycopg://headwater@127.0.0.1:{port}/postgres"
    try:
        _wait_for(url, folder / "log")
        yield url
    finally:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str, log: Path) -> None:
    engine, end = sa.create_engine(url, poolclass=sa.NullPool), time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            if time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}") from None
            time.sleep(0.1)
        else:
            return
