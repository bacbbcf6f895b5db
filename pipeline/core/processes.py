"""Processes of this machine, so that what one of them left behind can be told from what one still uses."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Return what changes where a process number means another process: with the machine, its start, or the container.

    Empty where nothing is known of the processes.
    """
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            file = Path(path)
            parts.append(str(file.readlink()) if file.is_symlink() else file.read_text(encoding="ascii").strip())
        except OSError:
            return ""
    return "/".join(parts)


def started(pid: int) -> str:
    """Return when a process started, in the kernel's ticks: a number that is used again starts later.

    Empty for a process that is not there or has ended, and where that is not known.
    """
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in {"Z", "X"} else ""


def is_running(pid: int) -> bool:
    """Return whether there is a process of a number on this machine, which counts as there where that is not known."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    fields = _stat(pid)
    return not fields or fields[0] not in {"Z", "X"}  # ended, and nobody has looked after it yet


def _stat(pid: int) -> list[str]:
    """Return what the kernel tells of a process, from its state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def cores() -> int:
    """Return how many cores this process may use."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_text("/sys/fs/cgroup/cpu.max").partition(" ")
    return max(1, min(allowed, int(quota) // int(period))) if quota.isdigit() and period.strip() else allowed


def read_text(path: str) -> str:
    """Return the text of a file of the system; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
