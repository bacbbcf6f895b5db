"""Streams of Redis and Valkey. Create the source with `redis_stream`.

Delivery: each entry once, by its number in the stream. Nothing is read with a consumer group, and nothing is acknowledged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, lru_cache
from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any

import numpy as np
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
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sources import POSITION, Extent

if TYPE_CHECKING:
    from pipeline.connectors.streams.redis_client import Entry, RedisClient

METADATA = ("timestamp", "key", "headers")
_URLS = UrlForm("a Redis server", "redis://host:6379/0", "rediss://host:6379/0")
_SOCKET = "unix://"


@dataclass(frozen=True, kw_only=True)
class RedisStream(CheckedStream):
    """Streams of a Redis or Valkey server. Create it with `redis_stream`."""

    url: str
    value_field: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    marker: str | None = None

    @property
    def scheme(self) -> str:
        """See `RecordStream`."""
        return "redis"

    @property
    def fingerprint(self) -> str:
        """A hash of the format, the metadata and the field; the names of the streams are not part of it."""
        return fingerprint(super().fingerprint, self.value_field)

    def stream_names(self, most: int) -> Sequence[str]:
        """Return the names of the streams of the database; of more than `most`, at least as many."""
        return self._client.stream_names(most)

    def extent(self, name: str) -> Extent:
        """Return the numbers of the entries of a stream; raise `SourceError` if it does not exist."""
        info = self._client.info(name)
        return Extent(info.begin, info.end, self._stamp(name))

    def _stamp(self, name: str) -> str:
        return "" if self.marker is None else self._client.marker(name, self.marker)

    def identity(self, name: str, position: int) -> str | None:
        """Return the id of an entry that is the last one or was read before; see `CheckedStream`."""
        info = self._client.info(name)
        is_last = position == info.end - 1 >= info.begin
        known = info.last_id if is_last else self._client.known_id(name, position)
        return None if known is None else known.decode()

    def has_record(self, name: str, position: int, identity: str) -> bool:
        """Return whether a stream has an entry with this id."""
        del position
        return self._client.exists(name, identity.encode())

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each stream the number of the first entry whose id is of this time or later."""
        moment = max(0, int(time.timestamp() * 1000))
        found: dict[str, int] = {}
        for name in self.streams:
            info = self._client.info(name)
            found[self.uri(name)] = self._client.number_of_first_after(name, info, b"%d-0" % moment)
        return found

    def records(self, name: str, extent: Extent) -> pa.Table:
        """Return the entries of a range; see `RecordStream`."""
        uri, client = self.uri(name), self._client
        info = client.info(name)
        if extent.begin < min(info.begin, extent.end):
            raise removed(uri, extent.begin, info.begin)
        before = client.known_id(name, extent.begin - 1)
        if before is not None and extent.begin - 1 >= info.begin and not client.exists(name, before):
            client.forget(name)
            raise created_again(uri)
        if extent.end > info.end:
            client.forget(name)
            raise created_again(uri)
        pages = list(client.entries(name, info, extent.begin, extent.end))
        now = client.info(name)
        if extent.stamp and self._stamp(name) != extent.stamp:
            raise created_again(uri)
        if extent.begin < min(now.begin, extent.end):
            raise removed(uri, extent.begin, now.begin)
        entries = [entry for page in pages for entry in page]
        if len(entries) != extent.end - extent.begin:
            raise created_again(uri)
        return self._table(entries, extent.begin)

    def _table(self, entries: Sequence[Entry], begin: int) -> pa.Table:
        made = [json_object(fields) for _, fields in entries] if self.value_field is None else self._values(entries)
        columns = {
            VALUE: pa.array(made, pa.binary()),
            POSITION: pa.array(np.arange(begin, begin + len(entries), dtype=np.int64)),
        }
        if self.metadata.timestamp:
            times = [int(entry.partition(b"-")[0]) * 1000 for entry, _ in entries]
            columns["_timestamp"] = pa.array(times, pa.int64()).cast(FETCHED["_timestamp"])
        if self.metadata.key:
            columns["_key"] = pa.array([entry for entry, _ in entries], pa.binary())
        if self.metadata.headers:
            headers = [list(self._headers(fields)) for _, fields in entries]
            columns["_headers"] = pa.array(headers, FETCHED["_headers"])
        return pa.table(columns)

    def _values(self, entries: Sequence[Entry]) -> list[bytes | None]:
        name = (self.value_field or "").encode()
        return [dict(zip(fields[::2], fields[1::2], strict=True)).get(name) for _, fields in entries]

    def _headers(self, fields: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            text = name.decode("utf-8", "replace")
            if text != self.value_field:
                yield text, value

    @cached_property
    def _client(self) -> RedisClient:
        from pipeline.connectors.streams.redis_client import RedisClient  # noqa: PLC0415 - needs the library

        options: dict[str, Any] = {"username": self.user}
        if self.password is not None:
            options["password"] = secret(self.password, f"the password of {self.url}")
        if self.ca is not None:
            trusting(self.ca, Place(self.url))  # the client would report a lost connection
            options["ssl_ca_certs"] = self.ca
        return RedisClient(self.url, options, Place(self.url))


def json_object(fields: Sequence[bytes]) -> bytes:
    """Return the fields of an entry, names and values in turn, as a JSON object of texts.

    What is not UTF-8 stays in it as it is, and an entry with a name twice is an array: both are rejected by the decoder.
    """
    names, values = fields[::2], fields[1::2]
    try:
        template = _template(tuple(names))
        if template is None:
            return json.dumps([word.decode() for word in fields], ensure_ascii=False).encode()
        return (template % tuple(map(_quoted, map(bytes.decode, values)))).encode()
    except UnicodeDecodeError:
        return b"{" + b",".join(b'"%s":"%s"' % pair for pair in zip(names, values, strict=True)) + b"}"


@lru_cache(maxsize=1000)
def _template(names: tuple[bytes, ...]) -> str | None:
    """Return a JSON object of some names as a format of its values; `None` if a name occurs twice."""
    if len(set(names)) < len(names):
        return None
    return "{" + ",".join(_quoted(name.decode()).replace("%", "%%") + ":%s" for name in names) + "}"


def redis_stream(
    streams: str | Sequence[str],
    *,
    url: str = "redis://127.0.0.1:6379/0",
    field: str | None = None,
    user: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    marker: str | None = None,
    format: Format = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> RedisStream:
    """Read streams of Redis or Valkey by name; the entries of each are in the order of their ids.

    The fields of an entry are columns. With `field`, only this field is the value, which is decoded by `format` as for
    `kafka`. `rename` maps names of fields to names of columns. `metadata` adds `timestamp` (of the id), `key` (the id) and `headers` (the other fields) as columns with an
    underscore. `password` is a reference such as `env:REDIS_PASSWORD`; `rediss://` is a URL with TLS, and `ca` a file of
    authorities.

    `marker` creates a consumer group whose name begins with it: it is deleted with the stream, so it shows that a stream was
    created again, whatever it contains.

    Entries that were trimmed before they were read are an error, and so are entries that were deleted singly. Raises
    `DefinitionError` for invalid options.
    """
    names = require_streams(streams, "Redis")
    require_format(format, "Redis entries")
    if field is None and format != "json":
        raise DefinitionError("format= of a Redis stream needs field=", do="pass field= with the name of the field")
    if ca is not None or "@" in url or not url.startswith(_SOCKET):
        _URLS.require(url, ca)
    return RedisStream(
        streams=names,
        url=url,
        value_field=field,
        user=user,
        password=password,
        ca=ca,
        marker=marker,
        format=format,
        metadata=stream_metadata(metadata, METADATA, "Redis"),
        naming=naming_of(rename, format),
    )
