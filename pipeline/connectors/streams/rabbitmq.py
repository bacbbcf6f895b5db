"""Streams of RabbitMQ. Create the source with `rabbitmq_stream`.

Delivery: each message once, by its offset in the stream. Progress is not stored in RabbitMQ, and nothing is acknowledged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.connectors.certificates import trusting
from pipeline.connectors.kafka.value_formats import FETCHED, VALUE, Format, naming_of
from pipeline.connectors.server_url import UrlForm
from pipeline.connectors.streams.checked_stream import CheckedStream
from pipeline.connectors.streams.record_stream import (
    created_again,
    removed,
    require_format,
    require_streams,
    stream_metadata,
)
from pipeline.core.credentials import secret
from pipeline.core.errors import Place
from pipeline.core.sources import POSITION, Extent

if TYPE_CHECKING:
    from pipeline.connectors.streams.rabbitmq_client import StreamClient

METADATA = ("timestamp", "headers")
_URLS = UrlForm("a RabbitMQ server", "rabbitmq-stream://host:5552/", "rabbitmq-stream+tls://host:5551/")


@dataclass(frozen=True, kw_only=True)
class RabbitStream(CheckedStream):
    """Streams of a RabbitMQ server. Create it with `rabbitmq_stream`."""

    url: str
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    ca: str | None = None
    marker: str | None = None

    @property
    def scheme(self) -> str:
        """See `RecordStream`."""
        return "rabbitmq"

    def extent(self, name: str) -> Extent:
        """Return the offsets of a stream; raise `SourceError` if it does not exist."""
        first, last = self._client.first(name), self._client.last(name)
        stamp = "" if self.marker is None else self._client.marker(name, self.marker)
        if first is None or last is None:
            return Extent(0, 0, stamp)
        return Extent(first.first, max(first.end, last.end), stamp)

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each stream the offset of the first messages that were written at or after a time."""
        found: dict[str, int] = {}
        for name in self.streams:
            chunk = self._client.at_time(name, max(0, int(time.timestamp() * 1000)))
            found[self.uri(name)] = self.extent(name).end if chunk is None else chunk.first
        return found

    def identity(self, name: str, position: int) -> str | None:
        """Return the chunk of a message; see `CheckedStream`."""
        chunk = self._client.at_offset(name, position)
        return chunk.identity if chunk is not None and chunk.first <= position < chunk.end else None

    def has_record(self, name: str, position: int, identity: str) -> bool:
        """Return whether a message is in this chunk."""
        return self.identity(name, position) == identity

    def records(self, name: str, extent: Extent) -> pa.Table:
        """Return the messages of a range; see `RecordStream`."""
        from pipeline.connectors.streams.rabbitmq_messages import MessageColumns  # noqa: PLC0415 - when data is read

        uri, columns = self.uri(name), MessageColumns(has_headers=self.metadata.headers)
        if extent.begin < extent.end:
            now = self.extent(name)
            if extent.end > now.end or (extent.stamp and extent.stamp != now.stamp):
                raise created_again(uri)
            if extent.begin < now.begin:
                raise removed(uri, extent.begin, now.begin)
            for chunk in self._client.chunks(name, extent.begin, extent.end):
                columns.add(chunk, extent.begin, extent.end)
            now = self.extent(name)
            if extent.stamp and extent.stamp != now.stamp:
                raise created_again(uri)
            if extent.begin < now.begin:
                raise removed(uri, extent.begin, now.begin)
        made = columns.table()
        wanted = [VALUE, POSITION, *(name for name in self.metadata.columns if name in FETCHED)]
        return made.select(wanted)

    @cached_property
    def _client(self) -> StreamClient:
        from pipeline.connectors.streams.rabbitmq_client import (  # noqa: PLC0415 - when it is used
            RabbitServer,
            StreamClient,
        )

        address, place = _URLS.address(self.url), Place(self.url)
        server = RabbitServer(
            address.host,
            address.port,
            address.path or "/",
            self.user,
            secret(self.password, f"the password of {self.url}"),
            trusting(self.ca, place) if address.has_tls else None,
        )
        return StreamClient(server, place)


def rabbitmq_stream(
    streams: str | Sequence[str],
    *,
    url: str = "rabbitmq-stream://127.0.0.1:5552/",
    user: str = "guest",
    password: str = "guest",  # noqa: S107 - the default of RabbitMQ, which is only accepted on the same machine
    ca: str | None = None,
    marker: str | None = None,
    format: Format = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> RabbitStream:
    """Read streams of RabbitMQ by name; the messages of each are in the order of their offsets.

    `url` is `rabbitmq-stream://host:5552/vhost`, or `rabbitmq-stream+tls://` with TLS, for which `ca` is a file of
    authorities. A value is decoded by `format`, and fields are renamed by `rename`, which are the same as for `kafka`. `metadata` adds `timestamp` (when the
    server wrote the message) and `headers` (its application properties) as columns with an underscore. `password` is a
    reference such as `env:RABBITMQ_PASSWORD`.

    `marker` is a name under which a random number is stored in a stream as an offset: it is deleted with the stream, so it shows
    that a stream was created again, whatever it contains.

    Messages that retention removed before they were read are an error. Raises `DefinitionError` for invalid options.
    """
    names = require_streams(streams, "RabbitMQ")
    require_format(format, "RabbitMQ messages")
    _URLS.require(url, ca)
    return RabbitStream(
        streams=names,
        url=url,
        user=user,
        password=password,
        ca=ca,
        marker=marker,
        format=format,
        metadata=stream_metadata(metadata, METADATA, "RabbitMQ"),
        naming=naming_of(rename, format),
    )
