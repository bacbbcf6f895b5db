"""Encodes a page of rows as JSON, CSV or an Arrow stream, depending on the `Accept` header."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv

from pipeline.core.schema import Schema
from pipeline.kernel.types import arrow_schema
from serve.engine import Engine
from serve.http_errors import UnacceptableError
from serve.query import shown
from serve.select import Statement, as_json, as_text

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
MEDIA_TYPES = (JSON, CSV, ARROW)
"""The supported media types, the default first."""


@dataclass(frozen=True)
class Page:
    """The encoded rows of a page, and whether more rows follow. JSON rows are an array."""

    media_type: str
    rows: bytes
    has_next: bool


def negotiate(accept: str | None) -> str:
    """Return the media type that an `Accept` header prefers; raise `UnacceptableError` if none is supported."""
    ranges = [_media_range(part) for part in (accept or "*/*").split(",")]
    best, best_quality = "", 0.0
    for media_type in MEDIA_TYPES:
        # RFC 9110: of the matching ranges, the most specific one applies
        matches = [
            (len(_match(range_, media_type)), quality) for range_, quality in ranges if _match(range_, media_type)
        ]
        quality = max(matches)[1] if matches else 0.0
        if quality > best_quality:
            best, best_quality = media_type, quality
    if not best:
        raise UnacceptableError("the media type is not supported", got=shown(accept or ""), do=" or ".join(MEDIA_TYPES))
    return best


def read_page(engine: Engine, statement: Statement, schema: Schema, limit: int, media_type: str) -> Page:
    """Run a page's statement, which returns one row more than `limit` if more follow, and encode its rows."""
    if media_type == JSON:
        rows = engine.rows(as_json(statement, schema))
    elif media_type == CSV:
        rows = engine.rows(as_text(statement, schema))
    else:
        rows = engine.rows(statement).cast(arrow_schema(schema))
    return Page(media_type, _encoded(rows.slice(0, limit), media_type), rows.num_rows > limit)


def envelope(table: str, version: int, page: Page, following: str | None) -> bytes:
    """Return the JSON response with a page's rows."""
    head = json.dumps({"table": table, "version": version})[:-1].encode()
    return head + b', "rows": ' + page.rows + b', "next": ' + json.dumps(following).encode() + b"}"


def _encoded(rows: pa.Table, media_type: str) -> bytes:
    if media_type == JSON:
        return ("[" + ",\n".join(rows.column("row").to_pylist()) + "]").encode()
    sink = io.BytesIO()
    if media_type == CSV:
        pyarrow.csv.write_csv(rows, sink)
    else:
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
    return sink.getvalue()


def _media_range(part: str) -> tuple[str, float]:
    range_, *parameters = (piece.strip() for piece in part.lower().split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = min(max(float(parameter[2:]), 0.0), 1.0)
            except ValueError:
                quality = 0.0
    return range_, quality


def _match(range_: str, media_type: str) -> str:
    """Return the part of a media type that a range matches, longer if it is more specific; empty without a match."""
    if range_ == media_type:
        return media_type
    if range_ == media_type.partition("/")[0] + "/*":
        return range_[:-1]
    return "*" if range_ == "*/*" else ""
