"""The temporary data of a killed run in the lake's storage is removed by the next run; that of a running one is kept."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pipeline.core.scratch import Owner
from pipeline.project import load
from pipeline.runner import Runner

STEP = """\
import os, signal, sys
from pathlib import Path
from pipeline.project import Workspace, load

place = Workspace(load(sys.argv[1])).lake.scratch("run1", "orders")
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
    owner = file.parents[3]
    elsewhere = owner.with_name(Owner("ffffffff", own.pid, own.started).folder)
    earlier_format = owner.with_name("20260101T000000-abcdef")
    for folder in (elsewhere, earlier_format):
        (folder / "run1").mkdir(parents=True)

    Runner(load(shop)).run()
    assert file.read_bytes() == b"rows"

    step.communicate("\n")
    Runner(load(shop)).run()
    assert owner.name == own.folder
    assert not owner.exists()
    assert elsewhere.is_dir()
    assert earlier_format.is_dir()
