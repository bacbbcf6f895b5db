"""What a killed run has left in the lake is removed by the next run on the machine; what a running one has is kept."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from pipeline.commit.moments import Moment
from pipeline.core.errors import RequestError
from pipeline.core.scratch import Owner
from pipeline.governance import RunRecord
from pipeline.project import Workspace, load
from pipeline.runner import Runner
from pipeline.runner.dry_run import RunOptions

STEP = """\
import os, signal, sys
from pathlib import Path
from pipeline.project import Workspace, load

place = Workspace(load(sys.argv[1])).lake.scratch("run1", "staging")
place.write_bytes("input-0/cut-00000-0.parquet", b"rows")
print(place.uri, flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_run_removes_what_a_killed_run_left(shop):
    step = subprocess.Popen(
        [sys.executable, "-c", STEP, str(shop)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert step.stdin
    assert step.stdout
    file = Path(step.stdout.readline().strip(), "input-0", "cut-00000-0.parquet")
    own = Owner.of_process(step.pid)
    owner = file.parents[4]
    elsewhere = owner.with_name(Owner("ffffffff", own.pid, own.started).folder)
    earlier_format = owner.with_name("20260101T000000-abcdef")
    for folder in (elsewhere, earlier_format):
        (folder / "run1").mkdir(parents=True)
    catalog = Workspace(load(shop)).catalog
    catalog.begin(RunRecord("run1", "shop", "dev", "2026-01-01", None, "running", None))

    Runner(load(shop)).run()
    assert file.read_bytes() == b"rows"
    assert catalog.run("run1").status == "running"

    step.communicate("\n")
    Runner(load(shop)).run()
    assert owner.name == own.folder
    assert not owner.exists()
    assert (catalog.run("run1").status, catalog.run("run1").error) == ("stopped", "its process was killed")
    assert elsewhere.is_dir()
    assert earlier_format.is_dir()


BEGIN = """\
import os, signal, sys
from pipeline.project import load
from pipeline.runner import Runner

Runner(load(sys.argv[1]), observer=lambda event: os.kill(os.getpid(), signal.SIGKILL)).run()
"""


def test_a_run_that_was_killed_before_its_first_step_is_recorded_by_the_next(shop):
    killed = subprocess.run([sys.executable, "-c", BEGIN, str(shop)], check=False)
    assert killed.returncode == -signal.SIGKILL
    catalog = Workspace(load(shop)).catalog
    [run] = catalog.runs()
    assert run.status == "running"
    Runner(load(shop)).run()
    assert catalog.run(run.run_id).status == "stopped"


def staged(folder, layer):
    """Return the names of the Parquet files of a layer, and of the temporary data of runs."""
    lake = Path(Workspace(load(folder)).lake.storage.uri)
    return [file.name for file in (*lake.glob(f"{layer}/*/**/part-*.parquet"), *lake.glob("_headwater/*"))]


def test_a_failed_step_leaves_no_files(shop):
    found = []

    def fail(event):
        if event.moment is Moment.STAGED and event.name == "raw_orders":
            found.extend(staged(shop, "bronze"))
            raise RequestError("no")

    run = Runner(load(shop), RunOptions(select=("raw_orders",)), observer=fail)

    assert run.attempt().status == "failed"
    assert len(found) > 1
    assert staged(shop, "*") == []


def test_files_of_a_committed_step_are_kept_whatever_follows(shop):
    notes = []

    def note_again(event):
        if event.moment is Moment.COMMITTED:
            workspace = Workspace(load(shop))
            table = workspace.table(event.name)
            workspace.lake.staging(table, table.version().manifest.run_id, None).__enter__()
            notes.append(event.name)

    before = Runner(load(shop), observer=note_again).run()

    assert len(notes) == len(before.steps)
    assert [step.decision for step in Runner(load(shop)).run().steps] == ["skip"] * len(before.steps)
    for name in notes:
        lake = Workspace(load(shop)).lake
        assert lake.rows(Workspace(load(shop)).table(name)).num_rows >= 0
        if lake.quarantine(name).version() is not None:
            assert lake.rows(lake.quarantine(name)).num_rows > 0
    assert not list(Path(Workspace(load(shop)).lake.storage.uri).glob("_headwater/*"))
