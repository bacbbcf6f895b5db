"""MQTT as a source. Create it with `mqtt`.

Delivery: each message that the broker keeps for the session, at least once; twice only if the process ends between writing and
acknowledging it. MQTT has no ids by which such a message could be recognized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from pipeline.connectors.queues.queue_log import Duration, QueueLog, Subscription, queue_options
from pipeline.connectors.server_url import UrlForm
from pipeline.connectors.spool.log_reader import RECEIVED_AT, log_naming
from pipeline.core.credentials import secret
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError
from pipeline.core.extras import imports_of

_URLS = UrlForm("an MQTT broker", "mqtt://host:1883", "mqtts://host:8883")


@dataclass(frozen=True, kw_only=True)
class MqttTopics(QueueLog):
    """Topics of an MQTT broker. Create it with `mqtt`."""

    topics: tuple[str, ...]
    url: str
    client_id: str
    qos: int = 1
    user: str | None = field(default=None, compare=False)
    password: str | None = field(default=None, repr=False, compare=False)
    ca: str | None = field(default=None, compare=False)

    known_metadata: ClassVar[tuple[str, ...]] = (RECEIVED_AT, "topic", "retained")

    @property
    def uri(self) -> str:
        """The address of the broker, and the name of the session."""
        address = _URLS.address(self.url)
        return f"mqtt://{address.host}:{address.port}/{self.client_id}"

    @contextmanager
    def subscription(self) -> Iterator[Subscription]:
        """Connect with a session that the broker keeps."""
        with imports_of("mqtt", "mqtt(…)"):
            from pipeline.connectors.queues.mqtt_client import MqttSubscription  # noqa: PLC0415 - optional dependency
        password = None if self.password is None else secret(self.password, f"the password of {self.url}")
        subscription = MqttSubscription(self, _URLS.address(self.url), password)
        try:
            yield subscription
        finally:
            subscription.close()


def mqtt(
    topics: str | Sequence[str],
    *,
    client_id: str,
    url: str = "mqtt://127.0.0.1:1883",
    qos: int = 1,
    user: str | None = None,
    password: str | None = None,
    ca: str | None = None,
    format: str = "json",  # noqa: A002 - the usual name of the option
    metadata: str | Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
    idle: Duration = "2 seconds",
    listen: Duration = "1 minute",
    keep: Duration = "30 days",
    spool: str | None = None,
) -> MqttTopics:
    """Read the messages of MQTT topics, which may have wildcards, in the order in which they come.

    The broker keeps a session for `client_id`, which no other client may use: messages that are sent while no one listens are
    delivered later, as far as the broker keeps them. `headwater stream` receives messages continuously; `headwater run` receives
    them until none has come for `idle`, for at most `listen`. A message is on disk below `spool`, where it stays for `keep`,
    before it is acknowledged.

    `format` is `json` for objects, or `text` for a column `value`; `rename` maps names of fields to names of columns.
    `metadata` adds the columns `_topic`, `_retained` and
    `_received_at`. `url` is `mqtt://host:1883`, or `mqtts://` with TLS, for which `ca` is a file of authorities; `password` is a
    reference such as `env:MQTT_PASSWORD`. Raises `DefinitionError` for invalid options.
    """
    chosen = tuple(sorted(set(names(topics))))
    if not chosen or not client_id:
        raise DefinitionError("an MQTT source needs topics and the name of its session", do="pass client_id=")
    if qos not in {1, 2}:
        do = "use 1 or 2: with 0, the broker does not wait for an acknowledgement"
        raise DefinitionError("qos= must be 1 or 2", got=repr(qos), do=do)
    _URLS.require(url, ca)
    return MqttTopics(
        topics=chosen,
        url=url,
        client_id=client_id,
        qos=qos,
        user=user,
        password=password,
        ca=ca,
        metadata=names(metadata),
        naming=log_naming(rename, MqttTopics.known_metadata),
        options=queue_options(format, idle, listen, keep),
        spool=spool,
    )
