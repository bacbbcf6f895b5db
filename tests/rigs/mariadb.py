"""A MariaDB server on loopback, from the installed programs; tests are skipped if these or a driver are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from cluster.local.ports import unused_port
from tests.rigs.running import running

STARTS_WITHIN_S = 60


class MariadbDatabase:
    """A database of its own on the server, for tests of sources."""

    def __init__(self, port: int) -> None:
        self.port, self.name = port, f"hw_{uuid.uuid4().hex[:12]}"
        with _connected(port, None) as con, con.cursor() as cursor:
            cursor.execute(f"create database {self.name} character set utf8mb4")
        self.url = f"mysql://headwater@127.0.0.1:{port}/{self.name}"

    def connected(self) -> AbstractContextManager[Any]:
        """A connection that commits each statement."""
        return _connected(self.port, self.name)

    def run(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with self.connected() as con, con.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)


@pytest.fixture(scope="session")
def mariadb() -> Iterator[int]:
    """The port of a server."""
    pytest.importorskip("pymysql", reason="no driver for MySQL: pip install 'headwater[mysql]'")
    pytest.importorskip("connectorx", reason="no driver for MySQL: pip install 'headwater[mysql]'")
    programs = {
        name: shutil.which(name) or shutil.which(f"/usr/sbin/{name}") for name in ("mariadb-install-db", "mariadbd")
    }
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no MariaDB on this machine: {' and '.join(missing)} not found")
    user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None  # the server does not run as root
    folder = Path(tempfile.mkdtemp(prefix="headwater-mariadb-"))
    (folder / "tmp").mkdir()
    if user is not None:
        for each in (folder, folder / "tmp"):
            shutil.chown(each, user)
    port = unused_port()
    places = ["--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder / 'tmp'}"]
    install = [str(programs["mariadb-install-db"]), *places, "--auth-root-authentication-method=normal"]
    subprocess.run(install, user=user, cwd=folder, check=True, capture_output=True)
    (folder / "init.sql").write_text(
        "create user headwater@'127.0.0.1';\ngrant all on *.* to headwater@'127.0.0.1' with grant option;\n"
    )
    served = [
        str(programs["mariadbd"]),
        *places,
        f"--port={port}",
        "--bind-address=127.0.0.1",
        f"--socket={folder / 's'}",
    ]
    served += [f"--pid-file={folder / 'pid'}", f"--init-file={folder / 'init.sql'}", "--skip-name-resolve"]
    served += ["--log-bin=bin", "--binlog-format=ROW", "--binlog-row-metadata=FULL", "--server-id=1"]  # for change data
    try:
        with running(served, folder / "log", folder=folder, user=user):
            _wait_for(port, folder / "log")
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def maria(mariadb: int) -> MariadbDatabase:
    """An empty database."""
    return MariadbDatabase(mariadb)


def _connected(port: int, database: str | None) -> AbstractContextManager[Any]:
    import pymysql  # noqa: PLC0415 - the fixture skips without it

    return closing(
        pymysql.connect(
            host="127.0.0.1", port=port, user="headwater", database=database, autocommit=True, charset="utf8mb4"
        )
    )


def _wait_for(port: int, log: Path) -> None:
    import pymysql  # noqa: PLC0415 - the fixture skips without it

    end = time.monotonic() + STARTS_WITHIN_S
    while True:
        try:
            with _connected(port, None):
                return
        except pymysql.OperationalError:
            if time.monotonic() > end:
                raise RuntimeError(f"MariaDB did not start: {log.read_text()}") from None
            time.sleep(0.1)
