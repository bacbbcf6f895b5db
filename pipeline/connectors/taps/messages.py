"""The messages of Singer and Airbyte: records of one stream, states, and errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.core.errors import SourceError


@dataclass(frozen=True)
class TapMessage:
    """What a line says: a record, a state, a schema, or nothing of interest."""

    record: bytes | None = None
    state: Any = None
    schema: Mapping[str, Any] | None = field(default=None)


_NOTHING = TapMessage()


class _Singer(msgspec.Struct):
    type: str = ""
    stream: str = ""
    record: msgspec.Raw = msgspec.Raw(b"")
    value: Any = None
    schema: Any = None


class _Record(msgspec.Struct):
    stream: str = ""
    namespace: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")


class _Airbyte(msgspec.Struct):
    type: str = ""
    record: _Record | None = None
    state: Any = None
    trace: Any = None
    catalog: Any = None


_SINGER, _AIRBYTE = msgspec.json.Decoder(_Singer), msgspec.json.Decoder(_Airbyte)


def of_singer(line: bytes, stream: str) -> TapMessage:
    """Return what a line of a tap says about a stream; lines that are no messages are ignored, as taps print them.

    Raises `SourceError` for a message that is not valid.
    """
    message = _decoded(_SINGER, line)
    if message is None:
        return _NOTHING
    if message.type == "RECORD" and message.stream == stream:
        return TapMessage(record=bytes(message.record))
    if message.type == "STATE":
        return TapMessage(state=message.value)
    if message.type == "SCHEMA" and message.stream == stream and isinstance(message.schema, Mapping):
        return TapMessage(schema=message.schema)
    return _NOTHING


def of_airbyte(line: bytes, stream: str) -> TapMessage:
    """Return what a line of a connector says about a stream; see `of_singer`.

    Raises `SourceError` also for an error that the connector reports.
    """
    message = _decoded(_AIRBYTE, line)
    if message is None:
        return _NOTHING
    if message.type == "RECORD" and message.record is not None and message.record.stream == stream:
        return TapMessage(record=bytes(message.record.data))
    if message.type == "STATE":
        return TapMessage(state=message.state)
    if message.type == "TRACE" and isinstance(message.trace, Mapping) and message.trace.get("type") == "ERROR":
        error = message.trace.get("error")
        text = error.get("message", "no message") if isinstance(error, Mapping) else "no message"
        raise SourceError("the connector reported an error", got=str(text))
    return _NOTHING


def catalog_of(line: bytes) -> Mapping[str, Any] | None:
    """Return the catalog of a connector's line, `None` for other messages."""
    message = _decoded(_AIRBYTE, line)
    return message.catalog if message is not None and isinstance(message.catalog, Mapping) else None


def _decoded(decoder: msgspec.json.Decoder[Any], line: bytes) -> Any:
    if not line.lstrip().startswith(b"{"):
        return None  # what a program prints beside its messages
    try:
        return decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        shown = line[:80].decode("utf-8", "replace").strip()
        raise SourceError("a message is not valid", got=f"{error}, in {shown!r}") from error
