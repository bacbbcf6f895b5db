"""A Kafka topic as a sink.

Delivery: exactly once for readers of committed records: the rows of a version and its number are in one transaction.

The version number is a record in a compacted topic that only this sink writes. It is not an offset of a consumer group:
brokers expire those a week after the last commit, and the sink would start over. The name of the sink is its
transactional id, so of two processes that send, the later one fences the other.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from pipeline.connectors.json_rows import keys, texts
from pipeline.core.definitions import names
from pipeline.core.errors import ConflictError, DefinitionError, HeadwaterError, OutcomeUnknownError, SinkError
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition, is_delivered, require_deletable

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, KafkaException, Message

SERVERS = "HEADWATER_KAFKA_SERVERS"
_PATIENCE_S = 30.0
_FIRST_S = 5.0
"""After this time without an answer, it is determined whether the brokers reject the client."""
_REJECTED = "Kafka rejects the client"
_POLL_S = 0.1
_LOG = logging.getLogger("headwater.kafka")
_LOG.addHandler(logging.NullHandler())
_POSITION_TOPIC_SETTINGS = {"cleanup.policy": "compact", "segment.bytes": str(1 << 20), "segment.ms": "3600000"}
"""Settings of the topic of version numbers; it is read completely at the start, so it is kept short."""


class Security(Protocol):
    """Authentication of the client; see `pipeline.connectors.kafka`."""

    def options(self) -> Mapping[str, str]:
        """Return the client's settings."""


@dataclass(frozen=True)
class ToKafka:
    """A topic. Create it with `to_kafka`."""

    topic: str
    servers: str | None
    key: tuple[str, ...] = ()
    security: Security | None = None
    transaction_s: float = 60.0

    def open(self, context: SinkContext) -> KafkaTarget:
        """Fence earlier writers with this name, and read the last version that was sent.

        Raises `SinkError` if the brokers do not answer or the topic does not exist, and `DefinitionError` if no
        bootstrap servers are configured.
        """
        if find_spec("confluent_kafka") is None:
            raise SinkError(
                "Kafka support is not installed", got="confluent_kafka", do="pip install 'headwater[kafka]'"
            )
        return KafkaTarget(self, re.sub(r"[^A-Za-z0-9._-]", "-", context.id))

    def options(self) -> dict[str, str | int | float | bool]:
        """Return the client's settings."""
        servers = self.servers or os.environ.get(SERVERS)
        if not servers:
            raise DefinitionError("no Kafka bootstrap servers are configured", do=f"pass servers=, or set {SERVERS}")
        return {"bootstrap.servers": servers, **({} if self.security is None else self.security.options())}

    def __str__(self) -> str:
        """Return the topic."""
        return f"Kafka topic {self.topic}"


def to_kafka(
    topic: str,
    *,
    servers: str | None = None,
    key: str | Sequence[str] = (),
    security: Security | None = None,
    transaction_s: float = 60.0,
) -> ToKafka:
    """Send rows as JSON objects to an existing topic, exactly once for readers of committed records.

    `key` is the column of the record key, or several columns, sent as a JSON array. If it is the key of the table, a
    deleted row is sent as a record without a value; otherwise, tables that delete rows are rejected. A version must be
    sent within `transaction_s`, which also limits how long a crashed process can block readers.
    """
    return ToKafka(topic, servers, names(key), security, transaction_s)


@dataclass
class _SentBatch:
    """Collects the delivery reports of a transaction's records."""

    error: KafkaError | None = None

    def on_delivery(self, error: KafkaError | None, message: Message) -> None:
        del message
        self.error = self.error or error


@dataclass
class KafkaTarget:
    """A transactional producer for one topic."""

    to: ToKafka
    id: str
    _reached: SinkPosition | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Fence earlier producers, then read the last version number: none can be added after that."""
        from confluent_kafka import KafkaException, Producer  # noqa: PLC0415 - optional dependency

        try:
            self._require_topics()
            self._producer = Producer(
                {
                    **self.to.options(),
                    "transactional.id": self.id,
                    "transaction.timeout.ms": int(self.to.transaction_s * 1000),
                    "linger.ms": 5,
                    "queue.buffering.max.kbytes": 64 << 10,
                    "compression.type": "lz4",
                },
                logger=_LOG,
            )
            self._producer.init_transactions(_PATIENCE_S)
            self._reached = self._last_position()
        except KafkaException as error:
            raise self._translated(error) from error

    @property
    def position_topic(self) -> str:
        """The topic of version numbers."""
        return f"{self.id}.reached"

    def reached(self) -> SinkPosition | None:
        """Return the version of the last transaction."""
        return self._reached

    def write(self, delivery: Delivery) -> None:
        """Send rows and version in one transaction."""
        from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - optional dependency

        if is_delivered(delivery, self._reached):
            return
        require_deletable(self.to.key, delivery)
        if delivery.is_whole and delivery.since is not None:
            raise SinkError(
                "the changes of the table can no longer be determined, and sent records cannot be taken back",
                got=f"version {delivery.to.version} after {delivery.since.version}",
                do="create a sink with a new name and topic",
            )
        sent = _SentBatch()
        try:
            self._producer.begin_transaction()
            try:
                self._send(delivery, sent)
                self._commit()
            except BaseException as error:
                cause = self._abort()
                if (
                    cause is not None
                    and isinstance(error, KafkaException)
                    and error.args[0].code() == KafkaError._FATAL  # noqa: SLF001 - an internal code of the client
                ):
                    raise cause from error  # `produce` only reports that the producer failed; this raises the cause
                raise
        except KafkaException as error:
            raise self._translated(error, sent.error) from error
        self._reached = delivery.to

    def close(self) -> None:
        """Disconnect from the brokers, ignoring errors of a fenced producer."""
        from confluent_kafka import KafkaException  # noqa: PLC0415 - optional dependency

        with suppress(KafkaException):
            self._producer.close()

    def _send(self, delivery: Delivery, sent: _SentBatch) -> None:
        if delivery.gone.num_rows:
            self._produce(self.to.topic, keys(delivery.gone, self.to.key), None, sent)
        for row_keys, rows in texts(delivery.rows, delivery.rows.schema, self.to.key):
            self._produce(self.to.topic, row_keys, rows, sent)
        self._produce(self.position_topic, [self.id], [delivery.to.to_json()], sent)

    def _produce(
        self, topic: str, row_keys: Sequence[str | None], rows: Sequence[str] | None, sent: _SentBatch
    ) -> None:
        for number, key in enumerate(row_keys):
            while True:
                try:
                    self._producer.produce(
                        topic, None if rows is None else rows[number], key, on_delivery=sent.on_delivery
                    )
                    break
                except BufferError:
                    self._producer.poll(_POLL_S)
            if sent.error is not None:
                from confluent_kafka import KafkaException  # noqa: PLC0415 - optional dependency

                raise KafkaException(sent.error)
        self._producer.poll(0)

    def _commit(self) -> None:
        from confluent_kafka import KafkaException  # noqa: PLC0415 - optional dependency
        from tenacity import Retrying, retry_if_exception, stop_after_delay  # noqa: PLC0415 - optional dependency

        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, KafkaException) and error.args[0].retriable()),
            stop=stop_after_delay(self.to.transaction_s + _PATIENCE_S),
            reraise=True,
        )
        try:
            retrying(self._producer.commit_transaction, _PATIENCE_S)
        except KafkaException as error:
            if not error.args[0].retriable():
                raise
            raise OutcomeUnknownError(
                "the outcome of a Kafka transaction is unknown", got=error.args[0].str()
            ) from error

    def _abort(self) -> KafkaException | None:
        """Abort the transaction; return the error if that fails."""
        from confluent_kafka import KafkaException  # noqa: PLC0415 - optional dependency

        try:
            self._producer.abort_transaction(_PATIENCE_S)
        except KafkaException as error:
            return error
        return None

    def _require_topics(self) -> None:
        """Create the topic of version numbers, and check that the target topic exists."""
        from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415 - optional dependency
        from confluent_kafka.admin import AdminClient  # noqa: PLC0415 - optional dependency
        from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415 - optional dependency

        admin = AdminClient(self.to.options(), logger=_LOG)
        try:
            known = admin.list_topics(timeout=_FIRST_S).topics
        except KafkaException as error:
            translated = self._translated(error)
            if translated.problem.startswith(_REJECTED):
                raise translated from error
            known = admin.list_topics(timeout=_PATIENCE_S - _FIRST_S).topics
        if self.to.topic not in known:
            raise SinkError(f"the Kafka topic {self.to.topic!r} does not exist", do="create it")
        if self.position_topic in known:
            return
        try:
            admin.create_topics(
                [NewTopic(self.position_topic, 1, -1, config=_POSITION_TOPIC_SETTINGS)], operation_timeout=_PATIENCE_S
            )[self.position_topic].result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def _last_position(self) -> SinkPosition | None:
        """Return the last committed version number; no transaction of this sink is still open."""
        from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition  # noqa: PLC0415 - optional dependency

        consumer = Consumer(
            {
                **self.to.options(),
                "group.id": self.id,  # required; no group is joined, no offset is committed
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 10,
            },
            logger=_LOG,
        )
        position, until = None, time.monotonic() + _PATIENCE_S
        try:
            consumer.assign([TopicPartition(self.position_topic, 0, 0)])
            while time.monotonic() < until:
                for message in consumer.consume(10_000, _POLL_S):
                    error, value = message.error(), message.value()
                    if error is None and value is not None:
                        position, until = SinkPosition.from_json(value), time.monotonic() + _PATIENCE_S
                    elif error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - an internal code of the client
                        return position
                    elif error is not None and not error.retriable():
                        raise KafkaException(error)
        finally:
            consumer.close()
        raise SinkError(
            f"the topic {self.position_topic!r} cannot be read",
            got=f"no answer in {_PATIENCE_S:g} s",
            do="check the brokers",
        )

    def _translated(self, error: KafkaException, cause: KafkaError | None = None) -> HeadwaterError:
        from confluent_kafka import KafkaError  # noqa: PLC0415 - optional dependency

        from pipeline.connectors.kafka.rejections import probe  # noqa: PLC0415 - likewise

        kafka_error: KafkaError = error.args[0]
        if kafka_error.code() in {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}:  # noqa: SLF001
            return ConflictError(
                f"another process sends to {self.to}, or this one exceeded its transaction timeout",
                got=kafka_error.str(),
                do="run one sender; it delivers what is outstanding",
            )
        rejection = probe(self.to.options()) if kafka_error.retriable() or kafka_error.code() < 0 else None
        if rejection is not None:
            return SinkError(f"{_REJECTED} of {self.to}", got=rejection.got, do=rejection.do)
        message = (
            kafka_error.str()
            if cause is None or cause.code() == kafka_error.code()
            else f"{cause.str()} ({kafka_error.str()})"
        )
        return SinkError(
            f"{self.to} does not accept the rows", got=message, do="check servers=, security= and the topic"
        )
