"""Deleted rows of tables that are read by a cursor: marked by a condition, or missing when the keys are compared.

Every row has the column `_deleted`. A row that vanished is a row of its key, whose other columns are null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.columns import REJECTED_ROW, DatabaseColumn, FetchedColumn
from pipeline.core.errors import DefinitionError, SourceError, few
from pipeline.core.event_time import parse_duration
from pipeline.core.sources import POSITION, TableRows
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import listed, quoted
from pipeline.kernel.types import arrow_type

DELETED = "_deleted"
_AT_ONCE = 4
"""Number of ranges of keys that are fetched at the same time."""


@dataclass(frozen=True)
class Deletes:
    """How deleted rows are recognized."""

    when: str = ""
    """A condition in the language of the database that is true for a deleted row; empty if it keeps none."""
    every: timedelta | None = None
    """How often the keys are compared; `None` for never."""

    def column(self) -> DatabaseColumn:
        """Return the column that says whether a row is deleted."""
        mark = f"case when ({self.when}) then 1 else 0 end" if self.when else "0"
        text = f"case when ({self.when}) then 'true' else 'false' end" if self.when else "'false'"
        return DatabaseColumn(DELETED, "BOOLEAN", mark, text)


def deletes_of(deleted_when: str | None, reconcile: str | timedelta | None, cursor: str | None) -> Deletes | None:
    """Return how deleted rows are recognized, from the options of a definition; raise `DefinitionError` for invalid ones."""
    if deleted_when is None and reconcile is None:
        return None
    if deleted_when is not None and not deleted_when.strip():
        raise DefinitionError("deleted_when= must be a condition", got=repr(deleted_when), do="remove it")
    every = None if reconcile is None else parse_duration(reconcile, "reconcile")
    if every is not None and cursor is None:
        raise DefinitionError(
            "reconcile= needs the name of a column as cursor=",
            got=f"cursor={cursor!r}",
            do="remove reconcile=: without a cursor, a row that vanished is not read again",
        )
    return Deletes((deleted_when or "").strip(), every)


@dataclass(frozen=True)
class KeyComparison:
    """The time of a plan, and the rows that the table of the source has; `None` if there is no table yet."""

    time: datetime
    stored: TableRows | None

    def is_due(self, every: timedelta | None, last: str | None) -> bool:
        """Return whether the keys are to be compared again, since the time of the last comparison."""
        if self.stored is None or every is None or last is None:
            return False
        return self.time - datetime.fromisoformat(last) >= every


def vanished_keys(
    stored: TableRows, key: Mapping[str, DatabaseColumn], fetches: Sequence[Callable[[], pa.Table]]
) -> tuple[tuple[str, ...], ...]:
    """Return the keys that the table of the source has and the database does not, as text and in order.

    `fetches` return the keys of the database, range by range. Raises `SourceError` if the table lacks a column of the key.
    """
    require_key(stored, tuple(key))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        present = pa.concat_tables(pool.map(lambda fetch: fetch(), fetches), promote_options="permissive")
    texts = [f"{quoted(name)}::varchar" for name in key]
    return missing_keys(stored, {name: column.type for name, column in key.items()}, present, texts)


def require_key(stored: TableRows, key: Sequence[str]) -> None:
    """Raise `SourceError` if the table of the source lacks a column that the comparison needs."""
    missing = [name for name in (*key, DELETED) if name not in stored.schema.names]
    if missing:
        raise SourceError(
            "the keys cannot be compared, because the table of the source lacks a column",
            got=few(map(repr, missing)),
            do="add it to schema=, and to columns= if there is one",
        )


def missing_keys(
    stored: TableRows, types: Mapping[str, str], present: pa.Table, texts: Sequence[str]
) -> tuple[tuple[str, ...], ...]:
    """Return the keys that the table of the source has and `present` does not, in order.

    `types` are the columns of the key with the types under which they are compared, and `texts` SQL for them as text.
    """
    names = tuple(types)
    with connect(filesystem=stored.filesystem) as con:
        con.register("_present", present)
        newest = (
            f"select {listed(names)} from ({stored.query}) group by {listed(names)} "
            f"having not coalesce(arg_max({DELETED}, {POSITION}), false)"
        )
        typed = ", ".join(f"try_cast({quoted(name)} as {kind}) as {quoted(name)}" for name, kind in types.items())
        chosen = ", ".join(f"{text} as {quoted(name)}" for text, name in zip(texts, names, strict=True))
        rows = arrow(
            con,
            f"select {chosen} from (select {typed} from ({newest})) s where {_all_there(names)} and not exists "
            f"(select 1 from _present p where {_same(names)}) order by {listed(names)}",
        )
    columns = [column.to_pylist() for column in rows.columns]
    return tuple(zip(*columns, strict=True))


def _all_there(names: Sequence[str]) -> str:
    return " and ".join(f"s.{quoted(name)} is not null" for name in names)


def _same(names: Sequence[str]) -> str:
    return " and ".join(f"p.{quoted(name)} = s.{quoted(name)}" for name in names)


def vanished_rows(columns: Sequence[FetchedColumn], key: Sequence[str], keys: Sequence[Sequence[str]]) -> pa.Table:
    """Return rows of keys that vanished, with the columns of a SELECT."""
    values = {name: pa.array([each[at] for each in keys], pa.string()) for at, name in enumerate(key)}
    arrays: dict[str, pa.Array] = {}
    for each in columns:
        name, kind = each.column.name, "VARCHAR" if each.is_text else each.column.type
        if name in values:
            arrays[name] = _of_type(values[name], kind)
        elif name == DELETED:
            arrays[name] = pa.repeat("true" if each.is_text else True, len(keys))
        else:
            arrays[name] = pa.nulls(len(keys), arrow_type(kind))
    if any(each.misfit for each in columns):
        arrays[REJECTED_ROW] = pa.nulls(len(keys), pa.string())
    return pa.table(arrays)


def _of_type(texts: pa.Array, kind: str) -> pa.Array:
    if kind == "VARCHAR":
        return texts
    with connect() as con:
        con.register("_texts", pa.table({"t": texts, "n": pc.cast(pa.arange(0, len(texts)), pa.int64())}))
        return arrow(con, f"select t::{kind} as t from _texts order by n").column("t").combine_chunks()
