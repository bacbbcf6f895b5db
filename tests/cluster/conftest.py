"""The `headwater` command, as a user's shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


@pytest.fixture
def headwater(tmp_path):
    """Run the command in a folder and return what it printed and how it ended."""

    def run(*words, cwd=tmp_path, env=None, check=None, timeout=240):
        environ = {**os.environ, "COLUMNS": "160", "PATH": f"{BIN}:{os.environ['PATH']}", **(env or {})}
        done = subprocess.run(
            [str(BIN / "headwater"), *words],
            cwd=cwd,
            env=environ,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check is not None:
            assert done.returncode == check, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def teashop(headwater, tmp_path):
    """A new project's folder."""
    headwater("init", "teashop", check=0)
    return tmp_path / "teashop"
