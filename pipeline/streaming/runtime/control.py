"""Status and control of the streams of a project, whichever process runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.epochs import Epoch
from pipeline.core.errors import ConflictError, StorageError
from pipeline.governance import DesiredState, Lease, Leases
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.metrics import RunStatus

_POLL_EVERY_S = 0.1
_STATUSES_OF: dict[DesiredState, tuple[RunStatus, ...]] = {
    DesiredState.RUN: (RunStatus.RUNNING, RunStatus.DRAINING),
    DesiredState.PAUSE: (RunStatus.PAUSED,),
}


@dataclass(frozen=True)
class StreamSummary:
    """The status of a stream, as any process can see it."""

    name: str
    epoch: Epoch | None
    """The epoch of its last commit."""
    lease: Lease | None
    is_running: bool
    obstacle: str = ""
    """Why it cannot be planned: a table that it looks up does not exist yet."""

    @property
    def status(self) -> str:
        """The current or last status; `lost` if its process ended without reporting one."""
        if self.obstacle:
            return "not ready"
        if self.lease is None:
            return "never run" if self.epoch is None else "stopped"
        reported = str(self.lease.facts.get("status", "starting"))
        return reported if self.is_running or reported in {"ended", "stopped", "failed"} else "lost"


def stream_summaries(workspace: Workspace) -> tuple[StreamSummary, ...]:
    """Return the streams of a project in topological order."""
    leases = {lease.name: lease for lease in Leases(workspace.catalog).all()}
    planner, summaries = Planner(workspace), []
    for name in workspace.table_names:
        try:
            if not planner.is_streamed(name):
                continue
        except StorageError as error:
            summaries.append(StreamSummary(name, None, leases.get(name), is_running=False, obstacle=str(error)))
            continue
        version, lease = workspace.version(name), leases.get(name)
        manifest = None if version is None else version.manifest
        is_running = lease is not None and lease.is_living(time.time())
        summaries.append(StreamSummary(name, None if manifest is None else manifest.epoch, lease, is_running))
    return tuple(summaries)


def request(
    workspace: Workspace,
    name: str,
    state: DesiredState,
    *,
    wait_s: float = 30.0,
    clock: Callable[[], float] = time.time,
) -> Lease:
    """Set the desired state of a running stream, wait until it is reached, and return the lease.

    Raises `RequestError` if the stream is not running, and `ConflictError` if the state is not reached in time. The
    request stays in effect.
    """
    workspace.stored(name)
    leases = Leases(workspace.catalog, clock=clock)
    holder = leases.request(name, state).holder
    give_up = time.monotonic() + wait_s
    while True:
        lease = leases.get(name)
        if lease is None or lease.holder != holder or not lease.is_living(clock()):
            if state in {DesiredState.DRAIN, DesiredState.STOP} and lease is not None:
                return lease
            raise ConflictError(f"stream {name!r} ended before it received the request", do="see `headwater streams`")
        if state in _STATUSES_OF and lease.facts.get("status") in _STATUSES_OF[state]:
            return lease
        if time.monotonic() > give_up:
            raise ConflictError(
                f"stream {name!r} has not reached the desired state {state} yet",
                got=f"status {lease.facts.get('status')} after {wait_s:g} s",
                do="see `headwater streams`",
            )
        time.sleep(_POLL_EVERY_S)
