"""What the head and the other nodes of a local cluster have in common."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
HEAD, WORKER = "head", "worker"
"""The node types. The id of the head node is also `head`."""
AUTOSCALER = "autoscaler.started"
"""The file in the cluster's folder that exists once the autoscaler runs."""
OPTIONS = (
    "--block",
    "--disable-usage-stats",
    f"--node-ip-address={LOOPBACK}",
    "--min-worker-port=0",
    "--max-worker-port=0",
    f"--object-store-memory={128 << 20}",
)
"""The options of `ray start` for every node. The object store is small because tasks return only metadata."""


def temporary(name: str) -> Path:
    """Return a node's folder for sockets and logs, with a short path, because that of a socket is limited.

    Nodes of one machine must not share it: a node that stops removes the files of jobs.
    """
    return Path(tempfile.gettempdir()) / f"ray-{name}"


def spawned(command: Sequence[str], environ: Mapping[str, str], log: Path) -> int:
    """Start a command in the background, in its own process group, with a log file; return its process id."""
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    files = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), write, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], list(command), environ, file_actions=files, setsid=True)


def has_ended(pid: int) -> bool:
    """Return whether a child process has ended; `False` for a process of another parent."""
    try:
        return os.waitpid(pid, os.WNOHANG) != (0, 0)
    except ChildProcessError:
        return False


def ended(group: int, signal_number: int) -> None:
    """Send a signal to a process group, which may have ended."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal_number)
