"""Subscriptions of Google Cloud Pub/Sub as a source. Create it with `pubsub`.

Delivery: each message once: one that was stored and not acknowledged is delivered again, and recognized by the id that the server
has given it, among the last 200,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from pipeline.connectors.queues.queue_log import Duration, QueueLog, Subscription, queue_options
from pipeline.connectors.spool.log_reader import RECEIVED_AT, log_naming
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError
from pipeline.core.extras import imports_of

_PARTS = 4


@dataclass(frozen=True, kw_only=True)
class PubSubSubscription(QueueLog):
    """A subscription of Pub/Sub. Create it with `pubsub`."""

    name: str

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "id", "attributes", "published_at", "key")

    @property
    def uri(self) -> str:
        """The full name of the subscription."""
        return f"pubsub://{self.name}"

    @contextmanager
    def subscription(self) -> Iterator[Subscription]:
        """Connect; the subscription must exist."""
        with imports_of("pubsub", "pubsub(…)"):
            from pipeline.connectors.queues.pubsub_client import PubSubPuller  # noqa: PLC0415 - optional dependency
        puller = PubSubPuller(self)
        try:
            yield puller
        finally:
            puller.close()


def pubsub(
    subscription: str,
    *,
    format: str = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    idle: Duration = "5 seconds",
    listen: Duration = "1 minute",
    keep: Duration = "30 days",
    spool: str | None = None,
) -> PubSubSubscription:
    """Read the messages of a subscription, `projects/PROJECT/subscriptions/NAME`; no other client should use it.

    `headwater stream` receives messages continuously; `headwater run` receives them until none has come for `idle`, for at most
    `listen`. A message is on disk below `spool`, where it stays for `keep`, before it is acknowledged.

    `format` is `json` for objects, or `text` for a column `value`; `rename` maps names of fields to names of columns.
    `metadata` adds the columns `_id`, `_attributes`,
    `_published_at`, `_key` (the ordering key) and `_received_at`. Credentials are the application default ones of Google Cloud.
    Raises `DefinitionError` for invalid options.
    """
    parts = subscription.split("/")
    if len(parts) != _PARTS or parts[0] != "projects" or parts[2] != "subscriptions" or not parts[1] or not parts[3]:
        do = "write projects/PROJECT/subscriptions/NAME"
        raise DefinitionError("the name of a Pub/Sub subscription is not complete", got=repr(subscription), do=do)
    return PubSubSubscription(
        name=subscription,
        metadata=names(metadata),
        naming=log_naming(rename, PubSubSubscription.known_metadata),
        options=queue_options(format, idle, listen, keep),
        spool=spool,
    )
