"""What the summary of a run says: rows that were set aside, and how far a run came that did not end."""

from __future__ import annotations

import re
import signal
import subprocess
import sys

import pytest

from pipeline.project.project import load
from pipeline.project.workspace import Workspace
from tests.rigs.command import environment

SHOP = """\
import os, time
import pyarrow as pa
from pipeline import files, quarantine, source, sql, table
raw = source(files("data/*.csv"), schema={"id": "bigint"})
kept = sql("select id from raw", expect=[quarantine("small", "id < 3")])


@table()
def last(kept: pa.Table) -> pa.Table:
    if os.path.exists("end"):
        os.kill(os.getpid(), int(open("end").read()))
        time.sleep(1)
    return kept
"""


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(SHOP)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("id\n1\n2\n3\nx\n")
    return tmp_path


def shown(headwater_command, folder, *words):
    return headwater_command.run(*words, cwd=folder, env=environment(), timeout=60).stdout


def test_rows_that_were_set_aside_are_counted(shop, headwater_command):
    text = shown(headwater_command, shop, "run")

    assert re.search(r"^3 done, 0 up to date, 7 rows written, 2 quarantined, \d", text, re.MULTILINE)
    assert "quarantined rows of raw, kept: headwater quarantine ls" in text
    assert "quarantined" not in shown(headwater_command, shop, "run").partition("nothing new")[2]


@pytest.mark.share(1)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_did_not_end_is_not_shown_as_done(shop, headwater_command, sign):
    (shop / "end").write_text(str(int(sign)))
    headwater = [sys.executable, "-c", "from cluster.cli import main; main()", "run"]
    killed = subprocess.run(headwater, cwd=shop, env=environment(), capture_output=True, check=False, timeout=60)
    assert killed.returncode == (130 if sign == signal.SIGINT else -sign)

    text = shown(headwater_command, shop, "show")

    assert "of p (dev): stopped" in text
    assert re.search(r"^2 done, 0 up to date", text, re.MULTILINE)
    assert "this run was interrupted: its tables are committed; those that are not listed are computed by the" in text
    workspace = Workspace(load(shop))
    assert workspace.lake.killed() == {workspace.catalog.run().run_id}
    (shop / "end").unlink()
    assert "done" in shown(headwater_command, shop, "run")
    assert workspace.lake.killed() == frozenset()


def test_a_run_that_goes_on_is_shown_as_running(shop, headwater_command):
    workspace = Workspace(load(shop))
    shown(headwater_command, shop, "run", "--select", "raw")
    run = workspace.catalog.run()
    assert run is not None
    with workspace.catalog.transaction() as connection:
        connection.exec_driver_sql("update runs set status = 'running', ended_at = null")
    workspace.lake.begin_run(run.run_id)  # of this process, which lives

    text = shown(headwater_command, shop, "show")

    assert "of p (dev): running" in text
    assert "this run has not ended: tables that are not listed are still to come" in text
