"""The base class of readers of databases: columns come from the catalog, rows arrive with the types of the contract."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import duckdb
import pyarrow as pa

from pipeline.connectors.arrow import ArrowReader
from pipeline.connectors.contract import check_columns, undeclared_names
from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn, fetched, schema_of_columns
from pipeline.connectors.databases.typed_rows import read_result, scan_of, with_types
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.sources import ReadResult, ScanQuery
from pipeline.core.splits import SourceObject, SourceSplit


class SplitAccess(Protocol):
    """A connection to the database, in the transaction that reads a split."""

    def columns(self) -> tuple[DatabaseColumn, ...]:
        """Return the columns of the table or query, in its order."""

    def fetch(self, columns: Sequence[FetchedColumn]) -> pa.Table:
        """Return these columns of the split's rows; a row that the types cannot represent is in `REJECTED_ROW`."""


class DatabaseReader(ArrowReader):
    """A reader of a table or a query. Subclasses open the database for a split."""

    @abstractmethod
    def opened(self, split: SourceSplit) -> AbstractContextManager[SplitAccess]:
        """Connect to the database; raise `SourceUnavailableError` if it does not answer."""

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a split with the types of the database."""
        with self.opened(split) as access:
            columns = fetched(distinct(access.columns(), split), Schema(()), None)
            yield from _typed(access.fetch(columns), columns).to_batches()

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns with the types under which they are stored; the table may be empty."""
        split = SourceSplit(source_object)
        with self.opened(split) as access:
            return schema_of_columns(distinct(access.columns(), split))

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the columns that are not in the contract."""
        columns = self.schema(split.source_object)
        return columns.select(undeclared_names(schema, columns.names))

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield the rows of a split as a query if the database has the types of the contract."""
        with self.opened(split) as access:
            chosen, undeclared = self._chosen(access, split, schema)
            kinds = {each.column.name: "VARCHAR" if each.is_text else each.column.type for each in chosen}
            is_exact = not undeclared and all(kinds.get(name) == kind for name, kind in schema.as_dict().items())
            rows = _typed(access.fetch(chosen), chosen) if is_exact else None
        if rows is None:
            yield None
            return
        with scan_of(con, rows, schema, split.first) as scan:
            yield scan

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected rows; raise `SchemaError` for columns other than the contract's."""
        with self.opened(split) as access:
            chosen, undeclared = self._chosen(access, split, schema)
            rows = _typed(access.fetch(chosen), chosen)
        return read_result(rows, schema, undeclared, split.first)

    def _chosen(
        self, access: SplitAccess, split: SourceSplit, schema: Schema
    ) -> tuple[tuple[FetchedColumn, ...], tuple[str, ...]]:
        """Return the columns to fetch for a contract, and the names of those that it does not have."""
        columns = distinct(access.columns(), split)
        place = Place(split.source_object.uri)
        undeclared = check_columns(schema, tuple(column.name for column in columns), place, self.new_columns)
        return fetched(columns, schema, undeclared), undeclared


def _typed(rows: pa.Table, columns: Sequence[FetchedColumn]) -> pa.Table:
    return with_types(rows, (each.column for each in columns if not each.is_text))


def distinct(columns: tuple[DatabaseColumn, ...], split: SourceSplit) -> tuple[DatabaseColumn, ...]:
    """Return the columns; raise `SourceError` if the names of two differ only in case, which no table can hold."""
    names: dict[str, str] = {}
    for column in columns:
        other = names.setdefault(column.name.lower(), column.name)
        if other != column.name or len({c.name for c in columns}) < len(columns):
            raise SourceError(
                "the names of two columns are equal, or differ only in case",
                got=f"{other!r} and {column.name!r}",
                do="read one of them: columns=[…], or a query that renames one",
                place=Place(split.source_object.uri),
            )
    return columns
