"""Values that the type of their column cannot represent: how `source(..., new_types=)` handles the rows that have one.

A reader rejects such rows with their text. The text is parsed again with every column as text, so the rules are the same
for all readers. Reading more rows than the rejected ones is never necessary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.values import value_of
from pipeline.core.errors import Place, SchemaError, WiderTypesError
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import POSITION, ReadResult, Reparsable
from pipeline.core.type_policy import TypePolicy
from pipeline.kernel.engine import arrow, connect, one
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.type_widening import wider_types


@dataclass(frozen=True)
class Kept:
    """The rows of a reading after the rule was applied, and the number of values that were replaced by null by column."""

    reading: ReadResult
    discarded: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TypeRule:
    """The rule of a source for values that the type of their column cannot represent."""

    policy: TypePolicy
    parser: Reparsable

    def applied(self, reading: ReadResult, schema: Schema, uri: str) -> Kept:
        """Return the rows to store and to quarantine.

        Raises `SchemaError` for a rejected row that is frozen, and `WiderTypesError` if wider types of columns that may evolve
        can represent some of the values.
        """
        rejected = reading.rejected
        if not rejected.num_rows or self.policy.actions == {"discard_row"}:
            return Kept(reading)
        if self.policy.every == "freeze":
            raise _frozen(reading, 0, uri)
        texts = self.parser.parse(rejected["row"].to_pylist(), Schema.of(dict.fromkeys(schema.names, "VARCHAR"))).rows
        with connect() as con:
            con.register("_texts", texts)
            for column in schema.select(self.policy.columns_with("freeze", schema.names)).columns:
                first = one(con, f"select min({POSITION}) {_misfits(column)}")[0]
                if first is not None:
                    raise _frozen(reading, first - 1, uri)
            evolving = schema.select(self.policy.columns_with("evolve", schema.names))
            wider = dict(_wider_types(con, evolving))
            if wider:
                raise WiderTypesError.of(wider, Place(uri, rejected[POSITION][0].as_py()))
            names = self.policy.columns_with("discard_value", schema.names)
            return _with_nulls(con, reading, schema, names) if names else Kept(reading)


def _frozen(reading: ReadResult, number: int, uri: str) -> SchemaError:
    return SchemaError(
        "a row does not match the contract",
        got=str(reading.rejected["reason"][number]),
        do="correct the data or schema=, or quarantine such rows: source(…, new_types='discard_row')",
        place=Place(uri, reading.rejected[POSITION][number].as_py()),
    )


def type_rule(policy: TypePolicy, reader: object) -> TypeRule | None:
    """Return the rule for the rows of a reader; `None` if rows that do not match the contract are quarantined."""
    return TypeRule(policy, reader) if policy.actions != {"discard_row"} and isinstance(reader, Reparsable) else None


def discarded_checks(discarded: Mapping[str, int]) -> dict[str, int]:
    """Return the checks that count the values that were replaced by null, from their number by column."""
    return {f"{column}_fits_its_type": count for column, count in discarded.items()}


def _with_nulls(con: duckdb.DuckDBPyConnection, reading: ReadResult, schema: Schema, names: Collection[str]) -> Kept:
    """Return the readable rows with null instead of the values of these columns that do not fit; others stay rejected."""
    values = ", ".join(f"{value_of(column, quoted(column.name))} as {quoted(column.name)}" for column in schema.columns)
    con.execute(f"create temp table _values as select {values}, {POSITION} as _number from _texts")
    is_misfit = {name: f"(v.{quoted(name)} is null and t.{quoted(name)} is not null)" for name in schema.names}
    is_discarded = [is_misfit[name] for name in schema.names if name in names]
    is_kept = [f"not {is_misfit[name]}" for name in schema.names if name not in names]
    conditions = " and ".join([f"({' or '.join(is_discarded)})", *is_kept])
    joined = f"_values v join _texts t on v._number = t.{POSITION} where {conditions}"
    counts = ", ".join(f"count(*) filter ({test})" for test in is_misfit.values())
    discarded = dict(zip(schema.names, one(con, f"select {counts} from {joined}"), strict=True))
    rows = arrow(con, f"select v.* from {joined} order by v._number")
    numbers = pc.subtract(rows.column("_number"), 1)
    positions = reading.rejected[POSITION].take(numbers)
    saved = rows.drop_columns(["_number"]).append_column(POSITION, positions).select(reading.rows.column_names)
    together = pa.concat_tables([reading.rows, saved.cast(reading.rows.schema)]).sort_by(POSITION)
    is_left = pc.invert(pc.is_in(reading.rejected[POSITION], positions.combine_chunks()))
    left = ReadResult(together, reading.rejected.filter(is_left))
    return Kept(left, {name: count for name, count in discarded.items() if count})


def _wider_types(con: duckdb.DuckDBPyConnection, schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield the columns whose misfits a wider type can represent, with the narrowest such type."""
    for column in schema.columns:
        name, own = quoted(column.name), column.type
        misfits = _misfits(column)
        count = one(con, f"select count(*) {misfits}")[0]
        best, most = own, 0
        for kind in wider_types(own) if count else ():
            fitting = one(con, f"select count({value_of(Column(column.name, kind), name)}) {misfits}")[0]
            if fitting > most:
                best, most = kind, fitting
            if most == count:
                break
        if most:
            yield column.name, best


def _misfits(column: Column) -> str:
    """Return the FROM and WHERE clauses of the texts that are no values of a column."""
    return f"from _texts where {quoted(column.name)} is not null and {value_of(column, quoted(column.name))} is null"
