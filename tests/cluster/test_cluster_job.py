"""`ray job submit --working-dir . -- headwater run` and `headwater submit run`, on a running cluster with its dashboard."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from tests.rigs.command import BIN

pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


@pytest.fixture
def cluster(tmp_path):
    """The address of the Jobs API of a separate one-node cluster on loopback, in its own process group."""
    ports = free_ports(3)
    environ = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    command = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={ports[0]}"]
    options = ["--dashboard-host=127.0.0.1", f"--dashboard-port={ports[1]}", "--num-cpus=2", "--disable-usage-stats"]
    options.append(f"--dashboard-agent-listen-port={ports[2]}")  # the default port may belong to another cluster
    log = (tmp_path / "ray.log").open("w")
    process = subprocess.Popen(
        [*command, *options, "--include-dashboard=true"], env=environ, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{ports[1]}"
    try:
        wait_for(f"{address}/api/version")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # on SIGTERM, it waits half a minute for internal actors of Ray
        process.wait()
        log.close()


def test_a_project_runs_as_a_job(headwater, teashop, cluster, tmp_path):
    lake, catalog = tmp_path / "lake", f"sqlite:///{tmp_path}/catalog.db"
    variables = {
        "HEADWATER_LAKE": str(lake),
        "HEADWATER_CATALOG": catalog,
        "HEADWATER_WAREHOUSE": str(tmp_path / "warehouse.duckdb"),
        "HEADWATER_EXECUTION": "ray",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    environment = json.dumps({"env_vars": variables})
    process = submit(teashop, "--address", cluster, "--runtime-env-json", environment, "--", "headwater", "run")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "3 done, 0 up to date" in process.stdout
    run = json.loads(headwater("show", "--json", cwd=teashop, env=variables, check=0).stdout)
    assert {step["name"]: step["executor"] for step in run["steps"]} == dict.fromkeys(
        ("raw_orders", "orders", "sales_by_day"), "ray"
    )
    rows = json.loads(headwater("query", "from sales_by_day order by day", "--json", cwd=teashop, env=variables).stdout)
    assert [row["orders"] for row in rows] == [2, 2, 1]

    words = [word for name, value in variables.items() for word in ("--var", f"{name}={value}")]
    token = {"RAY_AUTH_MODE": "disabled"}
    again = headwater("submit", "--wait", "--address", cluster, *words, "run", cwd=teashop, env=token, check=0)
    assert "nothing new: all 3 are up to date" in again.stdout
    assert "job teashop-run-" in again.stderr
    failed = headwater(
        "submit", "--wait", "--address", cluster, *words, "query", "from nothing", cwd=teashop, env=token
    )
    assert failed.returncode == 1
    assert "there is no table 'nothing'" in failed.stdout
    assert "failed" in failed.stderr


def test_usage_errors_of_submit_are_a_single_message(headwater, teashop):
    for words, message in (
        (("submit", "rum"), "there is no command 'rum'; did you mean 'run'?"),
        (("submit", "run"), "the address of the cluster is not known; pass --address http://HOST:8265, or set"),
        (("submit", "--address", "127.0.0.1:8265", "run"), "not an address of the Jobs API: got 127.0.0.1:8265"),
        (("submit", "--address", "http://127.0.0.1:1", "run"), "the cluster http://127.0.0.1:1 cannot be reached"),
        (("submit", "--address", "http://127.0.0.1:1", "--var", "x", "run"), "--var needs NAME=VALUE: got 'x'"),
        (("submit", "--address", "http://10.0.0.1:8265", "run"), "cannot be used by a cluster on other machines"),
    ):
        process = headwater(*words, cwd=teashop, env={"RAY_API_SERVER_ADDRESS": ""})
        assert process.returncode == 1, words
        assert message in " ".join(process.stderr.split()), process.stderr


def submit(folder, *words):
    """Submit a job; retry while the cluster, which has just started, has no agent yet."""
    deadline = time.monotonic() + 90
    while True:
        process = subprocess.run(
            [str(BIN / "ray"), "job", "submit", "--working-dir", ".", *words],
            cwd=folder,
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if "No available agent" not in process.stderr or time.monotonic() > deadline:
            return process
        time.sleep(1)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def wait_for(url, seconds=90):
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - a loopback address
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
