"""A run killed with SIGKILL between any two steps, and repeated, equals a run that was never killed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal

import pytest

from pipeline.commit.moments import Moment
from pipeline.project.project import load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs.proofs import some
from tests.rigs.uncommitted import uncommitted
from tests.runner.conftest import MORE, rows_of
from tests.runner.conftest import shop as shop  # noqa: PLC0414 - the fixture
from tests.runner.test_runner_merge import CRM, SECOND, THIRD, add
from tests.runner.test_runner_merge import crm as crm  # noqa: PLC0414 - the fixture

PROCESSES = multiprocessing.get_context("forkserver")  # children fork before DuckDB has started threads
PROCESSES.set_forkserver_preload(["pipeline.runner.runner", "pipeline", "deltalake", "sqlalchemy.dialects.sqlite"])


def run_in_child(folder, kill_at=None):
    """Run the project in a child process; kill it at its n-th event, or return the number of events."""
    parent, child = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_child, args=(str(folder), child, kill_at))
    process.start()
    child.close()
    process.join(60)
    assert process.exitcode is not None, "the run did not end"
    if kill_at is None:
        assert process.exitcode == 0
        return parent.recv()
    assert process.exitcode == -signal.SIGKILL
    return None


def _child(folder, pipe, kill_at):
    moments = []

    def observe(event):
        if event.moment is Moment.WORKING:  # as many as time allows
            return
        moments.append((event.moment, event.name))
        if kill_at is not None and len(moments) > kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    Runner(load(folder), RunOptions(), observer=observe).run()
    pipe.send(moments)


class Folder:
    """The project's folder, restored to a saved state before each run, because sources are identified by path."""

    def __init__(self, path, backup):
        self.path, self.backup = path, backup
        self.save()

    def save(self):
        shutil.rmtree(self.backup, ignore_errors=True)
        shutil.copytree(self.path, self.backup)

    def restore(self):
        shutil.rmtree(self.path)
        shutil.copytree(self.backup, self.path)


def kill_and_repeat(folder):
    """Kill a run after each step, or after some steps, and repeat it; return the steps that it reached."""
    folder.restore()
    moments = run_in_child(folder.path)
    undisturbed = rows_of(folder.path)
    for number, moment in some(enumerate(moments), 2):
        folder.restore()
        run_in_child(folder.path, kill_at=number)
        run_in_child(folder.path)
        assert rows_of(folder.path) == undisturbed, f"killed after {moment}"
        assert uncommitted(folder.path) == [], f"killed after {moment}"
    return {moment for moment, _ in moments}


@pytest.mark.proof
def test_first_run_killed_anywhere(shop, tmp_path):
    assert kill_and_repeat(Folder(shop, tmp_path / "backup")) == set(Moment) - {Moment.WORKING, Moment.MAINTAINED}


def test_incremental_run_killed_anywhere(shop, tmp_path):
    run_in_child(shop)
    (shop / "data" / "orders2.csv").write_text(MORE)
    assert kill_and_repeat(Folder(shop, tmp_path / "backup")) == set(Moment) - {Moment.WORKING, Moment.MAINTAINED}


@pytest.mark.proof
def test_merge_killed_anywhere(crm, tmp_path):
    (crm / "crm.py").write_text(CRM[: CRM.index("@table")])  # the source and one merged table
    run_in_child(crm)
    add(crm, 2, SECOND)
    run_in_child(crm)
    add(crm, 3, THIRD)
    assert kill_and_repeat(Folder(crm, tmp_path / "backup")) >= {Moment.STAGED, Moment.COMMITTED}


@pytest.mark.proof
def test_repeated_kills_still_reach_the_end(shop, tmp_path):
    """The run is killed one step later each time and never restored; it still completes."""
    folder = Folder(shop, tmp_path / "backup")
    run_in_child(shop)
    undisturbed = rows_of(shop)
    folder.restore()
    for kill_at in some(range(1, 12), 4):
        run_in_child(shop, kill_at=kill_at)
    run_in_child(shop)
    assert rows_of(shop) == undisturbed
    assert uncommitted(shop) == []
