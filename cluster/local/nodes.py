"""What the head and the other nodes of a local cluster have in common."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.core.processes import is_running, started

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


def is_same(pid: int, started_at: str) -> bool:
    """Return whether the process with this id and start time is running: the system gives ids of ended processes to others."""
    return is_running(pid) and started(pid) == started_at


def record(file: Path, pid: int) -> None:
    """Write the id and the start time of a node's process to a file."""
    file.write_text(f"{pid} {started(pid)}", encoding="ascii")


def end_recorded(file: Path) -> bool:
    """Kill the processes of a node whose process is in a file, and remove the files of the node.

    Return whether any was running.
    """
    pid, _, started_at = file.read_text(encoding="ascii").partition(" ")
    were_running = pid.isdigit() and end_group(int(pid), started_at)
    file.unlink()
    shutil.rmtree(temporary(file.stem), ignore_errors=True)
    return were_running


def end_group(leader: int, started_at: str) -> bool:
    """Kill the processes of a node: the leader of its process group, and the others; return whether any was running.

    If the leader was killed, Ray's agents stay. A group whose leader is another process now is not that of the node.
    """
    if is_same(leader, started_at):
        ended(leader, signal.SIGKILL)
        return True
    left = [] if started(leader) else _of_ray(leader)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(left)


def _of_ray(group: int) -> list[int]:
    """Return the processes of Ray in a process group; none where there is no `/proc`."""
    pids = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[2] == str(group) and b"ray" in (folder / "cmdline").read_bytes():
                pids.append(int(folder.name))
    return pids


def ended(group: int, signal_number: int) -> None:
    """Send a signal to a process group, which may have ended."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal_number)
