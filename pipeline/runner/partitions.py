"""The partitions of a table: existing ones, requested ones, and the rows of a partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb

from pipeline.batch.work import InputQuery, RowProducer, Split
from pipeline.core.errors import RequestError, few
from pipeline.kernel.engine import one, plain_type
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import stored_type


@dataclass(frozen=True)
class PartitionColumn:
    """The first partition column of a table, and its stored type."""

    name: str
    type: str

    def value(self, partition: str | None) -> str:
        """Return SQL for a partition's value, given as DuckDB prints it."""
        return "null" if partition is None else f"{literal(partition)}::{self.type}"

    def holds(self, partition: str | None) -> str:
        """Return the condition that a row is in a partition."""
        return f"{quoted(self.name)} is not distinct from {self.value(partition)}"


@dataclass(frozen=True)
class PartitionProducer:
    """The rows of one partition of another producer; DuckDB pushes the condition down to the inputs."""

    producer: RowProducer
    column: PartitionColumn
    partition: str | None

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Yield the query filtered by the condition."""
        with self.producer.for_validation(con, split) as input_query:
            yield self._of(input_query)

    @contextmanager
    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery | None]:
        """Yield the query filtered by the condition, if the producer has one for the fast path."""
        with self.producer.for_fast_path(con, split) as input_query:
            yield None if input_query is None else self._of(input_query)

    def _of(self, input_query: InputQuery) -> InputQuery:
        query = f"select * from ({input_query.query}\n) as _headwater_all where {self.column.holds(self.partition)}"
        return replace(input_query, query=query)


def column_of(con: duckdb.DuckDBPyConnection, query: str, name: str) -> PartitionColumn:
    """Return a column of a query with its stored type; raise `RequestError` if it does not exist."""
    types = {str(row[0]): plain_type(str(row[1])) for row in con.execute(f"describe {query}").fetchall()}
    if name not in types:
        raise RequestError(f"the rows have no column {name!r} to partition by", got=few(types))
    return PartitionColumn(name, stored_type(types[name]))


def every_partition(
    con: duckdb.DuckDBPyConnection, column: PartitionColumn, queries: Sequence[str]
) -> tuple[str | None, ...]:
    """Return the partitions of the rows of the queries, ordered by their type, null last."""
    every = " union ".join(
        f"select {quoted(column.name)}::{column.type} as p from ({q}\n) as _headwater_all" for q in queries
    )
    return tuple(row[0] for row in con.execute(f"select p::varchar from ({every}) order by p nulls last").fetchall())


def within(
    con: duckdb.DuckDBPyConnection, column: PartitionColumn, every: Sequence[str | None], range_text: str
) -> tuple[str, ...]:
    """Return the partitions selected by `A`, `A..B`, `A..` or `..B` (inclusive), ordered by the type.

    Raises `RequestError` for a bound that is not of the column's type, and if no partition is selected.
    """
    first, dots, last = range_text.partition("..")
    ends = {">=": first, "<=": last if dots else first}
    for end in filter(None, ends.values()):
        if one(con, f"select try_cast({literal(end)} as {column.type})")[0] is None:
            raise RequestError(
                f"{end!r} is not a value of the partition column {column.name!r}",
                got=f"a column of {column.type}",
                do="write --partitions A, A..B, A.. or ..B",
            )
    known = [p for p in every if p is not None]
    is_in = " and ".join(f"p {sign} {column.value(end)}" for sign, end in ends.items() if end) or "true"
    values = ", ".join(f"({literal(p)}, {column.value(p)})" for p in known)
    rows = (
        con.execute(f"select t from (values {values}) as v(t, p) where {is_in} order by p").fetchall() if known else []
    )
    if not rows:
        raise RequestError(f"no partition is in {range_text!r}", do=_known(every, column))
    return tuple(str(row[0]) for row in rows)


def _known(every: Sequence[str | None], column: PartitionColumn) -> str:
    shown = [str(p) for p in every if p is not None]
    if not shown:
        return "the inputs have no rows"
    return f"{column.name} is from {shown[0]} to {shown[-1]}" if len(shown) > 1 else f"there is only {shown[0]}"
