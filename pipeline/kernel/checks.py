"""Expectations: each row is marked with the expectations it violates, and then kept, quarantined or dropped.

The rows of a step are materialized once, in the temporary table `_made`, with one bit per violated expectation. Rows
without a `quarantine` or `drop` bit are kept; a `fail` bit on any row fails the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import duckdb

from pipeline.core.definitions import NOT_NULL, SEQUENCED, UNIQUE, Action, Expectation
from pipeline.core.errors import DefinitionError, few
from pipeline.core.merge_options import Merge
from pipeline.core.sources import INGESTED_AT, POSITION, SOURCE
from pipeline.kernel.engine import one, schema_of
from pipeline.kernel.option_expressions import BINDING_ERRORS, condition_expressions, require_fitting
from pipeline.kernel.sql_text import listed, literal, quoted

MADE = "_made"
BITS = "_bits"
MOST = 62
"""The maximum number of expectations of a table, because their bits are stored in a BIGINT."""


def key_expectations(key: tuple[str, ...]) -> tuple[Expectation, ...]:
    """Return the expectations of a key: it is not null, and it is unique. The first row by `rank` is kept."""
    if not key:
        return ()
    present = " and ".join(f"{quoted(name)} is not null" for name in key)
    return (
        Expectation(NOT_NULL, present, Action.QUARANTINE),
        Expectation(UNIQUE, "true", Action.QUARANTINE),
    )


def merge_expectations(key: tuple[str, ...], merge: Merge) -> tuple[Expectation, ...]:
    """Return the expectations of a merged table: the key and the sequence are not null."""
    ordered = " and ".join(f"{quoted(name)} is not null" for name in merge.sequence_by)
    present = key_expectations(key)[0]
    if merge.apply_as_truncates is not None:
        is_truncate = f"coalesce(({merge.apply_as_truncates}\n), false)"
        present = Expectation(present.name, f"{is_truncate} or ({present.condition})", present.action)
    return (present, Expectation(SEQUENCED, ordered, Action.QUARANTINE))


def unless_deleted(expectations: tuple[Expectation, ...], merge: Merge) -> tuple[Expectation, ...]:
    """Return the expectations such that rows that delete their key, or all keys, satisfy all of them."""
    conditions = [each for each in (merge.apply_as_deletes, merge.apply_as_truncates) if each is not None]
    if not conditions:
        return expectations
    is_delete = " or ".join(f"coalesce(({condition}\n), false)" for condition in conditions)
    return tuple(replace(e, condition=f"{is_delete} or ({e.condition}\n)") for e in expectations)


def bits_of(expectations: Sequence[Expectation]) -> str:
    """Return SQL for the violated expectations of a row, as bits of a BIGINT."""
    bits = (f"(case when ({e.condition}\n) then 0 else {1 << i} end)::bigint" for i, e in enumerate(expectations))
    return " | ".join(bits) or "0::bigint"


def mask_of(expectations: Sequence[Expectation], *actions: Action) -> int:
    """Return the bits of all expectations with one of the actions."""
    return sum(1 << i for i, e in enumerate(expectations) if e.action in actions)


def reasons_of(expectations: Sequence[Expectation], bits: int) -> str:
    """Return why a row with these bits is quarantined: the names of the violated expectations."""
    names = (e.name for i, e in enumerate(expectations) if e.action is Action.QUARANTINE and bits & 1 << i)
    return ", ".join(names)


def origin_of(names: Sequence[str]) -> tuple[str, str]:
    """Return SQL for the source (VARCHAR) and the position (BIGINT) of a row with these columns; null if unknown."""
    source = f"{SOURCE}::varchar" if SOURCE in names else "null::varchar"
    return source, f"try_cast({POSITION} as bigint)" if POSITION in names else "null::bigint"


def row_as_json(names: Iterable[str]) -> str:
    """Return SQL for these columns of a row as JSON text."""
    fields = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in names)
    return f"to_json(struct_pack({fields}))::varchar"


@dataclass(frozen=True)
class MarkedRows:
    """The marked rows of a step, in the table `_made`; `columns` are the columns to keep."""

    expectations: tuple[Expectation, ...]
    columns: tuple[str, ...]
    provenance: tuple[str, ...]

    def mask(self, *actions: Action) -> int:
        """Return the bits of all expectations with one of the actions."""
        return mask_of(self.expectations, *actions)

    def violations(self, con: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Return the number of violations of each expectation."""
        if not self.expectations:
            return {}
        counts = ", ".join(f"count(*) filter (where {BITS} & {1 << i} != 0)" for i in range(len(self.expectations)))
        row = one(con, f"select {counts} from {MADE}")
        return {e.name: int(count) for e, count in zip(self.expectations, row, strict=True)}

    def kept(self, types: dict[str, str] | None = None) -> str:
        """Return the SELECT of the kept rows, with each column in the type to store."""
        away = self.mask(Action.QUARANTINE, Action.DROP)
        types = types or {}
        columns = ", ".join(
            f"{quoted(name)}::{types[name]} as {quoted(name)}" if name in types else quoted(name)
            for name in self.columns
        )
        return f"select {columns} from {MADE} where {BITS} & {away} = 0"

    def rejected(self) -> str:
        """Return the SELECT of the quarantined rows: `reasons`, provenance if known, and the row as JSON."""
        mask = self.mask(Action.QUARANTINE)
        cases = ", ".join(
            f"case when {BITS} & {1 << i} != 0 then {literal(e.name)} end"
            for i, e in enumerate(self.expectations)
            if e.action is Action.QUARANTINE
        )
        source, position = origin_of(self.provenance)
        return (
            f"select array_to_string(list_filter([{cases}], lambda x: x is not null), ', ') as reasons, "
            f"{source} as _source, {position} as _position, {row_as_json(self.columns)} as row "
            f"from {MADE} where {BITS} & {mask} != 0"
        )

    def counts(self, con: duckdb.DuckDBPyConnection) -> tuple[int, int, int]:
        """Return the numbers of all, quarantined and dropped rows; a row that is both counts as quarantined."""
        quarantine, drop = self.mask(Action.QUARANTINE), self.mask(Action.DROP)
        row = one(
            con,
            f"select count(*), count(*) filter (where {BITS} & {quarantine} != 0), "
            f"count(*) filter (where {BITS} & {quarantine} = 0 and {BITS} & {drop} != 0) from {MADE}",
        )
        return int(row[0]), int(row[1]), int(row[2])


def mark(
    con: duckdb.DuckDBPyConnection,
    query: str,
    expectations: tuple[Expectation, ...],
    *,
    hidden: tuple[str, ...] = (),
    merge: Merge | None = None,
) -> MarkedRows:
    """Materialize a query's rows with a bit for each violated expectation; `hidden` columns are not kept.

    Raises `DefinitionError` for more than 62 expectations, duplicate column names, the reserved names `_bits` and `rowid`,
    and a condition that does not fit the rows; `merge` is that of the table. DuckDB's errors for the query are not
    translated.
    """
    if len(expectations) > MOST:
        raise DefinitionError(f"a table has at most {MOST} expectations", got=str(len(expectations)))
    produced = schema_of(con, query)
    names = produced.names
    require_distinct(names)
    try:
        con.execute(
            f"create or replace temp table {MADE} as "
            f"select *, {bits_of(expectations)} as {BITS} from ({query}\n) as _headwater_made"
        )
    except BINDING_ERRORS:
        require_fitting(con, produced, condition_expressions(expectations, merge))
        raise
    kept = tuple(name for name in names if name not in hidden)
    provenance = tuple(name for name in (SOURCE, POSITION) if name in names)
    return MarkedRows(expectations, kept, provenance)


def require_distinct(names: tuple[str, ...]) -> None:
    """Raise `DefinitionError` for duplicate and reserved column names."""
    seen = {BITS, "rowid"}
    for name in names:
        if name.lower() in seen:
            problem = "reserved column name" if name.lower() in {BITS, "rowid"} else "duplicate column name"
            raise DefinitionError(f"{problem} {name!r}", got=few(names), do="rename the column")
        seen.add(name.lower())


def mark_duplicates(
    con: duckdb.DuckDBPyConnection, marked: MarkedRows, key: tuple[str, ...], order: str = "rowid"
) -> None:
    """Set the bit of `key_is_unique` on all rows of a key except the first in `order`, ignoring otherwise rejected rows."""
    names, bit, away = listed(key), _unique_bit(marked), _away(marked)
    several = f"select {names} from {MADE} where {BITS} & {away} = 0 group by all having count(*) > 1"
    con.execute(
        f"update {MADE} set {BITS} = {BITS} | {bit} from ("
        f"select rowid as later from {MADE} semi join ({several}) using ({names}) where {BITS} & {away} = 0 "
        f"qualify row_number() over (partition by {names} order by {order}) > 1) as d where {MADE}.rowid = d.later"
    )


def mark_known(con: duckdb.DuckDBPyConnection, marked: MarkedRows, key: tuple[str, ...], existing: str) -> int:
    """Set the bit of `key_is_unique` on rows whose key is in the SELECT `existing`; return their number."""
    bit, away = _unique_bit(marked), _away(marked)
    same = " and ".join(f"{MADE}.{quoted(name)} = d.{quoted(name)}" for name in key)
    marked_rows = con.execute(
        f"update {MADE} set {BITS} = {BITS} | {bit} from (select distinct {listed(key)} from ({existing})) as d "
        f"where {BITS} & {away} = 0 and {same}"
    ).fetchone()
    return 0 if marked_rows is None else int(marked_rows[0])


def count_before(con: duckdb.DuckDBPyConnection, marked: MarkedRows, key: tuple[str, ...], existing: str) -> int:
    """Return the number of rows that rank before the row with their key in `existing`, a SELECT with the same columns."""
    names = [quoted(name) for name in _ranked(marked.columns)]
    new, old = (", ".join(f"c{n} := {side}.{name}" for n, name in enumerate(names)) for side in (MADE, "d"))
    query = (
        f"select count(*) from {MADE} join ({existing}) as d using ({listed(key)}) "
        f"where {BITS} & {_away(marked)} = 0 and struct_pack({new}) < struct_pack({old})"
    )
    return int(one(con, query)[0])


def rank(names: Sequence[str]) -> str:
    """Return the ORDER BY of rows of one key: by their position in the source if known, then by their values."""
    return listed(_ranked(names))


def _ranked(names: Sequence[str]) -> tuple[str, ...]:
    first = [name for name in (SOURCE, POSITION) if name in names]
    rest = (name for name in names if name not in {*first, INGESTED_AT, BITS})
    return (*first, *rest)


def _unique_bit(marked: MarkedRows) -> int:
    return 1 << next(i for i, e in enumerate(marked.expectations) if e.name == UNIQUE)


def _away(marked: MarkedRows) -> int:
    return marked.mask(Action.QUARANTINE, Action.DROP) & ~_unique_bit(marked)
