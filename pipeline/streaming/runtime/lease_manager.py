"""The leases of the streams of this process, renewed by a separate thread however long a micro-batch takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.core.errors import ConflictError, StorageError
from pipeline.core.logs import logger
from pipeline.governance.leases import EVERY_S, LASTS_S, DesiredState, Leases, StreamRequest, this_process

log = logger(__name__)


class LeaseManager:
    """The leases that this process holds, what is requested of their streams, and which of them are lost.

    Streams survive catalog outages, because commits do not depend on leases. Their status is sent again afterwards.
    """

    def __init__(
        self, leases: Leases, facts_of: Callable[[str], Mapping[str, Any]], *, every_s: float = EVERY_S
    ) -> None:
        """Start to renew leases. `facts_of` returns the status that a lease records for a stream."""
        self._leases = leases
        self._facts_of = facts_of
        self._every_s = every_s
        self._me = this_process()
        self._requests: dict[str, StreamRequest | None] = {}
        self._lock = threading.Lock()
        self._tried = time.monotonic()
        self._end = threading.Event()
        self.trouble = ""
        """The error of the last request to the catalog, if it failed."""
        self._thread = threading.Thread(target=self._renew_on, name="headwater-leases", daemon=True)
        self._thread.start()

    def take(self, name: str, *, take_over: bool = False) -> None:
        """Acquire the lease of a stream; raise `ConflictError` if another live process holds it."""
        self._leases.acquire(name, self._me, take_over=take_over)
        with self._lock:
            self._requests[name] = StreamRequest()

    def desired_state(self, name: str) -> DesiredState:
        """Return the desired state of a stream."""
        return (self._requests.get(name) or StreamRequest()).state

    def desired_shards(self, name: str) -> int | None:
        """Return the requested number of shards of a stream; `None` if none was requested."""
        return (self._requests.get(name) or StreamRequest()).shards

    def require(self, name: str) -> None:
        """Raise `ConflictError` if a lease is lost. A process that was suspended renews it first."""
        if time.monotonic() - self._tried > LASTS_S:
            self._renew()
        if name in self._requests and self._requests[name] is None:
            raise ConflictError(
                f"stream {name!r} was taken over by another process",
                do="this process has stopped the stream; the other one reads its uncommitted rows again",
            )

    def holds(self, name: str) -> bool:
        """Renew the leases, and return whether that of a stream is still held; false if the catalog does not answer."""
        self._renew()
        return not self.trouble and self._requests.get(name) is not None

    def release(self, name: str) -> None:
        """Release a lease, with the final status of its stream."""
        with self._lock:
            held = self._requests.pop(name, None)
        if held is not None:
            try:
                self._leases.release(name, self._me, self._facts_of(name))
            except StorageError as error:
                log.warning("lease was not released: it expires", stream=name, error=str(error))

    def close(self) -> None:
        """Release all leases and end the thread."""
        self._end.set()
        self._thread.join()
        for name in list(self._requests):
            self.release(name)

    def _renew_on(self) -> None:
        while not self._end.wait(self._every_s):
            self._renew()

    def _renew(self) -> None:
        with self._lock:
            names = [name for name, request in self._requests.items() if request is not None]
            self._tried = time.monotonic()
            if not names:
                return
            try:
                requests = self._leases.renew(self._me, {name: self._facts_of(name) for name in names})
            except StorageError as error:
                if not self.trouble:
                    log.warning("catalog does not answer: leases are renewed later", error=str(error))
                self.trouble = str(error)
                return
            finally:
                self._tried = time.monotonic()
            self.trouble = ""
            for name in (name for name, request in requests.items() if request is None):
                log.error("lease is lost: another process runs the stream", stream=name)
            self._requests.update(requests)
