"""Encodes the rows of a query by the `Accept` header: a page as JSON or CSV, or any number of rows as a stream."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.core.schema import Column, Schema
from pipeline.kernel.types import arrow_schema
from serve.http_errors import UnacceptableError
from serve.queries.engine import Engine
from serve.queries.select import PageStatement, Statement, as_json, as_rows, as_text
from serve.queries.values import shown

JSON, NDJSON, CSV = "application/json", "application/x-ndjson", "text/csv"
ARROW, PARQUET = "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
MEDIA_TYPES = (JSON, CSV, ARROW, NDJSON, PARQUET)
"""The supported media types, the default first."""
_CHUNK_BYTES = 1 << 18
_BETWEEN = ",\n"
"""What separates the rows of a JSON array."""


@dataclass(frozen=True)
class Page:
    """The encoded rows of a page, how many they are, and the values of the cursor's columns in the last if more follow."""

    media_type: str
    content: bytes
    rows: int
    has_next: bool
    last: tuple[Any, ...] = ()


def negotiate(accept: str | None, supported: Sequence[str] = MEDIA_TYPES) -> str:
    """Return the media type that an `Accept` header prefers; raise `UnacceptableError` if none is supported."""
    ranges = [_media_range(part) for part in (accept or "*/*").split(",")]
    best, best_quality = "", 0.0
    for media_type in supported:
        # RFC 9110: of the matching ranges, the most specific one applies
        matches = [
            (len(_match(range_, media_type)), quality) for range_, quality in ranges if _match(range_, media_type)
        ]
        quality = max(matches)[1] if matches else 0.0
        if quality > best_quality:
            best, best_quality = media_type, quality
    if not best:
        raise UnacceptableError("the media type is not supported", got=shown(accept or ""), do=" or ".join(supported))
    return best


def read_page(
    engine: Engine,
    made: PageStatement,
    limit: int,
    media_type: str,
    as_object: Callable[[PageStatement, str], Statement] = as_json,
) -> Page:
    """Run a page's statement, which returns one row more than `limit` if more follow, and encode its rows.

    `as_object` makes the JSON object of each row.
    """
    if media_type in {JSON, NDJSON}:
        rows_of_json = engine.tuples(as_object(made, _BETWEEN if media_type == JSON else "\n"))
        return _page_of_json(rows_of_json, limit, media_type)
    rows = engine.rows(as_text(made)) if media_type == CSV else engine.rows(as_rows(made))
    has_next = rows.num_rows > limit
    shown_rows = rows.slice(0, limit)
    last = tuple(shown_rows.column(name)[-1].as_py() for name in made.cursor) if has_next and limit else ()
    own = shown_rows.drop_columns(list(made.cursor))
    return Page(media_type, _encoded(own, made.schema, media_type), shown_rows.num_rows, has_next, last)


def stream(engine: Engine, made: PageStatement, media_type: str) -> Iterator[tuple[bytes, int]]:
    """Yield the encoded rows of a statement in chunks, each with its number of rows. Only some rows are in memory."""
    if media_type in {JSON, NDJSON}:
        for batch in engine.batches(as_json(made, "\n")):
            yield _texts(batch.column("row")), batch.num_rows
        return
    text = media_type == CSV
    batches = engine.batches(as_text(made) if text else as_rows(made))
    first = next(batches, None)
    schema = arrow_schema(made.schema) if not text or first is None else _csv_schema(first.schema, made.schema)
    sink = _Chunks()
    with _writer(sink, schema, media_type) as writer:
        waiting = 0
        for batch in _each(first, batches):
            own = pa.Table.from_batches([batch]).select(made.schema.names)
            writer.write_table(own if text else own.cast(schema))
            waiting += batch.num_rows
            if sink.size >= _CHUNK_BYTES:
                yield sink.taken(), waiting
                waiting = 0
    yield sink.taken(), waiting


def record_batches(engine: Engine, made: PageStatement) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a statement with the types of its columns. Only some rows are in memory."""
    schema = arrow_schema(made.schema)
    for batch in engine.batches(as_rows(made)):
        yield from pa.Table.from_batches([batch]).select(made.schema.names).cast(schema).to_batches()


def envelope(table: str, version: int, page: Page, following: str | None, count: int | None = None) -> bytes:
    """Return the JSON response with a page's rows."""
    head = json.dumps({"table": table, "version": version} | ({} if count is None else {"count": count}))[:-1].encode()
    return head + b', "rows": ' + page.content + b', "next": ' + json.dumps(following).encode() + b"}"


def with_rows(head: Mapping[str, object], rows: bytes) -> bytes:
    """Return a JSON object with these members and `rows`, which are encoded already."""
    return json.dumps(head)[:-1].encode() + b', "rows": ' + rows + b"}"


def described_columns(columns: Iterable[Column]) -> list[dict[str, str]]:
    """Return columns as JSON has them: each with its `name` and `type`."""
    return [{"name": column.name, "type": column.type} for column in columns]


def _page_of_json(rows: list[tuple[Any, ...]], limit: int, media_type: str) -> Page:
    has_next = len(rows) > limit
    shown_rows = rows[:limit]
    text = "".join([row[0] for row in shown_rows])
    content = f"[{text[: -len(_BETWEEN)]}]" if media_type == JSON else text
    last = shown_rows[-1][1:] if has_next and shown_rows else ()
    return Page(media_type, content.encode(), len(shown_rows), has_next, last)


def _encoded(rows: pa.Table, schema: Schema, media_type: str) -> bytes:
    if media_type != CSV:
        rows = rows.cast(arrow_schema(schema))
    sink = io.BytesIO()
    with _writer(sink, rows.schema, media_type) as writer:
        writer.write_table(rows)
    return sink.getvalue()


def _texts(texts: pa.Array) -> bytes:
    """Return texts one after the other: a part of an Arrow buffer, without a Python object a row."""
    if not len(texts):
        return b""
    _, offsets, values = texts.buffers()
    ends = memoryview(offsets).cast("i" if pa.types.is_string(texts.type) else "q")
    begin, end = ends[texts.offset], ends[texts.offset + len(texts)]
    return bytes(memoryview(values)[begin:end])


class _Chunks(io.RawIOBase):
    """A file whose content is taken away while it is written."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._written = 0
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        content = bytes(data)
        self._parts.append(content)
        self.size += len(content)
        self._written += len(content)
        return len(content)

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        content = b"".join(self._parts)
        self._parts, self.size = [], 0
        return content


def _writer(sink: Any, schema: pa.Schema, media_type: str) -> Any:
    if media_type == CSV:
        return pyarrow.csv.CSVWriter(sink, schema)
    if media_type == PARQUET:
        return pyarrow.parquet.ParquetWriter(sink, schema, compression="zstd")
    return pa.ipc.new_stream(sink, schema)


def _csv_schema(schema: pa.Schema, wanted: Schema) -> pa.Schema:
    return pa.schema([schema.field(name) for name in wanted.names])


def _each(first: pa.RecordBatch | None, others: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    if first is not None:
        yield first
        yield from others


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
