"""Identification of processes on this machine, to distinguish files of ended processes from files in use."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Return an identifier of the namespace of process ids: it differs per machine, boot and container.

    Empty if it cannot be determined.
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
    """Return the start time of a process in kernel ticks, which distinguishes it from a later process with the same id.

    Empty if the process does not exist or has ended, or if the start time is unknown.
    """
    fields = _stat(pid)
    return fields[19] if fields and fields[0] not in {"Z", "X"} else ""


def is_running(pid: int) -> bool:
    """Return whether a process is running on this machine; `True` if this is unknown."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    fields = _stat(pid)
    return not fields or fields[0] not in {"Z", "X"}  # X: dead, Z: ended but not yet reaped by its parent


def _stat(pid: int) -> list[str]:
    """Return the fields of `/proc/<pid>/stat`, starting with the state."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def cores() -> int:
    """Return the number of cores available to this process."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = read_text("/sys/fs/cgroup/cpu.max").partition(" ")
    return max(1, min(allowed, int(quota) // int(period))) if quota.isdigit() and period.strip() else allowed


def read_text(path: str) -> str:
    """Return the text of a system file; empty if it does not exist."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
