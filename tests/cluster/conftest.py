"""The `headwater` command, as a user's shell runs it."""

from __future__ import annotations

import pytest

from tests.rigs.command import environment


@pytest.fixture
def headwater(headwater_command, tmp_path):
    """Run the command in a folder; return its output and exit code."""

    def run(*words, cwd=tmp_path, env=None, check=None, timeout=240):
        process = headwater_command.run(*words, cwd=cwd, env=environment(env), timeout=timeout)
        if check is not None:
            assert process.returncode == check, process.stdout + process.stderr
        return process

    return run


@pytest.fixture
def teashop(headwater, tmp_path):
    """A new project's folder."""
    headwater("init", "teashop", check=0)
    return tmp_path / "teashop"
