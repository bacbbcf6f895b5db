"""Temporary files: in one folder per process, removed when the process ends, or by a later process if it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core import scratch
from pipeline.core.scratch import Owner


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_folders_are_in_the_process_folder_and_removed_with_their_context(base):
    with scratch.folder("a") as first, scratch.folder("a") as other:
        assert first != other
        assert Path(first).parent == Path(other).parent == base / Owner.of_process(os.getpid()).folder
        (Path(first) / "file").write_text("x")
        assert scratch.in_use() == 1
    assert not Path(first).exists()


def test_files_of_a_killed_process_are_removed_by_another_process(base):
    code = "import os, signal\nfrom pipeline.core import scratch\nwith scratch.folder('spill') as f:\n    open(f + '/x', 'w').write('12345')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = base.iterdir()

    assert scratch.reclaim() == {left: 5}

    assert list(base.iterdir()) == []


def test_a_process_that_ends_leaves_nothing(base):
    code = "from pipeline.core import scratch\nscratch.folder('spill').__enter__()\n"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list(base.iterdir()) == []


def test_first_folder_of_a_process_removes_those_of_dead_processes(base):
    dead = base / Owner(Owner.of_process(os.getpid()).machine, 2**22 - 1, "1").folder
    dead.mkdir(parents=True)
    code = "from pipeline.core import scratch\nwith scratch.folder('a'):\n    pass\n"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not dead.exists()


def test_only_folders_of_the_dead_are_removed(base):
    me = Owner.of_process(os.getpid())
    kept = [me, Owner("0" * 8, 1, "1"), Owner(me.machine, os.getppid(), scratch.started(os.getppid()))]
    dead = [Owner(me.machine, me.pid, "1"), Owner(me.machine, 2**22 - 1, me.started)]  # its process id was reused
    for owner in (*kept, *dead):
        (base / owner.folder).mkdir(parents=True)
    (base / "notes").mkdir()

    scratch.reclaim()

    assert {path.name for path in base.iterdir()} == {"notes", *(owner.folder for owner in kept)}


def test_an_unusable_base_folder_is_ignored(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(scratch.VARIABLE, str(tmp_path / "file" / "tmp"))
    with scratch.folder("a") as path:
        assert Path(path).is_dir()
