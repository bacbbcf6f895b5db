"""An account of Snowflake for tests: fakesnow on loopback, or a real one named by `HEADWATER_TEST_SNOWFLAKE_URL`."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.peer import interpreter
from pipeline.warehouse.snowflake.connection import snowflake_address
from pipeline.warehouse.snowflake.engine import SnowflakeWarehouse
from pipeline.warehouse.snowflake.sessions import open_session

REAL = os.environ.get("HEADWATER_TEST_SNOWFLAKE_URL", "")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class SnowflakeAccount:
    """An account, in which each test has a schema of its own."""

    port: int | None

    @property
    def is_real(self) -> bool:
        return self.port is None

    def url(self) -> str:
        """Create a schema and return its URL."""
        schema = f"T{os.getpid()}_{next(_numbers)}"
        if self.port is None:
            before, question, options = REAL.partition("?")
            url = f"{before.rpartition('/')[0]}/{schema}{question}{options}"
        else:
            options = f"host=127.0.0.1&port={self.port}&protocol=http"
            options += "&login_timeout=20&password=env:HEADWATER_TEST_PASSWORD"
            url = f"snowflake://loader@fakesnow/HEADWATER/{schema}?{options}"
        session = open_session(snowflake_address(url))
        session.rows(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        session.close()
        return url

    def abandon_sessions(self) -> None:
        """Roll back the transactions of dead clients, as Snowflake does by itself after some minutes."""
        if self.port is not None:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/abandon", timeout=30) as answer:
                assert answer.status == 200


@pytest.fixture(scope="session")
def snowflake_account(tmp_path_factory) -> Iterator[SnowflakeAccount]:
    pytest.importorskip("snowflake.snowpark", reason="the extra headwater[snowflake] is not installed")
    if REAL:
        yield SnowflakeAccount(None)
        return
    python = interpreter("-snowflake")
    if not python.exists():
        pytest.skip("fakesnow is not installed: make peers")
    os.environ["HEADWATER_TEST_PASSWORD"] = "loopback"  # noqa: S105 - fakesnow accepts any
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("fakesnow")
    log = (folder / "log").open("wb")
    program = Path(__file__).with_name("fakesnow_program.py")
    process = subprocess.Popen(
        [python, "-P", "-W", "ignore", program, str(port)], stdout=log, stderr=log, env=_environment(folder)
    )
    try:
        _wait_for(process, port, Path(log.name))
        yield SnowflakeAccount(port)
    finally:
        _close_sessions()
        process.terminate()
        process.wait(timeout=20)
        log.close()


def _close_sessions() -> None:
    """Close the sessions that tests left: they would look for the server when the process ends."""
    from snowflake.snowpark import session  # noqa: PLC0415 - an extra

    for each in list(session._active_sessions):  # noqa: SLF001 - has no public form
        each.close()


def _environment(folder: Path) -> dict[str, str]:
    """Return the environment of the server, whose stages are temporary files."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONWARNINGS"}}
    return {**kept, "TMPDIR": str(folder)}


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    pytest.skip(f"fakesnow does not start: {log.read_text()[-300:]}")


@pytest.fixture
def snowflake_url(snowflake_account) -> str:
    return snowflake_account.url()


@pytest.fixture
def snowflake(snowflake_url) -> Iterator[SnowflakeWarehouse]:
    warehouse = SnowflakeWarehouse(snowflake_address(snowflake_url))
    yield warehouse
    warehouse.close()
