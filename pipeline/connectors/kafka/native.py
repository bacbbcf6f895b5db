"""Reads messages through librdkafka's C interface: a batch as columns, without a Python object per message.

The Python client creates an object for each message, which costs more than all later processing. The message of the C
interface is a public struct with a stable layout: the structs of a batch are gathered by address, and the values are
copied into one Arrow array in one pass. Measured: a third of the CPU time of `messages.PythonConsumer`, which is used
if a build does not export the functions (see `is_available`).
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import cimpl

from pipeline.connectors.kafka.messages import MessageFault
from pipeline.core.errors import SourceError
from pipeline.core.logs import logger

log = logger(__name__)
Words = npt.NDArray[np.int64]

_POINTER, _TEXT, _SIZE, _INT = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int
_CONSUMER = 1
_MESSAGE_BYTES = 512
_MESSAGE_WORDS = 9
_ERR, _TOPIC, _PARTITION, _VALUE, _VALUE_BYTES, _KEY, _KEY_BYTES, _OFFSET = range(8)
_INLINE_BYTES = 12
"""Values up to this length are stored inside the Arrow view itself."""
_WINDOW_BITS = 30
_WINDOW_BYTES = (1 << 31) - 1
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "conf_new": (_POINTER,),
    "conf_set": (_INT, _POINTER, _TEXT, _TEXT, _TEXT, _SIZE),
    "conf_set_error_cb": (None, _POINTER, _POINTER),
    "conf_set_log_cb": (None, _POINTER, _POINTER),
    "conf_destroy": (None, _POINTER),
    "new": (_POINTER, _INT, _POINTER, _TEXT, _SIZE),
    "poll_set_consumer": (_INT, _POINTER),
    "queue_get_consumer": (_POINTER, _POINTER),
    "queue_destroy": (None, _POINTER),
    "topic_partition_list_new": (_POINTER, _INT),
    "topic_partition_list_add": (_POINTER, _POINTER, _TEXT, ctypes.c_int32),
    "topic_partition_list_set_offset": (_INT, _POINTER, _TEXT, ctypes.c_int32, ctypes.c_int64),
    "topic_partition_list_destroy": (None, _POINTER),
    "incremental_assign": (_POINTER, _POINTER, _POINTER),
    "error_string": (_TEXT, _POINTER),
    "error_destroy": (None, _POINTER),
    "consume_batch_queue": (ctypes.c_ssize_t, _POINTER, _INT, _POINTER, _SIZE),
    "consumer_close": (_INT, _POINTER),
    "destroy": (None, _POINTER),
}
_SHORT_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "message_destroy": (None, _POINTER),
    "message_timestamp": (ctypes.c_int64, _POINTER, _POINTER),
    "message_headers": (_INT, _POINTER, _POINTER),
    "header_get_all": (_INT, _POINTER, _SIZE, _POINTER, _POINTER, _POINTER),
    "topic_name": (_TEXT, _POINTER),
    "err2str": (_TEXT, _INT),
}
"""Non-blocking functions: they are called without releasing the GIL, which halves the cost of a call."""
_ErrorCallback = ctypes.CFUNCTYPE(None, _POINTER, _INT, _TEXT, _POINTER)


class NativeMessageBatch:
    """Messages in librdkafka's memory, valid until the context of `NativeConsumer.batch` ends."""

    def __init__(self, pointers: npt.NDArray[np.uint64]) -> None:
        """Gather the messages at these addresses."""
        words = _gathered(pointers)
        errors = words[:, _ERR].astype(np.int32)
        self.faults = [_fault(words[at], int(errors[at])) for at in np.flatnonzero(errors)]
        is_sound = errors == 0
        self._words = words if not self.faults else words[is_sound]
        self._pointers = pointers if not self.faults else pointers[is_sound]
        handles, codes = _distinct(self._words[:, _TOPIC])
        self.topics = [_name(int(handle)) for handle in handles]
        self.places: Words = (codes << 32) | self._words[:, _PARTITION].astype(np.int32)
        """For each message, the index into `topics` in the upper 32 bits and the partition in the lower 32 bits."""

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._words)

    def values(self) -> pa.ChunkedArray:
        """Return the values."""
        return _copied(self._words[:, _VALUE], self._words[:, _VALUE_BYTES])

    def keys(self) -> pa.ChunkedArray:
        """Return the keys."""
        return _copied(self._words[:, _KEY], self._words[:, _KEY_BYTES])

    def offsets(self) -> pa.Array:
        """Return the offsets."""
        return pa.array(np.ascontiguousarray(self._words[:, _OFFSET]))

    def timestamps(self) -> pa.Array:
        """Return the timestamps, to the millisecond."""
        get, kind = library().message_timestamp, ctypes.byref(ctypes.c_int())
        milliseconds = np.fromiter((get(p, kind) for p in self._pointers.tolist()), np.int64, len(self))
        return pa.array(milliseconds * 1000, pa.timestamp("us", tz="UTC"))

    def headers(self) -> pa.Array:
        """Return the headers; the last value wins if a name is repeated."""
        pairs = [list(dict(_headers(p)).items()) for p in self._pointers.tolist()]
        return pa.array(pairs, pa.map_(pa.string(), pa.binary()))


class NativeConsumer:
    """A consumer without a consumer group; not thread-safe."""

    def __init__(self, options: Mapping[str, str], on_error: Callable[[int, str], None]) -> None:
        """Create the consumer; `on_error` receives errors that concern no partition. Raises `SourceError`."""
        lib = library()
        self._on_error = _ErrorCallback(lambda _, code, text, __: on_error(code, text.decode(errors="replace")))
        message = ctypes.create_string_buffer(_MESSAGE_BYTES)
        conf = lib.conf_new()
        for name, value in options.items():
            if lib.conf_set(conf, name.encode(), value.encode(), message, _MESSAGE_BYTES):
                lib.conf_destroy(conf)
                raise SourceError("Kafka's client cannot be set up", got=message.value.decode(errors="replace"))
        lib.conf_set_error_cb(conf, self._on_error)
        lib.conf_set_log_cb(conf, None)
        self._handle = lib.new(_CONSUMER, conf, message, _MESSAGE_BYTES)
        if not self._handle:
            lib.conf_destroy(conf)
            raise SourceError("Kafka's client cannot be set up", got=message.value.decode(errors="replace"))
        lib.poll_set_consumer(self._handle)
        self._queue = lib.queue_get_consumer(self._handle)

    def add(self, offsets: Sequence[tuple[str, int, int]]) -> None:
        """Start reading partitions, given as topic, number and first offset."""
        lib = library()
        chosen = lib.topic_partition_list_new(len(offsets))
        for topic, number, offset in offsets:
            lib.topic_partition_list_add(chosen, topic.encode(), number)
            lib.topic_partition_list_set_offset(chosen, topic.encode(), number, offset)
        error = lib.incremental_assign(self._handle, chosen)
        lib.topic_partition_list_destroy(chosen)
        if error:
            message = lib.error_string(error).decode(errors="replace")
            lib.error_destroy(error)
            raise SourceError("Kafka's client cannot read the partitions", got=message)

    @contextmanager
    def batch(self, rows: int, wait_s: float) -> Iterator[NativeMessageBatch | None]:
        """Yield at most `rows` messages that arrive within `wait_s` seconds; None if none arrive."""
        lib = library()
        pointers = np.empty(rows, np.uint64)
        count = lib.consume_batch_queue(self._queue, int(wait_s * 1000), pointers.ctypes.data, rows)
        if count < 0:
            time.sleep(wait_s)  # an error returns immediately: avoid a busy loop
        received = pointers[: max(0, count)]
        try:
            yield NativeMessageBatch(received) if len(received) else None
        finally:
            destroy = lib.message_destroy
            for pointer in received.tolist():
                destroy(pointer)

    def close(self) -> None:
        """Disconnect from the brokers and free all memory."""
        lib = library()
        if self._handle:
            lib.queue_destroy(self._queue)
            lib.consumer_close(self._handle)
            lib.destroy(self._handle)
            self._handle = None


@functools.cache
def is_available() -> bool:
    """Return whether all functions of the C interface are available; log the missing one otherwise."""
    try:
        library()
    except (AttributeError, OSError) as error:
        log.warning("Kafka is read through the slower client in Python: this build hides librdkafka", error=str(error))
        return False
    return True


@functools.cache
def library() -> Any:
    """Return the functions of the librdkafka that the Python client is linked to."""
    library = type("Library", (), {})
    for load, functions in ((ctypes.CDLL, FUNCTIONS), (ctypes.PyDLL, _SHORT_FUNCTIONS)):
        linked = load(cimpl.__file__)
        for name, (result, *arguments) in functions.items():
            function = getattr(linked, f"rd_kafka_{name}")
            function.restype, function.argtypes = result, arguments
            setattr(library, name, staticmethod(function))
    return library


def _gathered(pointers: npt.NDArray[np.uint64]) -> Words:
    """Return the nine words of each message struct, without reading the memory between them."""
    base = int(pointers.min())
    steps = ((pointers - np.uint64(base)) >> np.uint64(3)).astype(np.int64)
    span = int(steps.max()) + _MESSAGE_WORDS
    view: Words = np.frombuffer(memoryview((ctypes.c_int64 * span).from_address(base)), np.int64)
    words: Words = view[steps[:, None] + np.arange(_MESSAGE_WORDS)]
    return words


def _copied(starts: Words, lengths: Words) -> pa.ChunkedArray:
    """Copy the bytes at the given addresses into an Arrow array; null where the address is null."""
    ends = np.cumsum(lengths)
    if len(ends) and ends[-1] > _WINDOW_BYTES and len(ends) > 1:  # exceeds the 32-bit offsets of one array
        half = len(starts) // 2
        parts = (_copied(starts[:half], lengths[:half]), _copied(starts[half:], lengths[half:]))
        return pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.binary())
    views = np.zeros((len(starts), 4), np.int32)
    views[:, 0] = lengths
    windows, which = _distinct(starts >> _WINDOW_BITS)
    is_long = lengths > _INLINE_BYTES
    views[:, 2] = np.where(is_long, which, 0)
    views[:, 3] = np.where(is_long, starts - (windows << _WINDOW_BITS)[which], 0)
    short = np.flatnonzero(~is_long & (lengths > 0))
    if len(short):
        views.view(np.uint8).reshape(len(starts), 16)[short, 4:] = _inlined(starts[short], lengths[short])
    buffers = [pa.foreign_buffer(int(window) << _WINDOW_BITS, _WINDOW_BYTES) for window in windows]
    validity = None
    if not starts.all():
        validity = pa.py_buffer(np.packbits(starts != 0, bitorder="little"))
    array = pa.Array.from_buffers(pa.binary_view(), len(starts), [validity, pa.py_buffer(views), *buffers])
    return pa.chunked_array([array.cast(pa.binary())])


def _distinct(values: Words) -> tuple[Words, Words]:
    """Return the distinct values and, for each element, the index of its value; a single value is the fast case."""
    if len(values) and (values == values[0]).all():
        return values[:1], np.zeros(len(values), np.int64)
    distinct, indices = np.unique(values, return_inverse=True)
    return distinct, indices


def _inlined(starts: Words, lengths: Words) -> npt.NDArray[np.uint8]:
    """Return short values, zero-padded, without reading past the end of any of them."""
    base, columns = int(starts.min()), np.arange(_INLINE_BYTES)
    span = int(starts.max()) - base + _INLINE_BYTES
    view = np.frombuffer(memoryview((ctypes.c_uint8 * span).from_address(base)), np.uint8)
    at = (starts - base)[:, None] + np.minimum(columns, lengths[:, None] - 1)
    return np.where(columns < lengths[:, None], view[at], 0).astype(np.uint8)


def _name(handle: int) -> str:
    return "" if handle == 0 else str(library().topic_name(handle).decode())


def _fault(words: Words, code: int) -> MessageFault:
    message = ctypes.string_at(int(words[_VALUE]), int(words[_VALUE_BYTES])) if words[_VALUE] else b""
    text = message or library().err2str(code)
    partition = int(words[_PARTITION].astype(np.int32))
    return MessageFault(code, text.decode(errors="replace"), _name(int(words[_TOPIC])), partition, int(words[_OFFSET]))


def _headers(pointer: int) -> Iterator[tuple[str, bytes | None]]:
    lib = library()
    headers, name, value, size = _POINTER(), _TEXT(), _POINTER(), _SIZE()
    if lib.message_headers(pointer, ctypes.byref(headers)):
        return
    for at in range(1 << 31):
        if lib.header_get_all(headers, at, ctypes.byref(name), ctypes.byref(value), ctypes.byref(size)):
            return
        content = None if value.value is None else ctypes.string_at(value.value, size.value)
        yield (name.value or b"").decode(errors="replace"), content
