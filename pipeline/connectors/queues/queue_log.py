"""The base class of queues as sources: messages are on disk before they are acknowledged, and are read from there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pipeline.connectors.queues.receiving import QueueReceiver
from pipeline.connectors.spool.log_reader import RECEIVED_AT, MessageLog
from pipeline.connectors.spool.reader import DEFAULT_FOLDER
from pipeline.connectors.spool.receiving import receiving_tail
from pipeline.connectors.spool.segments import Spool
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sources import Extent, Tail

_TAIL_IDLE_S = float("inf")
Duration = str | timedelta
MessageFormat = Literal["json", "text"]
"""How a body becomes columns: the fields of a JSON object, or a column `value` with a text."""


@dataclass(frozen=True)
class QueueMessage:
    """A message: its body, its metadata, and what acknowledges it."""

    body: bytes
    fields: Mapping[str, object]
    token: Any = None
    partition: str = "0"
    """The partition of the log to which it belongs."""

    @property
    def id(self) -> str:
        """The id by which the message is recognized if it comes again; empty if it has none."""
        return str(self.fields.get("id") or "")


class Subscription(Protocol):
    """A connection that receives messages. It is used by one thread."""

    def receive(self, timeout_s: float) -> Sequence[QueueMessage]:
        """Return the messages that have come, in order; wait for the first until the timeout."""

    def acknowledge(self, messages: Sequence[QueueMessage]) -> None:
        """Tell the system that these messages are on disk; if this fails, it delivers them again."""


@dataclass(frozen=True)
class QueueOptions:
    """The options of all queues."""

    format: MessageFormat = "json"
    idle_s: float = 2.0
    """A run ends its reception if no message has come for so long."""
    listen_s: float = 60.0
    """A run receives messages for so long at most."""
    kept_s: float = 30 * 86400.0


def queue_options(format: str, idle: Duration, listen: Duration, keep: Duration) -> QueueOptions:  # noqa: A002 - as in kafka
    """Return the options; raise `DefinitionError` for an unknown format or an invalid duration."""
    if format not in {"json", "text"}:
        do = did_you_mean(format, ("json", "text"))
        raise DefinitionError("unknown format of the messages of a queue", got=repr(format), do=do)
    seconds = [
        parse_duration(value, f"{name}=").total_seconds()
        for name, value in (("idle", idle), ("listen", listen), ("keep", keep))
    ]
    return QueueOptions("text" if format == "text" else "json", *seconds)


@dataclass(frozen=True, kw_only=True)
class QueueLog(MessageLog):
    """Messages of a queue in a durable log.

    Delivery: each message at least once, and once if it has an id: a message that was not acknowledged, because the process
    ended between writing and acknowledging it, comes again, and is recognized by its id.
    """

    options: QueueOptions = field(default_factory=QueueOptions, compare=False)

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "id")

    @abstractmethod
    def subscription(self) -> AbstractContextManager[Subscription]:
        """Connect; raise `SourceUnavailableError` if the system does not answer, and `SourceError` if it refuses."""

    @property
    def fingerprint(self) -> str:
        """A hash of the format and the metadata; the address is not part of it."""
        return fingerprint("queue", self.options.format, self.metadata, *self.naming.renamed_part)

    @property
    def segments(self) -> Spool:
        """The folder of the log, which does not depend on options: acknowledged messages are only there."""
        location = self.spool or DEFAULT_FOLDER
        return Spool(f"{Path(self.folder) / location}/{fingerprint('queue', self.uri)}")

    @property
    def partitions(self) -> tuple[str, ...]:
        """The partitions that the log has from the beginning."""
        return ("0",)

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Receive messages until none has come for a time, and return those beyond the cursor."""
        QueueReceiver(self).receive(self.options.idle_s, self.options.listen_s)
        return super().plan(cursor, bound)

    def extents(self) -> Mapping[str, Extent]:
        """Return the numbers of the messages in the log, which is created if it does not exist yet."""
        for name in self.partitions:
            if self.partition(name).extent() is None:
                self.partition(name).append([])
        return super().extents()

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Receive messages in a thread, and read them as they arrive."""
        with receiving_tail(self, lambda: QueueReceiver(self), offsets, _TAIL_IDLE_S) as tail:
            yield tail
