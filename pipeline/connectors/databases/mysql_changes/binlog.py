"""Transactions of the binary log, from a position between two of them up to its present end."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.connectors.databases.changes.columns import DELETE, INSERT, TRUNCATE, UPDATE
from pipeline.connectors.databases.mysql_changes.checksums import connection_to
from pipeline.connectors.databases.mysql_changes.server import (
    BinlogServer,
    database_of,
    encoded,
    errors,
    settings_of,
)
from pipeline.core.clients import message_of
from pipeline.core.errors import SourceError
from pipeline.core.extras import imports_of

_POSITION_BITS = 32
_TRUNCATE = re.compile(r"\s*truncate\s+(?:table\s+)?(?:`?[^`.\s]+`?\.)?`?([^`.\s;]+)`?", re.IGNORECASE)
_BEGIN = re.compile(r"\s*(?:begin|start\s+transaction|xa\s+(?:start|begin|end)\b.*)\s*$", re.IGNORECASE | re.DOTALL)
"""Statements between which no position is one to continue at; rows follow `XA START`, and the preparation `XA END`."""
_XA_END = re.compile(r"\s*xa\s+end\b", re.IGNORECASE)
INCOMPLETE_DATE = "a date without a year, a month or a day"
"""The text of a date that the library cannot deliver; the contract of a date rejects it."""
_NOT_DELIVERED = {
    "out of date range": INCOMPLETE_DATE,
    "out of datetime range": INCOMPLETE_DATE,
    "out of datetime2 range": INCOMPLETE_DATE,
    "empty set": "",
}
"""For the reasons that the library gives for a value that it does not deliver: the text that stands for it."""
_NOT_SENT = frozenset({"cols bitmap", "same with before values"})
"""The reasons of a value that is not in the event, because the session does not log entire rows."""
_FIRST_ID, _IDS = 1 << 20, 1 << 30
"""The ids of the servers of which a reader has one at random, because no two readers may have the same."""


@dataclass(frozen=True)
class RowChange:
    """A change of a row: its values before and after."""

    table: str
    op: int
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    unsent: tuple[str, ...] = ()
    """The columns of which the value after is not known."""


@dataclass
class Transaction:
    """The changes of a transaction, and the position behind it."""

    changes: list[RowChange] = field(default_factory=list)
    through: int = 0
    committed_us: int = 0


@contextmanager
def transactions(server: BinlogServer, through: int, tables: Sequence[str]) -> Iterator[Iterator[Transaction]]:
    """Read the transactions after a position that changed one of the tables, and the position behind each other one."""
    with imports_of("mysql", "change data of MySQL"):
        from pymysqlreplication import BinLogStreamReader, event, row_event  # noqa: PLC0415 - optional dependency
    number = through >> _POSITION_BITS
    file = next((name for name in server.files() if encoded(name, 0) >> _POSITION_BITS == number), None)
    with errors(server.address):
        reader = BinLogStreamReader(
            connection_settings=settings_of(server.address),
            server_id=_FIRST_ID + secrets.randbelow(_IDS),
            log_file=file,
            log_pos=through & ((1 << _POSITION_BITS) - 1),
            resume_stream=True,
            blocking=False,
            pymysql_wrapper=partial(connection_to, has_checksums=server.has_checksums()),
            only_schemas=[database_of(server.address)],
            only_events=[
                event.QueryEvent,
                event.XidEvent,
                event.RotateEvent,
                row_event.WriteRowsEvent,
                row_event.UpdateRowsEvent,
                row_event.DeleteRowsEvent,
                row_event.PartialUpdateRowsEvent,
            ],
        )
    try:
        yield _transactions(server, reader, frozenset(tables))
    finally:
        reader.close()


def _transactions(server: BinlogServer, reader: Any, tables: frozenset[str]) -> Iterator[Transaction]:
    import pymysql  # noqa: PLC0415 - optional dependency
    from pymysqlreplication import event, row_event  # noqa: PLC0415 - optional dependency

    operations = {
        row_event.WriteRowsEvent: INSERT,
        row_event.UpdateRowsEvent: UPDATE,
        row_event.DeleteRowsEvent: DELETE,
    }
    current = Transaction()
    with errors(server.address):
        try:
            for each in reader:
                is_end = isinstance(each, event.XidEvent)
                if isinstance(each, row_event.PartialUpdateRowsEvent) and each.table in tables:
                    raise _partial(each.table, server)  # noqa: TRY301 - the other errors of this block are the library's
                if type(each) in operations:
                    if each.table in tables:
                        current.changes += _changes(each, operations[type(each)])
                elif isinstance(each, event.QueryEvent):
                    text = each.query if isinstance(each.query, str) else each.query.decode("utf-8", "replace")
                    is_begin = _BEGIN.match(text) is not None
                    _refuse_xa(text, current, server)
                    match = _TRUNCATE.match(text)
                    if match and match[1] in tables and _schema(each) == database_of(server.address):
                        current.changes.append(RowChange(match[1], TRUNCATE, {}, {}))
                    is_end = not is_begin
                if is_end:
                    current.through = encoded(reader.log_file, reader.log_pos)
                    current.committed_us = each.timestamp * 1_000_000
                    yield current
                    current = Transaction()
        except (pymysql.Error, OSError, SourceError):
            raise
        except Exception as error:  # the library raises any exception for a damaged event
            problem = "the binary log has an event that cannot be decoded"
            place = f"{reader.log_file} at {reader.log_pos}: {message_of(error)}"
            raise SourceError(
                problem, got=place, do="headwater run --full takes a new snapshot", place=server.place
            ) from error


def _partial(table: str, server: BinlogServer) -> SourceError:
    return SourceError(
        "the binary log has parts of JSON documents, from which rows cannot be made",
        got=f"an update of {table} by a session with binlog_row_value_options = PARTIAL_JSON",
        do="set binlog_row_value_options = '' everywhere; headwater run --full takes a new snapshot",
        place=server.place,
    )


def _refuse_xa(statement: str, transaction: Transaction, server: BinlogServer) -> None:
    """Raise `SourceError` if a statement ends the changes of an XA transaction, which may yet be rolled back."""
    if _XA_END.match(statement) and transaction.changes:
        raise SourceError(
            "changes of XA transactions cannot be read, because they are in the log before they are committed or rolled back",
            got=f"changes of {', '.join(sorted({repr(each.table) for each in transaction.changes}))}",
            do="write to the table without XA, and run headwater run --full once, which takes a new snapshot",
            place=server.place,
        )


def _schema(each: Any) -> str:
    return each.schema.decode() if isinstance(each.schema, bytes) else str(each.schema)


def _changes(each: Any, op: int) -> Iterator[RowChange]:
    for row in each.rows:
        if op == UPDATE:
            before, without = _delivered(row["before_values"], row["before_none_sources"])
            after, unsent = _delivered(row["after_values"], row["after_none_sources"])
            same = {name: before[name] for name in unsent - without}
            yield RowChange(each.table, op, before, {**after, **same}, tuple(sorted(unsent & without)))
        else:
            values, unsent = _delivered(row["values"], row["none_sources"])
            is_delete = op == DELETE
            yield RowChange(
                each.table, op, values if is_delete else {}, values, () if is_delete else tuple(sorted(unsent))
            )


def _delivered(values: Mapping[str, Any], reasons: Mapping[str, str]) -> tuple[Mapping[str, Any], set[str]]:
    """Return the values of a row, and the columns that were not sent; `reasons` says why a value is `None`."""
    texts = {name: _NOT_DELIVERED[reason] for name, reason in reasons.items() if reason in _NOT_DELIVERED}
    unsent = {name for name, reason in reasons.items() if reason in _NOT_SENT}
    return ({**values, **texts} if texts else values), unsent
