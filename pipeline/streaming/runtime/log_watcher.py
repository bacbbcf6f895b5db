"""Polls the extents of a stream's logs in a thread, so that a slow system does not delay the stream."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from pipeline.core.errors import UnavailableError
from pipeline.core.logs import logger
from pipeline.core.sources import Extent
from pipeline.streaming.planning.inputs import StreamInput
from pipeline.streaming.runtime.progress import Extents

log = logger(__name__)
EVERY_S = 1.0
"""How often logs are polled for new partitions and for the lag of the stream."""


class LogWatcher:
    """Polls the extents of the logs of some inputs."""

    def __init__(self, inputs: Sequence[StreamInput], extents: Extents) -> None:
        """Start to poll. `extents` are those from when the stream was opened."""
        self.extents = extents
        """The extents as of the last `refresh`."""
        self._inputs = inputs
        self._found: Extents | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        threading.Thread(target=self._watch, name="headwater-logs", daemon=True).start()

    def close(self) -> None:
        """Stop polling without waiting for a running request."""
        self._end.set()

    def refresh(self) -> bool:
        """Take over the latest extents and return whether there were new ones; raise the error of a failed request.

        An `UnavailableError` is not raised; the request is repeated.
        """
        with self._lock:
            extents, error = self._found, self._error
            self._found = None
        if error is not None:
            raise error
        if extents is not None:
            self.extents = extents
        return extents is not None

    def _watch(self) -> None:
        while not self._end.wait(EVERY_S):
            try:
                extents: dict[str, Mapping[str, Extent]] = {each.name: each.log.extents() for each in self._inputs}
            except UnavailableError as error:
                log.debug("a log does not answer", error=str(error))
            except Exception as error:  # noqa: BLE001 - raised by `refresh`, in the stream's thread
                with self._lock:
                    self._error = error
                return
            else:
                with self._lock:
                    self._found = extents
