"""Control groups of Linux that limit how many cores processes get, so that several nodes can share a machine."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.interleaved_runs import UnableError

PERIOD_US = 100_000
END_S = 30
_V1 = Path("/sys/fs/cgroup/cpu")
_V2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class CpuShare:
    """A control group; processes that it contains, and their children, together get at most its number of cores."""

    folder: Path

    def starting(self, command: list[str]) -> list[str]:
        """Return a command line that joins the group and then becomes the given command."""
        return ["sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh", *command]

    def processes(self) -> list[int]:
        """Return the processes in the group."""
        return [int(line) for line in (self.folder / "cgroup.procs").read_text(encoding="ascii").split()]


@contextmanager
def limited(cores: float) -> Iterator[CpuShare]:
    """Create a control group with this many cores; at the end, kill its processes and remove it.

    Raises `UnableError` if this user is not permitted to create one.
    """
    quota, name = round(cores * PERIOD_US), f"headwater-{secrets.token_hex(4)}"
    is_v1 = _V1.is_dir()
    share = CpuShare((_V1 if is_v1 else _V2) / name)
    try:
        share.folder.mkdir()
        limit, value = ("cpu.cfs_quota_us", f"{quota}") if is_v1 else ("cpu.max", f"{quota} {PERIOD_US}")
        (share.folder / limit).write_text(value, encoding="ascii")
    except OSError as error:
        raise UnableError(f"not available: no control group for shares of the CPU: {error}") from error
    try:
        yield share
    finally:
        _remove(share)


def _remove(share: CpuShare) -> None:
    """Kill what runs in a group and remove it; the kernel keeps a group for a moment after its last process has ended."""
    deadline = time.monotonic() + END_S
    while True:
        for pid in share.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            share.folder.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
