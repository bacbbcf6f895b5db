"""The rows of SELECTs: of tables by the engine that all interfaces share, and about the catalog by its own."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from anyio import to_thread

from pipeline.core.errors import HeadwaterError
from pipeline.core.schema import Schema
from serve.access.admission import RequestContext
from serve.access.authorization import require_scope
from serve.access.caller import ANONYMOUS, Caller
from serve.backend import Backend
from serve.http_errors import TooManyError
from serve.postgres.catalog import PostgresCatalog
from serve.postgres.messages import FieldDescription, data_rows
from serve.postgres.statements import SelectStatement
from serve.postgres.values import Encoder, each_form, field_of, sending
from serve.prepared_sql import prepare
from serve.problems import status_of
from serve.queries.cancellation import CURRENT, Cancellation
from serve.queries.select import Statement

RowMessages = Callable[[Sequence[Sequence[bytes | None]], int], bytes]
"""Makes messages of columns with encoded values, and of the number of rows."""
_OWN_TYPES = frozenset({"INTERVAL", "TIME", "UUID"})
"""Types that PostgreSQL has and no lake stores."""
_MOST_ROWS = 2_048
"""How many rows are encoded and sent at once."""


@dataclass(frozen=True)
class ReadRows:
    """The columns of a SELECT, the functions that make bytes of what is sent of each, and the rows: the first batch, and the others."""

    schema: Schema
    encoders: Sequence[Encoder]
    first: pa.RecordBatch | None
    others: Generator[pa.RecordBatch, None, None]


class OpenResult:
    """The rows of a SELECT, which are read as they are sent."""

    def __init__(
        self,
        fields: Sequence[FieldDescription],
        read: ReadRows,
        cancellation: Cancellation,
        record: Callable[[int, int], None],
    ) -> None:
        """Send what is read; `record` is called once, with the status and the number of rows that were sent."""
        self.fields = fields
        self.is_done = False
        self._encoders = read.encoders
        self._rest = read.first
        self._batches = read.others
        self._cancellation = cancellation
        self._record: Callable[[int, int], None] | None = record
        self._sent = 0

    async def read(self, most: int, messages_of: RowMessages = data_rows) -> AsyncIterator[tuple[bytes, int]]:
        """Yield messages with rows and how many they are, all or at most so many unless that is 0; raises as `Engine.batches` does."""
        left = most
        while not self.is_done and (left > 0 or not most):
            batch = await self._next()
            if batch is None:
                self.is_done = True
                self.close()
                return
            size = min(_MOST_ROWS, left) if most else _MOST_ROWS
            if batch.num_rows > size:
                self._rest, batch = batch.slice(size), batch.slice(0, size)
            left -= batch.num_rows
            self._sent += batch.num_rows
            yield await to_thread.run_sync(self._encoded, batch, messages_of), batch.num_rows

    def close(self, status: int = 200) -> None:
        """Read no more, and record the statement."""
        self._batches.close()
        self._rest = None
        if self._record is not None:
            self._record(status, self._sent)
            self._record = None

    async def _next(self) -> pa.RecordBatch | None:
        if self._rest is not None:
            batch, self._rest = self._rest, None
            return batch
        with _cancelled_by(self._cancellation):
            try:
                return await to_thread.run_sync(_next, self._batches)
            except HeadwaterError as error:
                self.close(status_of(error))
                raise

    def _encoded(self, batch: pa.RecordBatch, messages_of: RowMessages) -> bytes:
        columns = [
            [None if value is None else encode(value) for value in column.to_pylist()]
            for encode, column in zip(self._encoders, batch.columns, strict=True)
        ]
        return messages_of(columns, batch.num_rows)


class PostgresResults:
    """Runs SELECTs for the holder of a key or token, which is checked again for each statement."""

    def __init__(self, backend: Backend, catalog: PostgresCatalog, credential: str, address: str) -> None:
        """Use a key or token, and the address that it came from."""
        self._backend = backend
        self._catalog = catalog
        self._authorization = f"Bearer {credential}"
        self._address = address

    async def caller(self) -> Caller:
        """Return the caller as it is now; raises `UnauthenticatedError`, and `ForbiddenError` if it may not send SQL."""
        admission = self._backend.admission
        admission.require_record()
        caller = admission.known(self._authorization, self._address)
        if caller is None:
            caller = await to_thread.run_sync(admission.caller, self._authorization, self._address)
        require_scope(caller, "query")
        return caller

    async def schema(self, statement: SelectStatement, sql: str) -> Schema:
        """Return the columns of a SELECT."""
        caller = await self._admitted()
        if statement.is_catalog:
            return await to_thread.run_sync(self._catalog.schema, caller, sql)
        reading = self._backend.reading
        return (await reading.run(caller, prepare, reading, caller, sql, None, own_types=_OWN_TYPES)).statement.schema

    async def open(
        self, statement: SelectStatement, sql: str, forms: Sequence[int], cancellation: Cancellation
    ) -> OpenResult:
        """Begin to read the rows of a SELECT, so that most errors are raised here; `cancellation` ends it."""
        context = RequestContext(uuid.uuid4().hex, ANONYMOUS, "", time.perf_counter())

        def record(status: int, rows: int) -> None:
            context.facts["rows"] = rows
            self._backend.admission.record(context, "SELECT", "/postgres", {"status": status})

        try:
            with _cancelled_by(cancellation):
                context.caller = await self._admitted(context)
                reading = self._of_catalog if statement.is_catalog else self._of_tables
                read = await reading(sql, forms, context)
        except HeadwaterError as error:
            record(status_of(error), 0)
            raise
        return OpenResult(fields_of(statement, read.schema, forms), read, cancellation, record)

    async def _of_tables(self, sql: str, forms: Sequence[int], context: RequestContext) -> ReadRows:
        reading, caller = self._backend.reading, context.caller
        prepared = await reading.run(caller, prepare, reading, caller, sql, None, own_types=_OWN_TYPES)
        context.facts.update(table=",".join(prepared.versions), why="scope query")
        schema, bound = prepared.statement.schema, prepared.statement.statement
        made, encoders = sending(bound.sql, schema, forms)
        batches = self._backend.engine.batches(Statement(made, bound.values))
        return ReadRows(schema, encoders, await reading.run(caller, _next, batches), batches)

    async def _of_catalog(self, sql: str, forms: Sequence[int], context: RequestContext) -> ReadRows:
        context.facts.update(why="the catalog of what the caller may read")
        schema, encoders, rows = await to_thread.run_sync(self._catalog.rows, context.caller, sql, forms)
        return ReadRows(schema, encoders, None, (batch for batch in rows.to_batches()))

    async def _admitted(self, context: RequestContext | None = None) -> Caller:
        """Return the caller, and count a statement of it; what it costs more is counted when it is recorded."""
        caller, admission = await self.caller(), self._backend.admission
        charges = admission.charges(caller, self._address, "postgres")
        if context is not None:
            context.charges = charges
        if not (await admission.admit(charges)).is_granted:
            raise TooManyError("there are too many requests", do="send fewer, or wait")
        return caller


def fields_of(statement: SelectStatement, schema: Schema, forms: Sequence[int]) -> list[FieldDescription]:
    """Return the columns of a result, with the names that PostgreSQL gives them; `forms` are one for all, or one for each."""
    columns = schema.columns
    names = statement.names if len(statement.names) == len(columns) else schema.names
    return [
        field_of(c, name, form) for c, name, form in zip(columns, names, each_form(forms, len(columns)), strict=True)
    ]


def _next(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    return next(batches, None)


@contextmanager
def _cancelled_by(cancellation: Cancellation) -> Iterator[None]:
    token = CURRENT.set(cancellation)
    try:
        yield
    finally:
        CURRENT.reset(token)
