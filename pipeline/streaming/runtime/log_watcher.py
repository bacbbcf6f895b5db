"""What the logs of a stream hold, asked now and then by a thread: a system that is slow to answer does not hold the stream."""

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
"""How often logs are asked: for new partitions, and for how far the stream is behind."""


class LogWatcher:
    """Asks the logs of some inputs what they hold."""

    def __init__(self, inputs: Sequence[StreamInput], extents: Extents) -> None:
        """Begin to ask; `extents` is what they held when the stream was opened."""
        self.extents = extents
        """What they held as of the last `refresh`."""
        self._inputs = inputs
        self._found: Extents | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        threading.Thread(target=self._watch, name="headwater-logs", daemon=True).start()

    def close(self) -> None:
        """Stop asking; a question that is under way is not waited for."""
        self._end.set()

    def refresh(self) -> bool:
        """Take the newest answer, if there is one, and return whether there was; raise what asking raised.

        An `UnavailableError` is not raised: the answer comes later.
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
