"""Nodes of the scale benchmark get their share of the CPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.cpu_share import limited
from benchmarks.interleaved_runs import UnableError

BUSY = """
import time
until = time.monotonic() + 2
while time.monotonic() < until:
    pass
print(time.process_time())
"""


def test_processes_get_at_most_their_share_and_end_with_it():
    try:
        with limited(0.25) as share:
            command = share.starting([sys.executable, "-c", BUSY])
            used = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            left = subprocess.Popen(share.starting(["sleep", "600"]))
    except UnableError as error:
        pytest.skip(str(error))
    assert 0.2 < used < 1.0
    assert left.wait(10) != 0
    assert not share.folder.exists()
