"""MySQL and MariaDB on loopback; tests of a server are skipped if its programs or a driver are missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.local.ports import unused_port
from tests.rigs.mysql_program import ROOT, mysqld
from tests.rigs.running import running

STARTS_WITHIN_S = 60
GRANTS = """create user headwater@'127.0.0.1';
grant all on *.* to headwater@'127.0.0.1' with grant option;
"""
LOGGED = ["--log-bin=bin", "--binlog-format=ROW", "--binlog-row-metadata=FULL", "--server-id=1"]
"""For change data."""


class MysqlDatabase:
    """A database of its own on a server of MySQL or MariaDB."""

    def __init__(self, port: int, *, is_mariadb: bool) -> None:
        self.port, self.is_mariadb, self.name = port, is_mariadb, f"hw_{uuid.uuid4().hex[:12]}"
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
    """The port of a MariaDB server."""
    programs = {
        name: shutil.which(name) or shutil.which(f"/usr/sbin/{name}") for name in ("mariadb-install-db", "mariadbd")
    }
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no MariaDB on this machine: {' and '.join(missing)} not found")
    install, server = ([str(programs[name])] for name in ("mariadb-install-db", "mariadbd"))
    with _served(install, ["--auth-root-authentication-method=normal"], server) as port:
        yield port


@pytest.fixture(scope="session")
def mysql_server() -> Iterator[int]:
    """The port of a MySQL server."""
    server, options = mysqld(), [f"--lc-messages-dir={ROOT / 'usr' / 'share' / 'mysql'}"]
    with _served(
        server, ["--initialize-insecure", *options], server, [*options, "--mysqlx=OFF", "--secure-file-priv="]
    ) as port:
        yield port


@pytest.fixture
def maria(mariadb: int) -> MysqlDatabase:
    """An empty database of MariaDB."""
    return MysqlDatabase(mariadb, is_mariadb=True)


@pytest.fixture(params=["mariadb", "mysql_server"])
def mysql_database(request: pytest.FixtureRequest) -> MysqlDatabase:
    """An empty database of MariaDB, and one of MySQL."""
    return MysqlDatabase(request.getfixturevalue(request.param), is_mariadb=request.param == "mariadb")


@contextmanager
def _served(
    install: Sequence[str], install_options: Sequence[str], server: Sequence[str], options: Sequence[str] = ()
) -> Iterator[int]:
    """Create a folder of data, and run a server on it."""
    for driver in ("pymysql", "connectorx"):
        pytest.importorskip(driver, reason="no driver for MySQL: pip install 'headwater[mysql]'")
    user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None  # the server does not run as root
    folder = Path(tempfile.mkdtemp(prefix="headwater-mysql-"))
    (folder / "tmp").mkdir()
    if user is not None:
        for each in (folder, folder / "tmp"):
            shutil.chown(each, user)
    port = unused_port()
    places = ["--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder / 'tmp'}"]
    (folder / "init.sql").write_text(GRANTS)
    address = [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 's'}", f"--pid-file={folder / 'pid'}"]
    try:
        subprocess.run([*install, *places, *install_options], user=user, cwd=folder, check=True, capture_output=True)
        init = f"--init-file={folder / 'init.sql'}"
        served = [*server, *places, *address, init, "--skip-name-resolve", *LOGGED, *options]
        with running(served, folder / "log", folder=folder, user=user):
            _wait_for(port, folder / "log")
            yield port
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
                raise RuntimeError(f"the server did not start: {log.read_text()}") from None
            time.sleep(0.1)
