"""A subscription of a RabbitMQ queue, whose messages are acknowledged by the caller."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pika
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    AuthenticationError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from pipeline.connectors.certificates import trusting, untrusted
from pipeline.connectors.queues.queue_log import QueueMessage
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError

if TYPE_CHECKING:
    from pipeline.connectors.queues.rabbitmq_queue import RabbitQueue
    from pipeline.connectors.server_url import ServerAddress

_TIMEOUT_S = 20
_PREFETCH = 4000
_MOST = 2000
_MORE_S = 0.005
_NOT_FOUND, _REFUSED, _NOT_ALLOWED = 404, 403, 530


class RabbitSubscription:
    """A consumer of a queue."""

    def __init__(self, source: RabbitQueue, address: ServerAddress, password: str) -> None:
        """Connect; raise `SourceUnavailableError` or `SourceError` if that fails."""
        self._source, self._place = source, Place(source.uri)
        self._received: list[QueueMessage] = []
        self._connection: pika.BlockingConnection | None = None
        context = trusting(source.ca, self._place) if address.has_tls else None
        try:
            parameters = pika.ConnectionParameters(
                address.host,
                address.port,
                address.path or "/",
                pika.PlainCredentials(source.user, password),
                socket_timeout=_TIMEOUT_S,
                blocked_connection_timeout=_TIMEOUT_S,
                ssl_options=None if context is None else pika.SSLOptions(context, address.host),
            )
            self._connection = pika.BlockingConnection(parameters)
            self._channel = self._connection.channel()
            self._channel.basic_qos(prefetch_count=_PREFETCH)
            self._channel.basic_consume(source.queue, self._on_message)
        except (AMQPError, OSError) as error:
            self.close()
            raise self._translated(error) from error

    def close(self) -> None:
        """Disconnect; what was not acknowledged is delivered again."""
        if self._connection is not None:
            with suppress(AMQPError, OSError):  # it may have ended
                self._connection.close()

    def receive(self, timeout_s: float) -> Sequence[QueueMessage]:
        """Return the messages that have come; raise `SourceUnavailableError` if the connection is lost."""
        try:
            assert self._connection is not None  # noqa: S101 - it is connected
            self._connection.process_data_events(time_limit=timeout_s)
            before = 0
            while before < len(self._received) < _MOST:  # one flush of the disk serves all that are there
                before = len(self._received)
                self._connection.process_data_events(time_limit=_MORE_S)
            if not self._channel.is_open or not self._channel.consumer_tags:
                problem = "the RabbitMQ server does not deliver messages of the queue any more"
                raise SourceUnavailableError(problem, do="check that the queue exists", place=self._place)
        except (AMQPError, OSError) as error:
            raise self._translated(error) from error
        messages, self._received = self._received, []
        return messages

    def acknowledge(self, messages: Sequence[QueueMessage]) -> None:
        """Acknowledge all messages up to the last of these."""
        try:
            self._channel.basic_ack(messages[-1].token, multiple=True)
        except (AMQPError, OSError) as error:
            raise self._translated(error) from error

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        headers = {str(name): str(value) for name, value in (properties.headers or {}).items()}
        fields = {"id": properties.message_id, "routing_key": method.routing_key, "headers": headers}
        self._received.append(QueueMessage(body, fields, method.delivery_tag))

    def _translated(self, error: Exception) -> SourceError:
        inner: object = error
        while isinstance(inner, AMQPConnectionError) and inner.args and isinstance(inner.args[0], BaseException):
            inner = inner.args[0]
        code = getattr(error, "reply_code", None)
        got = message_of(inner) if isinstance(inner, BaseException) else str(inner)
        got = got or type(inner).__name__
        if isinstance(error, ChannelClosedByBroker) and code == _NOT_FOUND:
            return SourceError(f"the queue {self._source.queue!r} does not exist", got=got, place=self._place)
        refusals = ProbableAuthenticationError | ProbableAccessDeniedError | AuthenticationError
        is_closed = isinstance(error, ChannelClosedByBroker | ConnectionClosedByBroker)
        if isinstance(inner, refusals) or (is_closed and code in {_REFUSED, _NOT_ALLOWED}):
            do = "check user=, password= and the permissions"
            return SourceError("RabbitMQ refuses the user", got=got, do=do, place=self._place)
        if (untrusted_server := untrusted(error, self._place)) is not None:
            return untrusted_server
        problem, do = "the RabbitMQ server does not answer", "check url="
        return SourceUnavailableError(problem, got=got, do=do, place=self._place)
