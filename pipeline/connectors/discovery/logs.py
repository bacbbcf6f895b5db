"""The topics of Kafka, the streams of NATS, Redis and RabbitMQ, and some messages of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from pipeline.connectors.discovery.named import NamedDiscovery
from pipeline.connectors.discovery.system import SystemAddress
from pipeline.core.discovery import DiscoveredObject, DiscoveryLimits
from pipeline.core.errors import Place, RequestError, SourceError, quantity


@dataclass(frozen=True)
class LogDiscovery(NamedDiscovery):
    """See `Discoverable`. The objects are logs, whose messages have positions."""

    def described(self, name: str) -> DiscoveredObject:
        """Return a log with the number of its messages, unless it cannot be read, which its sample says."""
        described = super().described(name)
        with suppress(SourceError):
            extents = self.reader(name).extents().values()
            rows = sum(extent.end - extent.begin for extent in extents)
            parts = quantity(len(extents), "partition") if self.kind == "topic" else ""
            return replace(described, rows=rows, partitioning=parts)
        return described

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return the first messages of a log, as JSON.

        Raises `SourceError` for a log that cannot be read, and for messages in another format.
        """
        self.reader(discovered.name).extents()
        try:
            return super().sample(discovered, limits)
        except SourceError as error:
            raise SourceError(
                "the messages are not JSON objects",
                got=error.got or error.problem,
                do='pass format="text", "raw", Avro(…) or Protobuf(…)',
                place=Place(self.uri),
            ) from error


def discoverable(address: SystemAddress) -> LogDiscovery:
    """Return what looks at the logs of a server, or at one of them: `kafka://host:9092/orders`, `nats://user@host:4222`."""
    only = address.options.get("table", "")
    if address.scheme == "kafka":
        servers, _, topic = address.uri.partition("://")[2].partition("/")
        return _topics(servers, topic or only)
    parts = urlsplit(address.uri)
    user, _, host = parts.netloc.rpartition("@")
    url = parts._replace(netloc=host).geturl()
    given = {"user": user, **address.options}
    options = {name: given[name] for name in ("user", "password", "ca") if given.get(name)}
    if address.scheme == "nats":
        from pipeline.connectors.streams.nats import nats_stream  # noqa: PLC0415 - only here

        return _streams(nats_stream, url, {"servers": url, **options}, only)
    if address.scheme in {"redis", "rediss"}:
        from pipeline.connectors.streams.redis import redis_stream  # noqa: PLC0415 - only here

        return _streams(redis_stream, url, {"url": url, **options}, only)
    from pipeline.connectors.streams.rabbitmq import rabbitmq_stream  # noqa: PLC0415 - only here

    if not only:
        raise RequestError("the streams of RabbitMQ cannot be listed", do="name one of them: --table STREAM")
    return replace(_streams(rabbitmq_stream, url, {"url": url, **options}, only), names=lambda _: [only])


def _topics(servers: str, only: str) -> LogDiscovery:
    from pipeline.connectors.kafka.source import kafka  # noqa: PLC0415 - needs the extra

    def names(most: int) -> Iterable[str]:
        del most
        every = kafka(pattern=".+", servers=servers).client.topics((), ".+")
        return [name for name in every if not name.startswith("__")]

    uri = f"kafka://{servers}/{only}".rstrip("/")
    return LogDiscovery(uri, "topic", kafka, names, lambda name: (name,), (("servers", servers),), only)


def _streams(connector: Callable[..., Any], url: str, options: dict[str, str], only: str) -> LogDiscovery:
    def names(most: int) -> Iterable[str]:
        reader = connector("any", **options)
        return reader.stream_names(most)  # type: ignore[no-any-return]

    return LogDiscovery(url, "stream", connector, names, lambda name: (name,), tuple(options.items()), only)
