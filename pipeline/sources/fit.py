"""Holding rows to a contract: what fits is cast, what does not is set aside with the reason."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import Place, SchemaError
from pipeline.core.reading import POSITION, PROVENANCE, Reading
from pipeline.core.schema import Column, Schema, compare
from pipeline.kernel.engine import arrow, literal, quoted

RAW = "raw"
"""The temporary table that `fit` reads: `_position` and the values as they came."""
REJECTED = pa.schema([(POSITION, pa.int64()), ("reason", pa.string()), ("row", pa.string())])
INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"})


@dataclass(frozen=True)
class Raw:
    """How to find things in the table `raw`: SQL for each column's value, for a whole row as text, and for no row."""

    values: dict[str, str]
    row: str
    bad: str = "false"
    why: str = "''"
    """SQL for the reason given for a row for which `bad` is true."""


def hold(schema: Schema, names: tuple[str, ...], place: Place) -> None:
    """Raise `SchemaError` when a file has other columns than its contract, in whatever order."""
    ours = next((name for name in names if name in PROVENANCE), None)
    if ours is not None:
        raise SchemaError(
            f"the column name {ours!r} is taken: every row carries where it came from under it",
            do="rename the column in the file",
            place=place,
        )
    contract, found = (Schema.of(dict.fromkeys(n, "")) for n in (schema.names, names))
    change = compare(contract, found)
    if change:
        raise SchemaError(
            "the columns are not those of the contract",
            got=str(change),
            do="change schema= or the file; `headwater run --full` then takes the new columns",
            place=place,
        )


def fit(con: duckdb.DuckDBPyConnection, schema: Schema, raw: Raw) -> Reading:
    """Cast the rows of `raw` to the contract; one with a value that cannot be cast is rejected.

    A number with a fraction is no integer, and a list with a misfit in it is none of its type: nothing is rounded
    or lost within a row that stays.
    """
    columns = casts(schema, raw.values)
    reason = f"case when {raw.bad} then {raw.why} else {misfits(schema, raw.values)} end"
    rows = arrow(con, f"select {columns}, {POSITION} from {RAW} where ({reason}) is null order by {POSITION}")
    rejected = arrow(
        con,
        f"select * from (select {POSITION}, {reason} as reason, {raw.row} as row from {RAW}) "
        f"where reason is not null order by {POSITION}",
    )
    return Reading(rows, rejected.cast(REJECTED))


def casts(schema: Schema, values: dict[str, str]) -> str:
    """Return SQL for the columns in their types, null where a value does not fit."""
    return ", ".join(f"{_cast(values[c.name], c)} as {quoted(c.name)}" for c in schema.columns)


def any_misfit(schema: Schema, values: dict[str, str]) -> str:
    """Return SQL that is true where one of a row's values does not fit."""
    return " or ".join(_misfit(values[c.name], _cast(values[c.name], c), c) for c in schema.columns) or "false"


def misfits(schema: Schema, values: dict[str, str] | None = None) -> str:
    """Return SQL for the reason why a row does not fit, or null; `values` are the columns themselves by default."""
    parts = []
    for column in schema.columns:
        value = quoted(column.name) if values is None else values[column.name]
        wrong = _misfit(value, _cast(value, column), column)
        parts.append(f"case when {wrong} then {literal(not_of(column))} || ({value})::varchar end")
    return f"nullif(concat_ws('; ', {', '.join(parts)}), '')" if parts else "null::varchar"


def moved(reading: Reading, by: int) -> Reading:
    """Return what was read with all positions greater by so much."""
    return reading if by == 0 else Reading(_moved(reading.rows, by), _moved(reading.rejected, by))


def _moved(rows: pa.Table, by: int) -> pa.Table:
    at = rows.schema.get_field_index(POSITION)
    return rows.set_column(at, POSITION, pc.add(rows.column(at), by))


def not_of(column: Column) -> str:
    """Return the words before a value that is not of its column's type."""
    return f"column {column.name!r} is not {column.type}: "


def _cast(value: str, column: Column) -> str:
    if column.type.endswith("]") or column.type.startswith(("STRUCT", "MAP")):
        # try_cast of a nested value makes a misfit inside it null; try(cast) makes the whole value null
        return f"try(cast({value} as {column.type}))"
    return f"try_cast({value} as {column.type})"


def _misfit(value: str, cast: str, column: Column) -> str:
    wrong = f"{cast} is null"
    if column.type in INTEGERS:
        wrong += f" or try_cast({value} as double) is distinct from ({cast})::double"
    return f"(({value}) is not null and ({wrong}))"
