"""Documents of MongoDB as lines of JSON, which the rules for JSON files convert to the types of the contract."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.connectors.databases.deletes import DELETED
from pipeline.core import scratch

_LEAST_BYTES = 5
"""The size of an empty document: its length, and the byte that ends it."""


def lines_of(raw: bytes, deleted: frozenset[bytes] | None = None) -> list[str]:
    """Return the documents of a batch of BSON as lines of JSON; one that cannot be decoded is a text in brackets.

    Numbers keep their digits. Object ids, decimals and UUIDs are text, dates are instants with three digits of seconds,
    and bytes are Base64. With `deleted`, the ids of deleted documents as `deleted_ids` returns them, every document has the
    field `_deleted`, which replaces one of its own.
    """
    import bson  # noqa: PLC0415 - optional dependency

    options = _options()
    try:
        documents: Iterable[Mapping[str, Any]] = bson.decode_all(raw, options)
    except (bson.errors.InvalidBSON, ValueError, OverflowError):
        return [_line_of(document, deleted, options) for document in single_documents(raw)]
    return [_encoded(_marked(document, deleted, options)) for document in documents]


def _marked(document: Mapping[str, Any], deleted: frozenset[bytes] | None, options: Any) -> Mapping[str, Any]:
    import bson  # noqa: PLC0415 - optional dependency

    if deleted is None:
        return document
    is_deleted = bool(deleted) and bson.encode({"_id": document.get("_id")}, codec_options=options) in deleted
    return {**document, DELETED: is_deleted}


def _options() -> Any:
    from bson.binary import UuidRepresentation  # noqa: PLC0415 - optional dependency
    from bson.codec_options import CodecOptions, DatetimeConversion  # noqa: PLC0415 - optional dependency

    return CodecOptions(
        tz_aware=True,
        uuid_representation=UuidRepresentation.STANDARD,
        datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    )


@contextmanager
def written(lines: Sequence[str]) -> Iterator[str]:
    """Write lines to a file for the reader of JSON, which ignores blank lines, and cannot read an empty file."""
    with scratch.folder("documents") as folder:
        path = Path(folder) / "documents.ndjson"
        text = "".join(f"{line}\n" for line in lines) or "\n"
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
        yield str(path)


def single_documents(raw: bytes) -> Iterator[bytes]:
    """Yield the documents of a batch, each of which begins with its length; from one that is impossible on, the rest."""
    at = 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 4], "little")
        if not _LEAST_BYTES <= size <= len(raw) - at:
            size = len(raw) - at
        yield raw[at : at + size]
        at += size


def _line_of(document: bytes, deleted: frozenset[bytes] | None, options: Any) -> str:
    import bson  # noqa: PLC0415 - optional dependency

    try:
        return _encoded(_marked(bson.decode(document, options), deleted, options))
    except (bson.errors.InvalidBSON, ValueError, OverflowError) as error:
        return f"[{json.dumps(f'not decodable: {error}')}, {json.dumps(base64.b64encode(document).decode())}]"


def _encoded(document: Mapping[str, Any]) -> str:
    try:
        return _ENCODE(document)
    except ValueError:  # a number that JSON does not have
        return _ENCODE(_without_special_numbers(document))


def _plain(value: Any) -> Any:
    """Return a value that JSON does not have as text, or as an object of its parts."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{value.microsecond // 1000:03}Z"
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    as_document = getattr(value, "as_doc", None)  # a reference to another document
    return as_document() if as_document is not None else str(value)


_ENCODE = json.JSONEncoder(default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def _without_special_numbers(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_special_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_special_numbers(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    return value
