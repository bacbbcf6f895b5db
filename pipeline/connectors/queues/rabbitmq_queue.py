"""Queues of RabbitMQ as a source. Create it with `rabbitmq_queue`.

Delivery: each message at least once, and once if its publisher sets `message_id`: a message that was stored and not acknowledged
is delivered again, and recognized by this id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import quote

from pipeline.connectors.queues.queue_log import Duration, QueueLog, Subscription, queue_options
from pipeline.connectors.server_url import UrlForm
from pipeline.connectors.spool.log_reader import RECEIVED_AT, log_naming
from pipeline.core.credentials import secret
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError
from pipeline.core.extras import imports_of

_URLS = UrlForm("a RabbitMQ server", "amqp://host:5672/", "amqps://host:5671/")


@dataclass(frozen=True, kw_only=True)
class RabbitQueue(QueueLog):
    """A queue of a RabbitMQ server. Create it with `rabbitmq_queue`."""

    queue: str
    url: str
    user: str = field(default="guest", compare=False)
    password: str = field(default="guest", repr=False, compare=False)
    ca: str | None = field(default=None, compare=False)

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "id", "routing_key", "headers")

    @property
    def uri(self) -> str:
        """The address of the server, and the name of the queue."""
        address = _URLS.address(self.url)
        return f"amqp://{address.host}:{address.port}/{quote(address.path, safe='')}#{self.queue}"

    @contextmanager
    def subscription(self) -> Iterator[Subscription]:
        """Connect to the queue, which must exist."""
        with imports_of("rabbitmq", "rabbitmq_queue(…)"):
            from pipeline.connectors.queues.rabbitmq_client import RabbitSubscription  # noqa: PLC0415 - optional
        password = secret(self.password, f"the password of {self.url}")
        subscription = RabbitSubscription(self, _URLS.address(self.url), password)
        try:
            yield subscription
        finally:
            subscription.close()


def rabbitmq_queue(
    queue: str,
    *,
    url: str = "amqp://127.0.0.1:5672/",
    user: str = "guest",
    password: str = "guest",  # noqa: S107 - the default of RabbitMQ, which is only accepted on the same machine
    ca: str | None = None,
    format: str = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    idle: Duration = "2 seconds",
    listen: Duration = "1 minute",
    keep: Duration = "30 days",
    spool: str | None = None,
) -> RabbitQueue:
    """Read the messages of a classic or quorum queue of RabbitMQ, in the order in which they come; they leave the queue.

    `headwater stream` receives messages continuously; `headwater run` receives them until none has come for `idle`, for at most
    `listen`. A message is on disk below `spool`, where it stays for `keep`, before it is acknowledged. One whose `message_id` was
    received before is acknowledged without being stored again.

    `format` is `json` for objects, or `text` for a column `value`; `rename` maps names of fields to names of columns.
    `metadata` adds the columns `_id`, `_routing_key`, `_headers`
    and `_received_at`. `url` is `amqp://host:5672/vhost`, or `amqps://` with TLS, for which `ca` is a file of authorities;
    `password` is a reference such as `env:RABBITMQ_PASSWORD`. Raises `DefinitionError` for invalid options.
    """
    if not queue:
        raise DefinitionError("a RabbitMQ source needs the name of a queue")
    _URLS.require(url, ca)
    return RabbitQueue(
        queue=queue,
        url=url,
        user=user,
        password=password,
        ca=ca,
        metadata=names(metadata),
        naming=log_naming(rename, RabbitQueue.known_metadata),
        options=queue_options(format, idle, listen, keep),
        spool=spool,
    )
