"""Delivers streamed tables to sinks, with one thread per sink.

A sink failure affects neither the table nor the stream. The delivery restarts like a stream; when it gives up, the job
raises its error at the end. Outstanding versions are delivered by the next process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.commit.sink_delivery import SinkSender
from pipeline.core.errors import DefinitionError, HeadwaterError, RequestError, SchemaError
from pipeline.core.logs import logger
from pipeline.core.sinks import Sink
from pipeline.project.workspace import Workspace
from pipeline.streaming.runtime.restart_policy import RestartPolicy

log = logger(__name__)
_POLL_EVERY_S = 0.25
"""How often the table is polled for versions that another process committed."""
_PERMANENT = (DefinitionError, RequestError, SchemaError)


class DeliveryStatus(StrEnum):
    """The status of the delivery to a sink."""

    STARTING = "starting"
    FOLLOWING = "following"
    RESTARTING = "restarting"
    ENDED = "ended"
    FAILED = "failed"


@dataclass
class SinkStatus:
    """The status and metrics of the delivery to a sink. Only its thread writes them."""

    name: str
    table: str
    status: DeliveryStatus = DeliveryStatus.STARTING
    version: int | None = None
    behind: int = 0
    """The number of versions of the table that are not delivered yet."""
    rows: int = 0
    """Rows delivered by this process."""
    restarts: int = 0
    error: str = ""


class SinkWorker:
    """Delivers the commits of a stream to one sink."""

    def __init__(
        self,
        workspace: Workspace,
        sink: Sink,
        require: Callable[[], None],
        on_restart: Callable[[str, str], None],
        restart_policy: RestartPolicy,
    ) -> None:
        """Create the worker. `require` raises if the stream's lease is lost; `on_restart` is called at restarts."""
        self.status = SinkStatus(sink.name, sink.table)
        self.error: Exception | None = None
        self._workspace = workspace
        self._sink = sink
        self._require = require
        self._on_restart = on_restart
        self._restart_policy = restart_policy
        self._restarts: list[float] = []
        self._woken = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"headwater-{sink.name}")

    def start(self) -> None:
        """Start to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Signal that the table has a new version."""
        self._woken.set()

    def end(self) -> None:
        """Deliver the committed versions and end. If not all of them were delivered, `error` is set."""
        self._ending.set()
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                self._follow()
            except Exception as error:  # noqa: BLE001 - raised by `StreamJob.run`, in its thread
                if not self._wait_for_restart(error):
                    self.error = error
                    self.status.status, self.status.error = DeliveryStatus.FAILED, str(error)
                    return
            else:
                self.status.status = DeliveryStatus.ENDED
                return

    def _follow(self) -> None:
        sender = SinkSender(self._workspace, self._sink)
        try:
            while True:
                is_last = self._ending.is_set()
                self._woken.clear()
                self._require()
                self._send(sender)
                if is_last:
                    return
                self._woken.wait(_POLL_EVERY_S)
        finally:
            sender.close()

    def _send(self, sender: SinkSender) -> None:
        status = self.status
        status.behind = sender.behind()
        sent = sender.send() if status.behind or status.status != DeliveryStatus.FOLLOWING else None
        if sent is not None:
            status.rows += sent.rows
        reached = sender.reached()
        status.version = None if reached is None else reached.version
        status.behind, status.status, status.error = sender.behind(), DeliveryStatus.FOLLOWING, ""

    def _wait_for_restart(self, error: Exception) -> bool:
        """Wait until the delivery may restart; return false if the error ends it."""
        if self._ending.is_set() or isinstance(error, _PERMANENT) or not isinstance(error, HeadwaterError):
            return False
        try:
            self._require()
        except HeadwaterError:
            return False
        wait_s = self._restart_policy.wait_s(self._restarts, time.monotonic(), error)
        if wait_s is None:
            return False
        self._restarts.append(time.monotonic())
        self.status.status, self.status.error = DeliveryStatus.RESTARTING, str(error)
        self.status.restarts += 1
        log.info("sink restarts", sink=self._sink.name, wait_s=wait_s, error=str(error))
        self._on_restart(self._sink.name, f"{error}; retries in {wait_s:g} s")
        self._ending.wait(wait_s)
        return True


def sinks_of(workspace: Workspace, tables: Sequence[str]) -> tuple[Sink, ...]:
    """Return the sinks of some tables."""
    return tuple(sink for sink in workspace.project.graph.all_of(Sink) if sink.table in tables)
