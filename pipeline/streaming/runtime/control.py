"""Status and control of the streams of a project, whichever process runs them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.epochs import Epoch
from pipeline.core.errors import ConflictError, ModelError, RequestError, StorageError, quantity
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
    """Why it cannot be planned: a table that it looks up, or the model of a stream that it reads, does not exist yet."""

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
        except (ModelError, StorageError) as error:
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
    ends, statuses = state in {DesiredState.DRAIN, DesiredState.STOP}, _STATUSES_OF.get(state, ())
    wait = _Wait(leases, leases.request(name, state), wait_s, clock, ends=ends)
    return wait.until(lambda lease: lease.facts.get("status") in statuses, f"the desired state {state}")


def rescale(
    workspace: Workspace, name: str, shards: int, *, wait_s: float = 60.0, clock: Callable[[], float] = time.time
) -> Lease:
    """Let a running stream continue with another number of shards, wait until it does, and return the lease.

    Raises `RequestError` if the stream is not running or has no state, and `ConflictError` if it does not have the
    shards in time. The request stays in effect until the stream is started again, also for one that scales itself.
    """
    workspace.stored(name)
    if Planner(workspace).plan(name).operator is None:
        raise RequestError(
            f"stream {name!r} has no state, so it has no shards",
            do="rescale a stream that groups, joins or deduplicates",
        )
    leases = Leases(workspace.catalog, clock=clock)
    wait = _Wait(leases, leases.request(name, shards=shards), wait_s, clock)
    return wait.until(lambda lease: lease.facts.get("shards") == shards, quantity(shards, "shard"))


@dataclass(frozen=True)
class _Wait:
    """Waits until the process that held the lease at a request has done what was requested."""

    leases: Leases
    asked: Lease
    wait_s: float
    clock: Callable[[], float]
    ends: bool = False
    """Whether the request is to end the stream."""

    def until(self, is_done: Callable[[Lease], bool], what: str) -> Lease:
        name, give_up = self.asked.name, time.monotonic() + self.wait_s
        while True:
            lease = self.leases.get(name)
            if lease is None or lease.holder != self.asked.holder or not lease.is_living(self.clock()):
                if self.ends and lease is not None:
                    return lease
                raise ConflictError(
                    f"stream {name!r} ended before it received the request", do="see `headwater streams`"
                )
            if is_done(lease):
                return lease
            if time.monotonic() > give_up:
                raise ConflictError(
                    f"stream {name!r} has not reached {what} yet",
                    got=f"status {lease.facts.get('status')} after {self.wait_s:g} s",
                    do="see `headwater streams`",
                )
            time.sleep(_POLL_EVERY_S)
