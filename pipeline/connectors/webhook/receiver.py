"""Receives messages of a webhook: checks them, and answers only after they are on disk.

Messages that arrive while others are written wait for the next write, so that one flush of the disk serves many.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.connectors.json_text import one_line
from pipeline.connectors.spool.recent_ids import RecentIds
from pipeline.connectors.spool.record_log import record

if TYPE_CHECKING:
    from pipeline.connectors.webhook.source import Webhook


@dataclass(frozen=True)
class Received:
    """The answer to a message: `accepted`, `duplicate`, or that it was refused and why."""

    status: int
    result: str
    problem: str = ""


@dataclass
class _Waiting:
    fields: Mapping[str, object]
    body: bytes
    name: str
    is_stored: Future[bool] = field(default_factory=Future)


class Receiver:
    """Accepts the messages of one webhook in this process; several processes may share its log. Thread-safe."""

    def __init__(self, webhook: Webhook, now: Callable[[], float]) -> None:
        """Create a receiver; `now` returns the seconds since 1970."""
        self._webhook, self._now, self._log = webhook, now, webhook.partition()
        self._ids = RecentIds(self._log)
        self._waiting: list[_Waiting] = []
        self._queue, self._writing = threading.Lock(), threading.Lock()

    def receive(self, headers: Mapping[str, str], body: bytes) -> Received:
        """Store a message, and return the answer once it is on disk. Names of headers are in lower case.

        Raises `SourceError` if it cannot be stored; the sender should send it again.
        """
        if len(body) > self._webhook.most_bytes:
            return Received(413, "refused", f"the message is longer than {self._webhook.most_bytes:,} bytes")
        signature = self._webhook.signature
        problem = "" if signature is None else signature.problem(headers, body, self._now())
        if problem:
            return Received(401, "refused", problem)
        if not body.strip():
            return Received(400, "refused", "the message has no body")
        name = next((headers[header] for header in self._webhook.id_headers if headers.get(header)), "")
        fields = {"id": name or None, "headers": self._webhook.kept_headers(headers)}
        waiting = _Waiting(fields, one_line(body), name)
        with self._queue:
            self._waiting.append(waiting)
        with self._writing:
            if not waiting.is_stored.done():
                self._write()
        return Received(200, "accepted" if waiting.is_stored.result() else "duplicate")

    def _write(self) -> None:
        """Write all waiting messages that are new."""
        with self._queue:
            batch, self._waiting = self._waiting, []
        try:
            with self._log.locked():
                self._ids.learn()
                new: dict[str, _Waiting] = {}
                for number, each in enumerate(batch):
                    if not each.name or each.name not in self._ids:
                        new.setdefault(each.name or f"\0{number}", each)
                at_ms = int(self._now() * 1000)
                records = [record(at_ms, each.fields, each.body) for each in new.values()]
                first = self._log.append_locked(records, self._webhook.kept_s)
                self._ids.add([each.name for each in new.values() if each.name], first + len(records))
        except BaseException as error:
            for each in batch:
                each.is_stored.set_exception(error)
            raise
        stored = set(map(id, new.values()))
        for each in batch:
            each.is_stored.set_result(id(each) in stored)
