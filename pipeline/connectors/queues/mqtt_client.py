"""A subscription of an MQTT broker, whose messages are acknowledged by the caller."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from pipeline.connectors.certificates import trusting, untrusted
from pipeline.connectors.queues.queue_log import QueueMessage
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError

if TYPE_CHECKING:
    from pipeline.connectors.queues.mqtt import MqttTopics
    from pipeline.connectors.server_url import ServerAddress

_TIMEOUT_S = 20
_MOST = 1000
_REFUSED = {
    "Bad user name or password",
    "Not authorized",
    "Client identifier not valid",
    "Unsupported protocol version",
}
_FAILED = 0x80


class MqttSubscription:
    """A connection of a session that the broker keeps. A thread of the client receives messages."""

    def __init__(self, source: MqttTopics, address: ServerAddress, password: str | None) -> None:
        """Connect and subscribe; raise `SourceUnavailableError` or `SourceError` if that fails."""
        self._source, self._place = source, Place(source.uri)
        self._messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self._answered, self._problem, self._is_refused, self._lost = threading.Event(), "", False, ""
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, source.client_id, clean_session=False, protocol=paho.MQTTv311, manual_ack=True
        )
        self._client.on_connect, self._client.on_subscribe = self._on_connect, self._on_subscribe
        self._client.on_message, self._client.on_disconnect = self._on_message, self._on_disconnect
        self._client.connect_timeout = _TIMEOUT_S
        if source.user is not None:
            self._client.username_pw_set(source.user, password)
        context = trusting(source.ca, self._place) if address.has_tls else None
        try:
            if context is not None:
                _require_trusted(context, address)
                self._client.tls_set_context(context)
            self._client.connect(address.host, address.port)
        except (OSError, ValueError) as error:
            if (untrusted_server := untrusted(error, self._place)) is not None:
                raise untrusted_server from error
            problem = "the MQTT broker does not answer"
            raise SourceUnavailableError(problem, got=message_of(error), do="check url=", place=self._place) from error
        self._client.loop_start()
        self._await_subscription()

    def _await_subscription(self) -> None:
        if self._answered.wait(_TIMEOUT_S) and not self._problem:
            return
        self.close()
        if self._is_refused:
            do = "check user=, password= and the permissions"
            raise SourceError("the MQTT broker refuses the client", got=self._problem, do=do, place=self._place)
        got = self._problem or self._lost or f"nothing for {_TIMEOUT_S} s"
        raise SourceUnavailableError("the MQTT broker does not answer", got=got, do="check url=", place=self._place)

    def close(self) -> None:
        """Disconnect; what was not acknowledged is delivered again to the next connection."""
        self._client.disconnect()
        self._client.loop_stop()

    def receive(self, timeout_s: float) -> Sequence[QueueMessage]:
        """Return the messages that have come; raise `SourceUnavailableError` if the connection is lost."""
        try:
            messages = [self._messages.get(timeout=timeout_s)]
        except queue.Empty:
            if self._lost:
                problem = "the connection to the MQTT broker was lost"
                raise SourceUnavailableError(problem, got=self._lost, place=self._place) from None
            return []
        while len(messages) < _MOST and not self._messages.empty():
            messages.append(self._messages.get_nowait())
        return [
            QueueMessage(bytes(each.payload), {"topic": each.topic, "retained": bool(each.retain)}, each)
            for each in messages
        ]

    def acknowledge(self, messages: Sequence[QueueMessage]) -> None:
        """Acknowledge messages in their order."""
        for each in messages:
            if each.token.qos:
                self._client.ack(each.token.mid, each.token.qos)

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._fail(str(reason), is_refused=str(reason) in _REFUSED)
            return
        client.subscribe([(topic, self._source.qos) for topic in self._source.topics])

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: Any, _properties: Any) -> None:
        refused = [t for t, reason in zip(self._source.topics, reasons, strict=False) if reason.value >= _FAILED]
        if refused:
            self._fail(f"no permission to read {refused[0]!r}", is_refused=True)
        self._answered.set()

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._messages.put(message)

    def _on_disconnect(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.value != MQTTErrorCode.MQTT_ERR_SUCCESS:
            self._lost = str(reason)
            client.disconnect()  # the receiver connects again, so that what was not acknowledged comes in order

    def _fail(self, problem: str, *, is_refused: bool) -> None:
        self._problem, self._is_refused = problem, is_refused
        self._answered.set()


def _require_trusted(context: ssl.SSLContext, address: ServerAddress) -> None:
    """Raise the error of a handshake that fails: the client would not close the connection."""
    with (
        socket.create_connection((address.host, address.port), _TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=address.host),
    ):
        pass
