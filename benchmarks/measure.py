"""Wall time and memory of a command and of every process it starts, on Linux."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

EVERY_S = 0.2


@dataclass(frozen=True)
class Measured:
    """A finished command: seconds, the greatest sum of its processes' memory (PSS), and how it ended."""

    seconds: float
    peak_bytes: int
    code: int
    output: str


def measure(command: Sequence[str], folder: Path) -> Measured:
    """Run a command to its end and measure it; memory that processes share is counted once."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    ended, peak = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(EVERY_S):
            peak[0] = max(peak[0], sum(_pss(pid) for pid in _tree(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - begun
    ended.set()
    watcher.join()
    return Measured(seconds, peak[0], process.returncode, output)


def machine() -> dict[str, object]:
    """Return what the figures were measured on."""
    with Path("/proc/meminfo").open(encoding="utf-8") as file:
        memory = int(file.readline().split()[1]) * 1024
    packages = {name: version(name) for name in ("ray", "duckdb", "deltalake", "pyarrow", "mlflow")}
    return {"cores": os.cpu_count(), "memory_bytes": memory, "python": platform.python_version(), "versions": packages}


def _tree(root: int) -> list[int]:
    """Return a process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):  # it has just ended
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(parents.get(pid, ()))
    return found


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
