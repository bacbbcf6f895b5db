"""Receives messages of a queue: a batch is written to the log, flushed to the disk, and then acknowledged."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.connectors.json_text import one_line
from pipeline.connectors.spool.receiving import only_receiver
from pipeline.connectors.spool.recent_ids import RecentIds
from pipeline.connectors.spool.record_log import RecordLog, record

if TYPE_CHECKING:
    from pipeline.connectors.queues.queue_log import QueueLog, QueueMessage

_WAIT_S = 0.25
"""How long one call waits, so that `stop` is noticed."""


class QueueReceiver:
    """Receives the messages of one source. Only one process does so at a time."""

    def __init__(self, queue: QueueLog) -> None:
        """Create a receiver, which is not connected yet."""
        self._queue = queue
        self._stop = threading.Event()
        self._logs: dict[str, tuple[RecordLog, RecentIds]] = {}

    def receive(self, idle_s: float, listen_s: float) -> None:
        """Receive messages until none has come for `idle_s`, at most for `listen_s`, or until `stop`.

        Raises `SourceUnavailableError` if the system does not answer, and `SourceError` if it refuses, or if messages
        cannot be written; these are not acknowledged.
        """
        with only_receiver(self._queue.home) as is_only:
            if not is_only:
                return  # another process receives them
            with self._queue.subscription() as subscription:
                began = last = time.monotonic()
                while not self._stop.is_set() and (now := time.monotonic()) < began + listen_s:
                    messages = subscription.receive(min(_WAIT_S, idle_s))
                    if messages:
                        self._store(messages)
                        subscription.acknowledge(messages)
                        last = time.monotonic()
                    elif now - last >= idle_s:
                        return

    def stop(self) -> None:
        """End `receive`, which may be waiting in another thread."""
        self._stop.set()

    def stop_wait(self, seconds: float) -> None:
        """Wait before the next `receive`, or until `stop`."""
        self._stop.wait(seconds)

    def _store(self, messages: Sequence[QueueMessage]) -> None:
        """Write the messages that are new; they are on disk afterwards."""
        at_ms = int(time.time() * 1000)
        for name in dict.fromkeys(each.partition for each in messages):
            log, ids = self._log(name)
            with log.locked():
                ids.learn()
                new: dict[str, QueueMessage] = {}
                for number, each in enumerate(messages):
                    if each.partition == name and each.id not in ids:
                        new.setdefault(each.id or f"\0{number}", each)
                records = [record(at_ms, each.fields, self._body(each.body)) for each in new.values()]
                first = log.append_locked(records, self._queue.options.kept_s)
                ids.add([each.id for each in new.values() if each.id], first + len(records))

    def _log(self, name: str) -> tuple[RecordLog, RecentIds]:
        if name not in self._logs:
            log = self._queue.partition(name)
            self._logs[name] = (log, RecentIds(log))
        return self._logs[name]

    def _body(self, body: bytes) -> bytes:
        if self._queue.options.format == "json":
            return one_line(body)
        try:
            return json.dumps({"value": body.decode()}).encode()
        except UnicodeDecodeError:
            return one_line(body)
