"""Batches of messages as columns, and the consumers that fetch them: through librdkafka's C interface, or in Python.

`native.py` is the faster one, but it needs functions that some builds of confluent-kafka do not export.
`PythonConsumer` returns the same columns through the public interface, at about three times the CPU time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from pipeline.core.errors import SourceError

PlaceCodes = npt.NDArray[np.int64]

_LOG = logging.getLogger("headwater.kafka")


@dataclass(frozen=True)
class MessageFault:
    """An error that the client delivered instead of a record."""

    code: int
    text: str
    topic: str
    partition: int
    offset: int


class MessageBatch(Protocol):
    """The records of a batch as columns of equal length, in fetch order, and the errors of the batch."""

    @property
    def faults(self) -> Sequence[MessageFault]:
        """The errors."""

    @property
    def topics(self) -> Sequence[str]:
        """The topics of the records."""

    @property
    def places(self) -> PlaceCodes:
        """For each record, the index into `topics` in the upper 32 bits and the partition in the lower 32 bits."""

    def __len__(self) -> int:
        """Return the number of records."""

    def values(self) -> pa.ChunkedArray:
        """Return the values (BINARY)."""

    def keys(self) -> pa.ChunkedArray:
        """Return the keys (BINARY)."""

    def offsets(self) -> pa.Array:
        """Return the offsets (BIGINT)."""

    def timestamps(self) -> pa.Array:
        """Return the timestamps, to the millisecond (TIMESTAMP, microseconds, UTC)."""

    def headers(self) -> pa.Array:
        """Return the headers (MAP of VARCHAR to BINARY); the last value wins if a name is repeated."""


class MessageConsumer(Protocol):
    """A consumer without a consumer group; not thread-safe."""

    def add(self, offsets: Sequence[tuple[str, int, int]]) -> None:
        """Start reading partitions, given as topic, number and first offset; raise `SourceError` if rejected."""

    def batch(self, rows: int, wait_s: float) -> AbstractContextManager[MessageBatch | None]:
        """Yield at most `rows` messages that arrive within `wait_s`, valid inside the context; None if none arrive."""

    def close(self) -> None:
        """Disconnect from the brokers and free all memory."""


class PythonMessageBatch:
    """See `MessageBatch`."""

    def __init__(self, messages: Sequence[Message]) -> None:
        """Separate errors from records."""
        self.faults = [_fault(message) for message in messages if message.error() is not None]
        self._records = [message for message in messages if message.error() is None]
        self.topics = sorted({_topic(record) for record in self._records})
        codes = {topic: code << 32 for code, topic in enumerate(self.topics)}
        places = (codes[_topic(record)] | (record.partition() or 0) for record in self._records)
        self.places: PlaceCodes = np.fromiter(places, np.int64, len(self._records))

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._records)

    def values(self) -> pa.ChunkedArray:
        """Return the values."""
        return _binary([record.value() for record in self._records])

    def keys(self) -> pa.ChunkedArray:
        """Return the keys."""
        return _binary([record.key() for record in self._records])

    def offsets(self) -> pa.Array:
        """Return the offsets."""
        return pa.array([record.offset() for record in self._records], pa.int64())

    def timestamps(self) -> pa.Array:
        """Return the timestamps."""
        return pa.array([record.timestamp()[1] * 1000 for record in self._records], pa.timestamp("us", tz="UTC"))

    def headers(self) -> pa.Array:
        """Return the headers."""
        pairs = [list(dict(record.headers() or ()).items()) for record in self._records]
        return pa.array(pairs, pa.map_(pa.string(), pa.binary()))


class PythonConsumer:
    """See `MessageConsumer`."""

    def __init__(self, options: Mapping[str, str], on_error: Callable[[int, str], None]) -> None:
        """Create the consumer; `on_error` receives errors that concern no partition. Raises `SourceError`."""
        try:
            self._consumer = Consumer(
                {**options, "error_cb": lambda error: on_error(error.code(), error.str())}, logger=_LOG
            )
        except KafkaException as error:
            raise SourceError("Kafka's client cannot be set up", got=_text(error)) from error

    def add(self, offsets: Sequence[tuple[str, int, int]]) -> None:
        """See `MessageConsumer.add`."""
        try:
            self._consumer.incremental_assign([TopicPartition(*partition) for partition in offsets])
        except KafkaException as error:
            raise SourceError("Kafka's client cannot read the partitions", got=_text(error)) from error

    @contextmanager
    def batch(self, rows: int, wait_s: float) -> Iterator[PythonMessageBatch | None]:
        """See `MessageConsumer.batch`."""
        messages = self._consumer.consume(rows, wait_s)
        yield PythonMessageBatch(messages) if messages else None

    def close(self) -> None:
        """Disconnect from the brokers; idempotent."""
        self._consumer.close()


def _fault(message: Message) -> MessageFault:
    error = message.error()
    if error is None:
        raise TypeError("the message is a record, not an error")
    offset = message.offset()
    return MessageFault(
        error.code(), error.str(), _topic(message), message.partition() or 0, -1 if offset is None else offset
    )


def _topic(message: Message) -> str:
    return message.topic() or ""


def _binary(values: Sequence[bytes | str | None]) -> pa.ChunkedArray:
    array = pa.array(values, pa.binary())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _text(error: KafkaException) -> str:
    reason = error.args[0]
    return str(reason.str()) if isinstance(reason, KafkaError) else str(reason)
