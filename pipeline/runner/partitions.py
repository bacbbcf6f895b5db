"""The partitions of a table: existing ones, requested ones, and the rows of a partition."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb

from pipeline.batch.work import InputQuery, RowProducer, Split
from pipeline.core.errors import RequestError, few
from pipeline.core.partition_fields import PartitionField
from pipeline.kernel.engine import one, plain_type
from pipeline.kernel.partition_transforms import transformed, transformed_type
from pipeline.kernel.planner.pruning import FileCondition, bound_of
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import stored_type


@dataclass(frozen=True)
class PartitionColumn:
    """The first partition field of a table, and the stored type of its column. A partition is a value of the field."""

    field: PartitionField
    of_type: str

    @property
    def name(self) -> str:
        """The name of the column."""
        return self.field.column

    @property
    def type(self) -> str:
        """The type of the values of the field."""
        return transformed_type(self.field, self.of_type)

    def of(self, value: str) -> str:
        """Return SQL for the partition of a value of the column, given as SQL."""
        return transformed(self.field, value, self.of_type)

    def value(self, partition: str | None) -> str:
        """Return SQL for a partition's value, given as DuckDB prints it."""
        return "null" if partition is None else f"{literal(partition)}::{self.type}"

    def holds(self, partition: str | None) -> str:
        """Return the condition that a row is in a partition."""
        return f"{self.of(quoted(self.name))} is not distinct from {self.value(partition)}"

    def files(self, partition: str | None) -> tuple[FileCondition, ...]:
        """Return the conditions on the files that may have rows of a partition; none for null, whose files have no bounds."""
        if partition is None:
            return ()
        if self.field.transform == "bucket":
            return (FileCondition(self.name, "true", self.of_type, (), {self.field.size: int(partition)}),)
        low, high = self.of(bound_of(self.name, "min", self.of_type)), self.of(bound_of(self.name, "max", self.of_type))
        value = self.value(partition)
        return (FileCondition(self.name, f"({low} <= {value} and {high} >= {value})", self.of_type),)


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


def column_of(con: duckdb.DuckDBPyConnection, query: str, field: PartitionField) -> PartitionColumn:
    """Return a field of a query's rows with its stored type; raise `RequestError` if its column does not exist."""
    types = {str(row[0]): plain_type(str(row[1])) for row in con.execute(f"describe {query}").fetchall()}
    if field.column not in types:
        raise RequestError(f"the rows have no column {field.column!r} to partition by", got=few(types))
    return PartitionColumn(field, stored_type(types[field.column]))


def every_partition(
    con: duckdb.DuckDBPyConnection, column: PartitionColumn, queries: Sequence[str]
) -> tuple[str | None, ...]:
    """Return the partitions of the rows of the queries, ordered by their type, null last."""
    every = " union ".join(
        f"select ({column.of(quoted(column.name))})::{column.type} as p from ({q}\n) as _headwater_all" for q in queries
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
                f"{end!r} is not a value of the partition column {str(column.field)!r}",
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
    return f"{column.field} is from {shown[0]} to {shown[-1]}" if len(shown) > 1 else f"there is only {shown[0]}"
