"""NATS JetStream. Create the source with `nats_stream`.

Delivery: each message once, by its sequence in the stream. No durable consumer is used, and nothing is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.connectors.kafka.value_formats import FETCHED, VALUE, Format, naming_of
from pipeline.connectors.streams.record_stream import (
    RecordStream,
    created_again,
    removed,
    require_format,
    require_streams,
    stream_metadata,
)
from pipeline.core.credentials import secret
from pipeline.core.errors import DefinitionError, Place, SourceError
from pipeline.core.sources import POSITION, Extent

if TYPE_CHECKING:
    from pipeline.connectors.streams.nats_client import NatsClient

METADATA = ("timestamp", "key", "headers")


@dataclass(frozen=True, kw_only=True)
class NatsStream(RecordStream):
    """Streams of a NATS server. Create it with `nats_stream`."""

    servers: str
    subject: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def scheme(self) -> str:
        """See `RecordStream`."""
        return "nats"

    def stream_names(self, most: int) -> Sequence[str]:
        """Return the names of the streams of the server; of more than `most`, at least as many."""
        return self._client.stream_names(most)

    def extent(self, name: str) -> Extent:
        """Return the sequences of a stream; raise `SourceError` if it does not exist."""
        extent = self._client.extent(name)
        if extent is None:
            raise SourceError(f"the stream {name!r} does not exist", place=Place(self.uri(name)))
        return extent

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each stream the sequence of the first message that was stored at or after a time."""
        return {self.uri(name): self._client.sequence_at(name, time) or self.extent(name).end for name in self.streams}

    def records(self, name: str, extent: Extent) -> pa.Table:
        """Return the messages of a range; see `RecordStream`."""
        messages = self._client.messages(name, extent.begin, extent.end, self.subject)
        now = self.extent(name)
        if extent.stamp and now.stamp != extent.stamp:
            raise created_again(self.uri(name))
        if extent.begin < min(now.begin, extent.end):
            raise removed(self.uri(name), extent.begin, now.begin)
        columns = {
            VALUE: pa.array([message.data for message in messages], pa.binary()),
            POSITION: pa.array([message.metadata.sequence.stream for message in messages], pa.int64()),
        }
        if self.metadata.timestamp:
            times = [message.metadata.timestamp for message in messages]
            columns["_timestamp"] = pa.array(times, FETCHED["_timestamp"])
        if self.metadata.key:
            columns["_key"] = pa.array([message.subject.encode() for message in messages], pa.binary())
        if self.metadata.headers:
            headers = [[(n, str(v).encode()) for n, v in (each.headers or {}).items()] for each in messages]
            columns["_headers"] = pa.array(headers, FETCHED["_headers"])
        return pa.table(columns)

    @cached_property
    def _client(self) -> NatsClient:
        from pipeline.connectors.streams.nats_client import NatsClient  # noqa: PLC0415 - needs the library

        password = None if self.user is None else secret(self.password or "", f"the password of {self.servers}")
        return NatsClient(self.servers, self.user, password)


def nats_stream(
    streams: str | Sequence[str],
    *,
    servers: str = "nats://127.0.0.1:4222",
    subject: str | None = None,
    user: str | None = None,
    password: str | None = None,
    format: Format = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> NatsStream:
    """Read streams of NATS JetStream by name; the messages of each are in the order of their sequences.

    `subject` reads only messages of a subject, which may have wildcards. A value is decoded by `format`, and fields are
    renamed by `rename`, which are the same as for `kafka`. `metadata` adds `timestamp`, `key` (the subject) and `headers` as columns with an underscore. `password` is a
    reference such as `env:NATS_PASSWORD`.

    Messages that were removed before they were read are an error. Raises `DefinitionError` for invalid options.
    """
    names = require_streams(streams, "NATS")
    require_format(format, "NATS messages")
    if "@" in servers:
        raise DefinitionError("the address of a NATS server contains a user", do='pass user= and password="env:NAME"')
    return NatsStream(
        streams=names,
        servers=servers,
        subject=subject,
        user=user,
        password=password,
        format=format,
        metadata=stream_metadata(metadata, METADATA, "NATS"),
        naming=naming_of(rename, format),
    )
