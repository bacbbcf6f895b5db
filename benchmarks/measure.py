"""Measures wall time and memory of a command and all its child processes, on Linux."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

EVERY_S = 0.2
MOST_SHARE = 0.02
"""The maximum share of a core that the measurement of memory takes; with many processes it is measured less often."""


@dataclass(frozen=True)
class Measured:
    """A finished command: seconds, the maximum of its processes' summed memory (PSS), exit code and output."""

    seconds: float
    peak_bytes: int
    code: int
    output: str
    errors: str


def measure(
    command: Sequence[str], folder: Path, *, environ: Mapping[str, str] | None = None, beside: Sequence[int] = ()
) -> Measured:
    """Run a command to its end and measure it; memory shared between processes is counted once.

    `beside` are processes that work for the command without being its children, such as a Ray cluster; they and their
    children are included. `environ` is added to this process's environment.
    """
    begun = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **(environ or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ended, peak = threading.Event(), [0]

    def watch() -> None:
        while True:
            before = time.thread_time()
            peak[0] = max(peak[0], sum(_pss(pid) for pid in _tree((process.pid, *beside))))
            if ended.wait(max(EVERY_S, (time.thread_time() - before) / MOST_SHARE)):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, errors = process.communicate()
    seconds = time.perf_counter() - begun
    ended.set()
    watcher.join()
    return Measured(seconds, peak[0], process.returncode, output, errors)


def machine() -> dict[str, object]:
    """Return a description of this machine."""
    with Path("/proc/meminfo").open(encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) * 1024
    return {"cores": os.cpu_count(), "memory_bytes": memory, "python": platform.python_version()}


def versions() -> dict[str, str]:
    """Return the versions of Headwater and its main dependencies."""
    return {name: version(name) for name in ("headwater", "ray", "duckdb", "deltalake", "pyarrow")}


def _tree(roots: Sequence[int]) -> list[int]:
    """Return processes and their descendants, each once."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # the process has just ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    pids: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in pids:
            pids.add(pid)
            waiting.extend(parents.get(pid, ()))
    return sorted(pids)


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:  # the process has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
