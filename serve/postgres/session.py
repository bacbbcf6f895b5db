"""A connection of a driver: what it has prepared, its transaction, and what its messages are answered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from anyio import to_thread

from pipeline.core.errors import HeadwaterError
from pipeline.core.schema import Column
from serve.postgres import messages
from serve.postgres.catalog import PostgresCatalog
from serve.postgres.copying import CopyCommand, CopyWriter, copy_command
from serve.postgres.errors import PostgresError, parts_of
from serve.postgres.messages import BINARY, TEXT, FieldDescription, MessageReader
from serve.postgres.results import OpenResult, PostgresResults, RowMessages, fields_of
from serve.postgres.settings import CursorCommand, PostgresSettings, cursor_command
from serve.postgres.statements import Command, ParameterHint, SelectStatement, constant, parsed, split
from serve.postgres.values import ARRAY_OIDS, TEXT_TYPE, each_form, parameter, type_named, type_of
from serve.queries.cancellation import Cancellation
from serve.queries.values import shown

_LOG = logging.getLogger("headwater.serve")
_MOST_KEPT = 256
"""How many statements, and how many portals, a session keeps."""
_NONE, _OPEN, _FAILED = b"I", b"T", b"E"
_ENDS = {"COMMIT": "COMMIT", "END": "COMMIT", "ROLLBACK": "ROLLBACK", "ABORT": "ROLLBACK"}
_OIDS = {"UINTEGER": 26, "UINTEGER[]": 1028}
"""The types of parameters that are the numbers of tables and types."""
_SETTING = FieldDescription("", TEXT_TYPE.oid, TEXT_TYPE.length)


@dataclass(frozen=True)
class _Prepared:
    """A statement, and the types of its parameters."""

    statement: Command | SelectStatement | None
    oids: tuple[int, ...] = ()


@dataclass
class _Portal:
    """A statement with its parameters, and its rows once they are asked for."""

    statement: Command | SelectStatement | None
    sql: str
    forms: Sequence[int]
    is_held: bool = False
    """Whether it stays open at the end of the transaction."""
    cancellation: Cancellation = field(default_factory=Cancellation)
    result: OpenResult | None = None

    def close(self) -> None:
        if self.result is not None:
            self.result.close()


class DriverSession:
    """Answers the messages of one connection."""

    def __init__(
        self, results: PostgresResults, catalog: PostgresCatalog, settings: PostgresSettings, send: Callable[[bytes], Awaitable[None]]
    ) -> None:  # fmt: skip
        """Answer with results for the caller of the connection; `send` sends bytes to the driver."""
        self._results = results
        self._catalog = catalog
        self._settings = settings
        self._send = send
        self._statements: dict[str, _Prepared] = {}
        self._portals: dict[str, _Portal] = {}
        self._transaction = _NONE
        self._skips = False
        self._running: Cancellation | None = None
        self._handlers: Mapping[bytes, Callable[[MessageReader], Awaitable[None]]] = {
            b"Q": self._query, b"P": self._parse, b"B": self._bind, b"D": self._describe, b"E": self._execute, b"C": self._close, b"H": self._flush,
        }  # fmt: skip

    async def ready(self) -> None:
        """Tell the driver that it can send a statement."""
        await self._send(messages.message(messages.READY, self._transaction))

    def cancel(self) -> None:
        """Cancel the statement that runs."""
        if self._running is not None:
            self._running.cancel()

    def close(self) -> None:
        """Cancel what runs, and forget all statements."""
        self.cancel()
        self._drop_portals(held=True)

    async def answer(self, kind: bytes, content: bytes) -> None:
        """Answer a message. Errors are sent to the driver; after one, the messages until the next `Sync` are left out."""
        if kind == b"S":
            self._skips = False
            if self._transaction == _NONE:
                self._drop_portals()
            await self.ready()
            return
        if self._skips:
            return
        is_simple = kind == b"Q"
        try:
            await self._handlers.get(kind, self._unknown)(MessageReader(content))
        except HeadwaterError as error:
            await self._fail(error, is_simple=is_simple)
        except (ConnectionError, TimeoutError):
            raise  # nobody reads
        except Exception:  # noqa: BLE001 - whatever it is, the driver is told that there was an error
            _LOG.exception("a statement of PostgreSQL's protocol failed")  # its text is not for the caller
            await self._fail(PostgresError("XX000", "internal error", do="see the server's log"), is_simple=is_simple)

    async def _fail(self, error: HeadwaterError, *, is_simple: bool) -> None:
        code, parts = parts_of(error)
        if self._transaction == _OPEN:
            self._transaction = _FAILED
        await self._send(messages.report(b"E", "ERROR", code, parts))
        self._skips = not is_simple
        if is_simple:
            await self.ready()

    async def _query(self, content: MessageReader) -> None:
        """Answer the statements of a text, one after the other, until one fails."""
        texts = split(content.text())
        if not texts:
            await self._send(messages.message(messages.NOTHING))
        for text in texts:
            statement = self._parsed(text)
            if isinstance(statement, SelectStatement) and statement.parameters:
                raise PostgresError("42P02", "there is no parameter $1", do="prepare the statement")
            portal = _Portal(statement, statement.sql({}) if isinstance(statement, SelectStatement) else "", ())
            try:
                fields = await self._fields(portal)
                if fields is not None:
                    await self._send(messages.row_description(fields))
                await self._run(portal, 0)
            finally:
                portal.close()
        await self.ready()

    async def _parse(self, content: MessageReader) -> None:
        name, texts, oids = content.text(), split(content.text()), content.longs()
        if len(texts) > 1:
            raise PostgresError("42601", "a prepared statement cannot be several statements")
        if name and name in self._statements:
            raise PostgresError("42P05", f"there is a prepared statement {shown(name)} already")
        self._require_room(self._statements)
        statement = self._parsed(texts[0]) if texts else None
        known = await self._types(statement) if isinstance(statement, SelectStatement) else ()
        if len(oids) > len(known):
            raise PostgresError("42P02", f"the statement has {len(known)} parameters", got=f"{len(oids)} types")
        types = tuple(given or found for given, found in zip_longest(oids, known, fillvalue=0))
        self._statements[name] = _Prepared(statement, types)
        await self._send(messages.message(messages.PARSED))

    async def _bind(self, content: MessageReader) -> None:
        portal_name, name = content.text(), content.text()
        forms, count = content.shorts(), content.short()
        values = [content.value() for _ in range(count)]
        result_forms = content.shorts()
        prepared = self._prepared(name)
        if count != len(prepared.oids):
            raise PostgresError("08P01", f"the statement has {len(prepared.oids)} parameters", got=f"{count} values")
        if any(form not in {TEXT, BINARY} for form in (*forms, *result_forms)):
            raise PostgresError("08P01", "the form of a value is neither text nor binary")
        sql = ""
        if isinstance(prepared.statement, SelectStatement):
            triples = zip(prepared.oids, each_form(forms, count), values, strict=True)
            sql = prepared.statement.sql({n: constant(*parameter(*each)) for n, each in enumerate(triples, 1)})
        if portal_name in self._portals:
            self._portals.pop(portal_name).close()
        self._require_room(self._portals)
        self._portals[portal_name] = _Portal(prepared.statement, sql, result_forms)
        await self._send(messages.message(messages.BOUND))

    async def _describe(self, content: MessageReader) -> None:
        kind, name = content.take(1), content.text()
        if kind == b"S":
            prepared = self._prepared(name)
            await self._send(messages.parameter_description(prepared.oids))
            fields = await self._fields_of_statement(prepared)
        else:
            fields = await self._fields(self._portal(name))
        await self._send(messages.message(messages.NO_DATA) if fields is None else messages.row_description(fields))

    async def _execute(self, content: MessageReader) -> None:
        portal, most = self._portal(content.text()), max(content.long(), 0)
        if portal.statement is None:
            await self._send(messages.message(messages.NOTHING))
            return
        await self._run(portal, most)

    async def _close(self, content: MessageReader) -> None:
        kind, name = content.take(1), content.text()
        if kind == b"S":
            self._statements.pop(name, None)
        elif name in self._portals:
            self._portals.pop(name).close()
        await self._send(messages.message(messages.CLOSED))

    async def _unknown(self, _: MessageReader) -> None:
        raise PostgresError("08P01", "the message is not supported", do="use a driver of PostgreSQL")

    async def _flush(self, _: MessageReader) -> None:
        """Do nothing: all is sent at once."""

    async def _fields_of_statement(self, prepared: _Prepared) -> Sequence[FieldDescription] | None:
        statement = prepared.statement
        if not isinstance(statement, SelectStatement):
            return await self._fields(_Portal(statement, "", ()))
        nulls = {number: constant(*parameter(oid, TEXT, None)) for number, oid in enumerate(prepared.oids, 1)}
        return fields_of(statement, await self._results.schema(statement, statement.sql(nulls)), ())

    async def _fields(self, portal: _Portal) -> Sequence[FieldDescription] | None:
        """Return the columns of what a portal returns, or `None` if that is no rows."""
        statement = portal.statement
        if isinstance(statement, SelectStatement):
            return (await self._opened(portal)).fields
        if statement is None:
            return None
        cursor = cursor_command(statement)
        if cursor is not None and cursor.action == "FETCH":
            return (await self._opened(self._portal(cursor.name))).fields
        if statement.words[0] == "SHOW":
            return [FieldDescription(self._settings.named(statement)[0], _SETTING.oid, _SETTING.length)]
        return None

    async def _opened(self, portal: _Portal) -> OpenResult:
        self._require_transaction()
        assert isinstance(portal.statement, SelectStatement)  # noqa: S101 - others return no rows
        if portal.result is None:
            self._running = portal.cancellation
            try:
                portal.result = await self._results.open(
                    portal.statement, portal.sql, portal.forms, portal.cancellation
                )
            finally:
                self._running = None
        return portal.result

    async def _run(self, portal: _Portal, most: int) -> None:
        """Send what a portal returns, and that it is done or that there is more."""
        statement = portal.statement
        if isinstance(statement, SelectStatement):
            rows = await self._send_rows(portal, most)
            result = await self._opened(portal)
            is_done = result.is_done
            await self._send(
                messages.command_complete(f"SELECT {rows}") if is_done else messages.message(messages.SUSPENDED)
            )
        elif statement is not None:
            await self._send(messages.command_complete(await self._done(statement)))

    async def _send_rows(self, portal: _Portal, most: int, messages_of: RowMessages = messages.data_rows) -> int:
        result, number = await self._opened(portal), 0
        self._running = portal.cancellation
        try:
            async for content, rows in result.read(most, messages_of):
                number += rows
                await self._send(content)
        finally:
            self._running = None
        return number

    async def _done(self, command: Command) -> str:
        """Do what a command says, and return its tag."""
        word = command.words[0]
        if word in _ENDS:
            return self._end(command, _ENDS[word])
        self._require_transaction()
        cursor = cursor_command(command)
        if cursor is not None:
            return await self._move(cursor)
        copy = copy_command(command)
        if copy is not None:
            return await self._copy(copy)
        if word == "SHOW":
            await self._send(messages.data_rows([[self._settings.named(command)[1].encode()]], 1))
            return word
        simple: Mapping[str, Callable[[Command], str]] = {
            "BEGIN": self._begin, "START": self._begin, "DISCARD": self._discard, "DEALLOCATE": self._deallocate, "SET": self._settings.change,
            "RESET": self._settings.change, "SAVEPOINT": lambda _: word, "RELEASE": lambda _: word, "UNLISTEN": lambda _: word,
        }  # fmt: skip
        if word not in simple:
            raise PostgresError("0A000", f"{shown(word[:40])} is not supported", do="read only, with SELECT")
        return simple[word](command)

    async def _copy(self, copy: CopyCommand) -> str:
        statement = self._parsed(copy.query)
        if not isinstance(statement, SelectStatement) or statement.parameters:
            raise PostgresError("42601", "a SELECT without parameters can be copied")
        portal, writer = _Portal(statement, statement.sql({}), (copy.value_form,)), CopyWriter(copy)
        try:
            await self._send(writer.begin((await self._opened(portal)).fields))
            rows = await self._send_rows(portal, 0, writer.rows)
            await self._send(writer.end())
        finally:
            portal.close()
        return f"COPY {rows}"

    def _begin(self, _: Command) -> str:
        self._transaction = _OPEN
        return "BEGIN"

    def _discard(self, _: Command) -> str:
        self._statements.clear()
        self._drop_portals(held=True)
        return "DISCARD ALL"

    def _deallocate(self, command: Command) -> str:
        name = command.words[-1]
        if name == "ALL":
            self._statements.clear()
        else:
            self._statements.pop(name.strip('"') if name.startswith('"') else name.lower(), None)
        return "DEALLOCATE"

    def _end(self, command: Command, tag: str) -> str:
        """End the transaction; there is nothing to undo, but back to a savepoint it goes on."""
        if "TO" in command.words[:4]:
            self._transaction = _OPEN
            return "ROLLBACK"
        failed = self._transaction == _FAILED
        self._transaction = _NONE
        self._drop_portals()
        return "ROLLBACK" if failed else tag

    async def _move(self, cursor: CursorCommand) -> str:
        """Declare, read or close a cursor."""
        if cursor.action == "DECLARE":
            if cursor.name in self._portals:
                raise PostgresError("42P03", f"there is a cursor {shown(cursor.name)} already")
            self._require_room(self._portals)
            statement = self._parsed(cursor.query)
            if not isinstance(statement, SelectStatement) or statement.parameters:
                raise PostgresError("42601", "a cursor is declared for a SELECT without parameters")
            if self._transaction == _NONE and not cursor.is_held:
                raise PostgresError("25P01", "a cursor needs a transaction", do="write BEGIN before, or WITH HOLD")
            portal = _Portal(statement, statement.sql({}), (), is_held=cursor.is_held)
            await self._opened(portal)
            self._portals[cursor.name] = portal
            return "DECLARE CURSOR"
        if cursor.action == "CLOSE":
            if cursor.name == "":
                self._drop_portals(held=True)
            elif self._portal(cursor.name):
                self._portals.pop(cursor.name).close()
            return "CLOSE CURSOR"
        rows = await self._send_rows(self._portal(cursor.name), cursor.rows) if cursor.rows >= 0 else 0
        return f"FETCH {rows}"

    def _prepared(self, name: str) -> _Prepared:
        found = self._statements.get(name)
        if found is None:
            raise PostgresError("26000", f"there is no prepared statement {shown(name)}")
        return found

    def _portal(self, name: str) -> _Portal:
        found = self._portals.get(name)
        if found is None:
            raise PostgresError("34000", f"there is no cursor {shown(name)}")
        return found

    def _drop_portals(self, *, held: bool = False) -> None:
        """Close portals, and with `held` also those that stay open at the end of the transaction."""
        for name in [name for name, each in self._portals.items() if held or not each.is_held]:
            self._portals.pop(name).close()

    def _require_transaction(self) -> None:
        if self._transaction == _FAILED:
            raise PostgresError("25P02", "the transaction has failed", do="send ROLLBACK")

    def _require_room(self, kept: Mapping[str, object]) -> None:
        if len(kept) >= _MOST_KEPT:
            raise PostgresError("53400", f"the session keeps {_MOST_KEPT} statements or cursors", do="close some")

    def _parsed(self, text: str) -> Command | SelectStatement:
        return parsed(text, self._settings.facts)

    async def _types(self, statement: SelectStatement) -> tuple[int, ...]:
        """Return the types of the parameters, as far as what they are compared with says them."""
        columns: dict[str, Column] = {}
        if any(each.column for each in statement.parameters.values()):
            caller = await self._results.caller()
            for table in await to_thread.run_sync(self._catalog.tables, caller):
                if table.name.lower() in statement.tables:
                    columns |= {column.name.lower(): column for column in table.schema.columns}
        return tuple(_oid(statement.parameters[number], columns) for number in sorted(statement.parameters))


def _oid(hint: ParameterHint, columns: Mapping[str, Column]) -> int:
    if hint.type in _OIDS:
        return _OIDS[hint.type]
    column = columns.get(hint.column.lower())
    kind = type_named(hint.type.removesuffix("[]")) if column is None else type_of(column)
    oid = TEXT_TYPE.oid if kind is None else kind.oid
    return ARRAY_OIDS.get(oid, TEXT_TYPE.oid) if hint.is_list or hint.type.endswith("[]") else oid
