"""Temporary files: each process has one folder, whose name identifies the process.

The folder is in `HEADWATER_TMP` if set, otherwise in the state folder of the current project, otherwise in the system's
folder for temporary files. It is removed when the process ends. `reclaim` removes the folders of killed processes.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.processes import is_running, machine, started

VARIABLE = "HEADWATER_TMP"
_NAME = re.compile(r"run-(?P<machine>[0-9a-f]*)-(?P<pid>\d+)-(?P<started>\d*)")


@dataclass(frozen=True)
class Owner:
    """The process that owns a folder, identified by its id, its start time and the machine."""

    machine: str
    pid: int
    started: str

    @classmethod
    def of_process(cls, pid: int) -> Owner:
        """Return the owner for a process on this machine."""
        return cls(_digest(machine()), pid, started(pid))

    @classmethod
    def of_folder(cls, name: str) -> Owner | None:
        """Return the owner from the name of its folder, or `None` for any other folder."""
        match = _NAME.fullmatch(name)
        return None if match is None else cls(match["machine"], int(match["pid"]), match["started"])

    @property
    def folder(self) -> str:
        """The name of the owner's folder."""
        return f"run-{self.machine}-{self.pid}-{self.started}"

    @property
    def is_dead(self) -> bool:
        """Whether the process is known to have ended; `False` for processes on other machines."""
        if self.machine != _digest(machine()):
            return False
        return not is_running(self.pid) or (bool(self.started) and started(self.pid) != self.started)


@dataclass(frozen=True)
class _ScratchFolder:
    """The location of this process's temporary files, and the spill limit."""

    project: Path | None = None
    spill_bytes: int | None = None


_place = _ScratchFolder()
_made: set[tuple[int, Path]] = set()


def work_for(project: Path, spill_bytes: int | None = None) -> None:
    """Store the temporary files of this process in a project's folder from now on."""
    global _place  # noqa: PLW0603 - a process has a single folder for temporary files
    _place = _ScratchFolder(project, spill_bytes)


def base() -> Path:
    """Return the parent folder of the processes' folders."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).absolute()
    return _system() if _place.project is None else _place.project


def spill_bytes() -> int | None:
    """Return the configured spill limit of all engines together, or `None`."""
    return _place.spill_bytes


@contextmanager
def folder(prefix: str) -> Iterator[str]:
    """Create a temporary folder, and remove it at the end of the context."""
    with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=_own(), ignore_cleanup_errors=True) as path:
        yield path


def new_folder(prefix: str) -> Path:
    """Create a temporary folder, which is removed with the folder of this process unless the caller removes it before."""
    return Path(tempfile.mkdtemp(prefix=f"{prefix}-", dir=_own()))


def reclaim() -> dict[Path, int]:
    """Remove the folders of ended processes, and return them with their sizes in bytes."""
    removed = {}
    for path, owner in _folders():
        if owner.is_dead:
            removed[path] = _size(path)
            shutil.rmtree(path, ignore_errors=True)
    return removed


def in_use() -> int:
    """Return the size of the temporary files of all processes in bytes."""
    return sum(_size(path) for path, _ in _folders())


def _folders() -> Iterator[tuple[Path, Owner]]:
    with contextlib.suppress(OSError):
        for path in sorted(base().iterdir()):
            owner = Owner.of_folder(path.name)
            if owner is not None:
                yield path, owner


def _own() -> Path:
    """Return the folder of this process; it is created on first use."""
    for place in (base(), _system()):  # the project may be on a read-only disk
        path = place / Owner.of_process(os.getpid()).folder
        if (os.getpid(), path) in _made and path.is_dir():
            return path
        with contextlib.suppress(OSError):
            path.mkdir(parents=True, exist_ok=True)
            if (os.getpid(), path) not in _made:
                _made.add((os.getpid(), path))
                atexit.register(_remove, os.getpid(), path)
                reclaim()
            return path
    return Path(tempfile.gettempdir())


def _remove(pid: int, path: Path) -> None:
    if os.getpid() == pid:  # a forked child has its own folder
        shutil.rmtree(path, ignore_errors=True)


def _system() -> Path:
    return Path(tempfile.gettempdir()) / f"headwater-{getpass.getuser()}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8] if text else ""


def _size(path: Path) -> int:
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(parent) / name).lstat().st_size
    return total
