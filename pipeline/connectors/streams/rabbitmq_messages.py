"""Collects messages of RabbitMQ as columns."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pyarrow as pa

from pipeline.connectors.kafka.value_formats import FETCHED, VALUE
from pipeline.connectors.streams.amqp_messages import AmqpMessage, MessageError, decode
from pipeline.connectors.streams.rabbitmq_frames import Chunk, FrameError
from pipeline.core.sources import POSITION


class MessageColumns:
    """The columns of some messages. One that is not valid AMQP has no value."""

    def __init__(self, *, has_headers: bool) -> None:
        """Begin without messages."""
        self._has_headers = has_headers
        self._values: list[bytes | None] = []
        self._headers: list[tuple[tuple[str, bytes], ...]] = []
        self._positions: list[np.ndarray] = []
        self._times: list[np.ndarray] = []

    def add(self, chunk: Chunk, begin: int, end: int) -> None:
        """Add those of a chunk's messages whose offsets are in a range; raise `FrameError` if it cannot be read."""
        first, after = max(begin, chunk.first), min(end, chunk.end)
        try:
            messages = list(chunk.messages())
        except (IndexError, struct.error, zlib.error, OSError) as error:
            raise FrameError(f"a chunk of messages is not valid: {error}") from error
        if len(messages) != chunk.count:
            raise FrameError(f"a chunk has {len(messages)} messages, not {chunk.count}")
        decoded = [self._decoded(each) for each in messages[first - chunk.first : after - chunk.first]]
        self._values += [each.body for each in decoded]
        if self._has_headers:
            self._headers += [each.headers for each in decoded]
        self._positions.append(np.arange(first, first + len(decoded), dtype=np.int64))
        self._times.append(np.full(len(decoded), chunk.timestamp_ms * 1000, dtype=np.int64))

    def _decoded(self, message: bytes) -> AmqpMessage:
        try:
            return decode(message, headers=self._has_headers)
        except MessageError:
            return AmqpMessage(None)

    def table(self) -> pa.Table:
        """Return the columns."""
        none = [np.zeros(0, dtype=np.int64)]
        columns = {
            VALUE: pa.array(self._values, pa.binary()),
            POSITION: pa.array(np.concatenate(self._positions or none)),
            "_timestamp": pa.array(np.concatenate(self._times or none)).cast(FETCHED["_timestamp"]),
        }
        if self._has_headers:
            columns["_headers"] = pa.array([list(each) for each in self._headers], FETCHED["_headers"])
        return pa.table(columns)
