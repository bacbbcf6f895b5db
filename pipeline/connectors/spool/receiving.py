"""Receives messages into a durable log in a thread, while a tail reads them."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.connectors.direct_tail import DirectTail
from pipeline.core.errors import HeadwaterError, Place, SourceError, SourceUnavailableError
from pipeline.core.logs import logger
from pipeline.core.sources import ReadyOffsets

if TYPE_CHECKING:
    from pipeline.connectors.spool.log_reader import MessageLog

log = logger(__name__)
_RETRY_S = 1.0


class MessageReceiver(Protocol):
    """Receives the messages of one source into its log."""

    def receive(self, idle_s: float, listen_s: float) -> None:
        """Receive messages until none has come for `idle_s`, at most for `listen_s`, or until `stop`."""

    def stop(self) -> None:
        """End `receive`, which may be waiting in another thread."""

    def stop_wait(self, seconds: float) -> None:
        """Wait before the next `receive`, or until `stop`."""


@contextmanager
def only_receiver(folder: Path) -> Iterator[bool]:
    """Yield whether this is the only receiver of a log, of all processes that use its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "receiver").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


@dataclass
class ReceivingTail(DirectTail):
    """A tail that raises the error that ended the receiver."""

    receiver: ReceiverThread | None = None

    def ready(self, timeout_s: float) -> ReadyOffsets:
        """Return new ranges; raise the error of the receiver, after what was received before it."""
        ready = super().ready(timeout_s)
        error = None if self.receiver is None else self.receiver.error
        if error is not None and not ready.rows:
            raise error
        return ready


class ReceiverThread:
    """Receives messages in a thread until it is closed."""

    def __init__(self, receiver: MessageReceiver, uri: str, idle_s: float) -> None:
        """Start the thread; a connection without messages is made again after `idle_s`."""
        self._receiver, self._uri, self._idle_s, self._closed = receiver, uri, idle_s, False
        self.error: HeadwaterError | None = None
        self._thread = threading.Thread(target=self._work, name="headwater-receiver", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._receiver.stop()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while not self._closed:
            try:
                self._receiver.receive(self._idle_s, float("inf"))
            except SourceUnavailableError as error:
                log.warning("the source of messages is unavailable", source=self._uri, error=str(error))
            except HeadwaterError as error:
                self.error = error
                return
            except Exception as error:  # noqa: BLE001 - the tail raises it; otherwise the thread would end unnoticed
                problem = f"messages cannot be received: {type(error).__name__}"
                self.error = SourceError(problem, got=str(error) or None, place=Place(self._uri))
                return
            self._receiver.stop_wait(_RETRY_S)


@contextmanager
def receiving_tail(
    source: MessageLog, receiver: Callable[[], MessageReceiver], offsets: Mapping[str, int], idle_s: float
) -> Iterator[ReceivingTail]:
    """Receive messages while a tail is read."""
    tail = ReceivingTail(source, dict(offsets))
    tail.receiver = ReceiverThread(receiver(), source.uri, idle_s)
    try:
        yield tail
    finally:
        tail.receiver.close()
