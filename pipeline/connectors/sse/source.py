"""Server-sent events as a source. Create it with `server_sent_events`.

Delivery: each event that was received, once; events with ids are received without a gap, if the server continues after
`Last-Event-ID`. Without ids, events that are sent while no connection is open are lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from pipeline.connectors.http.credentials import Credentials, require_credentials
from pipeline.connectors.rest.api import ApiCalls, client_of, require_plain_url
from pipeline.connectors.spool.log_reader import RECEIVED_AT, MessageLog, log_naming
from pipeline.connectors.spool.receiving import receiving_tail
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.definitions import names
from pipeline.core.event_time import parse_duration
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sources import Extent, Tail

if TYPE_CHECKING:
    from pipeline.connectors.http.client import HttpClient

_TAIL_IDLE_S = 300.0


@dataclass(frozen=True, kw_only=True)
class EventStream(MessageLog):
    """A stream of server-sent events. Create it with `server_sent_events`."""

    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: Credentials | None = None
    calls: ApiCalls = field(default_factory=ApiCalls)
    idle_s: float = field(default=5.0, compare=False)
    listen_s: float = field(default=60.0, compare=False)
    kept_s: float = field(default=30 * 86400.0, compare=False)

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "id", "event")

    @property
    def fingerprint(self) -> str:
        """A hash of the parameters and the metadata; the address is not part of it."""
        return fingerprint("server-sent events", sorted(self.params.items()), self.metadata, *self.naming.renamed_part)

    @property
    def uri(self) -> str:
        """The address."""
        return self.url

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Receive events until none has come for a time, and return those beyond the cursor."""
        with imports_of("rest", "server_sent_events(…)"):
            from pipeline.connectors.sse.receiving import EventReceiver  # noqa: PLC0415 - optional dependency
        EventReceiver(self).receive(self.idle_s, self.listen_s)
        return super().plan(cursor, bound)

    def extents(self) -> Mapping[str, Extent]:
        """Return the numbers of the events in the log, which is created if it does not exist yet."""
        self.partition().append([])
        return super().extents()

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Receive events in a thread, and read them as they arrive."""
        with imports_of("rest", "server_sent_events(…)"):
            from pipeline.connectors.sse.receiving import EventReceiver  # noqa: PLC0415 - optional dependency
        with receiving_tail(self, lambda: EventReceiver(self), offsets, _TAIL_IDLE_S) as tail:
            yield tail

    @contextmanager
    def client(self) -> Iterator[HttpClient]:
        """Yield a client of the server."""
        with client_of(self.url, self.calls, self.auth, self.headers, "server_sent_events(…)") as client:
            yield client


def server_sent_events(
    url: str,
    *,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    auth: Credentials | None = None,
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    idle: str | timedelta = "5 seconds",
    listen: str | timedelta = "1 minute",
    keep: str | timedelta = "30 days",
    deadline: str | timedelta = "5 minutes",
    spool: str | None = None,
) -> EventStream:
    """Read a stream of server-sent events whose data are JSON objects.

    `headwater stream` receives events continuously. `headwater run` connects, and receives them until none has come for
    `idle`, for at most `listen`. `metadata` adds the columns `_id`, `_event` and `_received_at`,
    and `rename` maps names of fields to names of columns. Events are kept on disk below
    `spool` for `keep`, and each connection continues after the last event there.

    Raises `DefinitionError` for invalid options.
    """
    deadline_s = parse_duration(deadline, "deadline=").total_seconds()
    return EventStream(
        url=require_plain_url(url),
        params=dict(params or {}),
        headers=dict(headers or {}),
        auth=require_credentials(auth),
        calls=ApiCalls(deadline_s=deadline_s),
        metadata=names(metadata),
        naming=log_naming(rename, EventStream.known_metadata),
        idle_s=parse_duration(idle, "idle=").total_seconds(),
        listen_s=parse_duration(listen, "listen=").total_seconds(),
        kept_s=parse_duration(keep, "keep=").total_seconds(),
        spool=spool,
    )
