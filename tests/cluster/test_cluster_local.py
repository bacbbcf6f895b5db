"""A local cluster stops its own processes, and no others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.local.head import LocalCluster, stop
from cluster.local.nodes import record, temporary
from pipeline.core.processes import is_running


@pytest.fixture
def process():
    """A process that leads a process group, as that of a node does."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as started:
        yield started
        started.kill()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a cluster whose head has the id of a process, here that of another one, which must not be stopped."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    head = LocalCluster("head-test", "127.0.0.1:1", "http://127.0.0.1:1", f"{tmp_path}/token", 1, "before")
    (tmp_path / "cluster.json").write_text(json.dumps(asdict(head)))
    return tmp_path


def test_nodes_are_stopped_although_the_head_was_killed(folder, process):
    record(folder / "local-test.pid", process.pid)
    left = [temporary("head-test"), temporary("local-test")]
    for each in left:
        each.mkdir()

    assert stop(folder)

    assert process.wait(10) == -9
    assert not any(each.exists() for each in left)
    assert not stop(folder)


def test_a_process_that_got_the_id_of_a_node_is_not_stopped(folder, process):
    (folder / "local-test.pid").write_text(f"{process.pid} 1")

    assert not stop(folder)

    assert is_running(process.pid)
    assert not (folder / "local-test.pid").exists()


@pytest.mark.parametrize(("name", "is_stopped"), [("ray::DashboardAgent", True), ("another", False)])
def test_agents_of_a_killed_node_are_stopped(folder, name, is_stopped):
    command = ["bash", "-c", f"exec -a {name} sleep 60 & echo $!"]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, text=True) as node:
        agent = int(node.stdout.readline())
        node.wait(10)
        until = time.monotonic() + 10
        while not Path(f"/proc/{agent}/cmdline").read_text().startswith(name) and time.monotonic() < until:
            time.sleep(0.01)  # until then, it is a shell
        (folder / "local-test.pid").write_text(f"{node.pid} 1")
        try:
            assert stop(folder) == is_stopped
            assert has_exited(agent) == is_stopped
        finally:
            if not is_stopped:
                os.kill(agent, signal.SIGKILL)


def has_exited(pid):
    until = time.monotonic() + 1
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not is_running(pid)
