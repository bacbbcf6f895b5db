"""The broker of tests and benchmarks: it ends with the process that started it, and reports why it cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.kafka import BrokerError, Cluster, home
from pipeline.core.errors import UnavailableError

STARTS_ONE = """
import sys
from pathlib import Path
from benchmarks.kafka import Cluster
with Cluster(Path(sys.argv[1])) as cluster:
    print(cluster.pid(), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def jars() -> Path:
    try:
        return home()
    except UnavailableError as error:
        pytest.skip(str(error))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_broker_ends_when_its_parent_is_killed(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_ONE, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as owner:
        broker = int(owner.stdout.readline())
        assert is_alive(broker)
        owner.kill()
    limit = time.monotonic() + 10
    while is_alive(broker) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not is_alive(broker)


def test_broker_that_cannot_start_reports_the_reason(tmp_path):
    with pytest.raises(BrokerError, match=r"(?s)broker 1 did not start.*num\.network\.threads"):
        Cluster(tmp_path, settings={"num.network.threads": "none"}).__enter__()


def test_missing_java_or_maven_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_KAFKA", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="needs Java 17"):
        home()
    (tmp_path / "java").write_text("#!/bin/sh\n")
    (tmp_path / "java").chmod(0o755)
    assert os.access(tmp_path / "java", os.X_OK)
    with pytest.raises(UnavailableError, match="downloaded with Maven"):
        home()
