"""The base class of readers of tables that consist of data files: rows with the types of the contract are not copied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from pipeline.connectors.arrow import ArrowReader
from pipeline.connectors.contract import check_columns, undeclared_names
from pipeline.connectors.databases.typed_rows import read_result, scan_of
from pipeline.core.errors import Place
from pipeline.core.schema import Schema
from pipeline.core.sources import ReadResult, ScanQuery
from pipeline.core.splits import SourceSplit
from pipeline.kernel.types import stored


class TableReader(ArrowReader):
    """A reader of a table, whose splits are data files. Subclasses know its columns without reading rows."""

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the columns of the table that are not in the contract."""
        columns = self.schema(split.source_object)
        return columns.select(undeclared_names(schema, columns.names))

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield the rows of a data file as a query if they have the types of the contract."""
        columns = self.schema(split.source_object)
        place = Place(split.source_object.uri)
        undeclared = check_columns(schema, columns.names, place, self.new_columns)
        kinds = stored(columns).as_dict()
        if undeclared or any(kinds.get(name) != kind for name, kind in schema.as_dict().items()):
            yield None
            return
        batches = list(self.batches(split))
        if not batches:
            yield None
            return
        with scan_of(con, _with_short_offsets(pa.Table.from_batches(batches)), schema, split.first) as scan:
            yield scan

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected rows; raise `SchemaError` for columns other than the contract's."""
        batches = list(self.batches(split))
        if not batches:
            return super().read(split, schema)
        rows = _with_short_offsets(pa.Table.from_batches(batches))
        undeclared = check_columns(schema, tuple(rows.column_names), Place(split.source_object.uri), self.new_columns)
        return read_result(rows, schema, undeclared, split.first)


def _with_short_offsets(rows: pa.Table) -> pa.Table:
    """Return texts and binary values as the lake stores them."""
    for at, field in enumerate(rows.schema):
        short = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}.get(field.type)
        if short is not None:
            rows = rows.set_column(at, field.name, rows.column(at).cast(short))
    return rows
