"""A PostgreSQL server on loopback, from the installed programs, for benchmarks, examples and tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.local.ports import unused_port
from pipeline.core.errors import UnavailableError

STARTS_WITHIN_S = 60
_GUARD = '"$@" & pid=$!; read -r _; kill -INT $pid; wait $pid 2>/dev/null; exit 0'
"""The server ends with the process that started it, even if that is killed, because its end of the pipe closes."""
_SETTINGS = ("wal_level=logical", "max_replication_slots=50", "max_wal_senders=20")
"""For change data."""


@contextmanager
def postgres_server(*, wal_kept: str = "64MB") -> Iterator[str]:
    """Yield the URL of an empty database; raise `UnavailableError` if PostgreSQL is not installed.

    A replication slot is lost if it holds back more of the log than `wal_kept`. Nothing is synchronized to disk.
    """
    if missing := [name for name in ("initdb", "postgres") if shutil.which(name) is None]:
        raise UnavailableError(f"no PostgreSQL on this machine: {' and '.join(missing)} not found")
    user = "nobody" if os.name == "posix" and os.geteuid() == 0 else None  # the server does not run as root
    folder = Path(tempfile.mkdtemp(prefix="headwater-postgres-"))
    if user is not None:
        shutil.chown(folder, user)
    port = unused_port()
    data = str(folder / "data")
    command = ["initdb", "-D", data, "-U", "headwater", "--auth", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run(command, user=user, cwd=folder, check=True, capture_output=True)
    served = ["postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
    for setting in (*_SETTINGS, f"max_slot_wal_keep_size={wal_kept}"):
        served += ["-c", setting]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", *served], user=user, cwd=folder, stdin=subprocess.PIPE, stdout=log, stderr=log
        )
    try:
        _wait_for(port, folder / "log")
        yield f"postgresql://headwater@127.0.0.1:{port}/postgres"
    finally:
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(port: int, log: Path) -> None:
    end = time.monotonic() + STARTS_WITHIN_S
    while "database system is ready to accept connections" not in log.read_text(encoding="utf-8"):
        if time.monotonic() > end:
            raise RuntimeError(f"PostgreSQL did not start on port {port}: {log.read_text(encoding='utf-8')}")
        time.sleep(0.05)
