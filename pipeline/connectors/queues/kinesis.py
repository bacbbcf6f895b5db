"""Amazon Kinesis data streams as a source. Create it with `kinesis`.

Delivery: each record once, by its sequence number in its shard, which the log has beside the record: reception continues after the
last record in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.connectors.queues.queue_log import Duration, QueueLog, Subscription, queue_options
from pipeline.connectors.spool.log_reader import RECEIVED_AT, log_naming
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError
from pipeline.core.extras import imports_of


@dataclass(frozen=True, kw_only=True)
class KinesisStream(QueueLog):
    """A data stream of Kinesis, with a partition for each shard. Create it with `kinesis`."""

    stream: str
    region: str
    endpoint: str | None = field(default=None, compare=False)

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "key", "sequence", "arrived_at")

    @property
    def uri(self) -> str:
        """The region, and the name of the stream."""
        return f"kinesis://{self.region}/{self.stream}"

    @property
    def partitions(self) -> tuple[str, ...]:
        """None: the shards are only known to the server."""
        return ()

    @contextmanager
    def subscription(self) -> Iterator[Subscription]:
        """Continue each shard after its last record in the log."""
        with imports_of("kinesis", "kinesis(…)"):
            from pipeline.connectors.queues.kinesis_client import KinesisSubscription  # noqa: PLC0415 - optional
        subscription = KinesisSubscription(self)
        try:
            yield subscription
        finally:
            subscription.close()


def kinesis(
    stream: str,
    *,
    region: str,
    endpoint: str | None = None,
    format: str = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    idle: Duration = "2 seconds",
    listen: Duration = "5 minutes",
    keep: Duration = "30 days",
    spool: str | None = None,
) -> KinesisStream:
    """Read the records of a Kinesis data stream; those of a shard are in their order, and a shard follows its parents.

    `headwater stream` receives records continuously; `headwater run` receives them until none has come for `idle`, for at most
    `listen`. Records are kept on disk below `spool` for `keep`, and reception continues after the last one there.

    `format` is `json` for objects, or `text` for a column `value`; `rename` maps names of fields to names of columns.
    `metadata` adds the columns `_key` (the partition key),
    `_sequence`, `_arrived_at` and `_received_at`. Credentials are those of the AWS SDK: the environment, its files, or the role
    of the machine. Raises `DefinitionError` for invalid options.
    """
    if not stream or not region:
        raise DefinitionError("a Kinesis source needs the name of a stream and a region")
    return KinesisStream(
        stream=stream,
        region=region,
        endpoint=endpoint,
        metadata=names(metadata),
        naming=log_naming(rename, KinesisStream.known_metadata),
        options=queue_options(format, idle, listen, keep),
        spool=spool,
    )
