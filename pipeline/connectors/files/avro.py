"""Avro files: split between blocks; a position is the row number in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import duckdb
import pyarrow as pa

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.files.arrow_rows import microseconds, register
from pipeline.connectors.files.avro_blocks import AvroContainer, Block
from pipeline.connectors.files.avro_decoders import decoder_of
from pipeline.connectors.files.avro_types import AvroFileColumns
from pipeline.connectors.files.stores import Ranges
from pipeline.connectors.files.typed import RowGroup, TypedRows
from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
from pipeline.kernel.types import from_arrow

_BATCH_BYTES = 8 << 20
"""The size of the records that are decoded at once."""


@dataclass(frozen=True)
class AvroFile:
    """An Avro file: its location, its header, and its columns under the names of the table."""

    path: str
    container: AvroContainer
    columns: AvroFileColumns
    names: tuple[str, ...]
    place: Place

    @property
    def types(self) -> pa.Schema:
        """The columns under the names of the table, with the types that a lake stores."""
        types = [microseconds(field.type) for field in self.columns.types]
        return pa.schema(list(zip(self.names, types, strict=True)))

    def schema(self, con: duckdb.DuckDBPyConnection) -> Schema:
        """Return the columns and types."""
        del con
        return from_arrow(self.types)

    def rows(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, *, exact: bool) -> TypedRows:
        """Return the rows of the blocks that begin within the split's bytes."""
        del exact  # Avro has no times that are more precise
        try:
            with Path(self.path).open("rb") as file:
                blocks = list(self.container.blocks(file, split.begin, split.end))
        except ValueError as error:
            raise self._error(error) from error
        name = register(con, self.path, pa.RecordBatchReader.from_batches(self.types, self._batches(blocks)))
        count = sum(block.rows for block in blocks)
        return TypedRows(name, f"row_number() over () + {split.first - 1}", count)

    def _batches(self, blocks: Sequence[Block]) -> Iterator[pa.RecordBatch]:
        decode = decoder_of(self.container, self.columns, self.types)
        with Path(self.path).open("rb") as file:
            for group in _grouped(blocks):
                try:
                    rows = decode([(each.rows, self._records(file, each)) for each in group])
                except ValueError as error:
                    raise self._error(error) from error
                count = sum(block.rows for block in group)
                if rows.num_rows != count:
                    got = f"{rows.num_rows} instead of {count} records after byte {group[0].begin}"
                    raise self._error(ValueError(got))
                yield from rows.combine_chunks().to_batches()

    def _records(self, file: BinaryIO, block: Block) -> bytes:
        records = self.container.records(file, block)
        if block.rows > len(records):  # a decoder would reserve memory for them
            raise ValueError(f"the block at byte {block.begin} has {block.rows} records in {len(records)} bytes")
        return records

    def _error(self, error: ValueError) -> SourceError:
        return SourceError("the file cannot be read as AVRO", got=str(error), place=self.place)


class AvroFormat:
    """The format Avro, whose blocks are found by reading the file."""

    has_index = False

    def open(self, path: str, naming: ColumnNames, place: Place) -> AvroFile:
        """Read the header of a file; raise `SourceError` if it is not Avro, or has names that differ only in case."""
        try:
            with Path(path).open("rb") as file:
                container = AvroContainer.of(file)
            columns = AvroFileColumns.of(container.schema)
        except ValueError as error:
            raise SourceError("the file cannot be read as AVRO", got=str(error), place=place) from error
        return AvroFile(path, container, columns, naming.named(columns.types.names, place), place)

    def groups(self, file: BinaryIO) -> Sequence[RowGroup]:
        """Return the blocks; none if one is damaged."""
        groups, first = [], 1
        try:
            for block in AvroContainer.of(file).blocks(file):
                groups.append(RowGroup(block.begin, first, block.end - block.begin))
                first += block.rows
        except ValueError:
            return ()
        return groups

    def ranges(self, file: BinaryIO, split: SourceSplit) -> Ranges:
        """Return the bytes of the header and of a split; the entire file if it is damaged."""
        try:
            header_bytes = AvroContainer.of(file).header_bytes
        except ValueError:  # reading the file reports it
            return ((0, split.source_object.size_bytes),)
        return ((0, header_bytes), (max(split.begin, header_bytes), split.end or split.source_object.size_bytes))


def _grouped(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    group: list[Block] = []
    for block in blocks:
        group.append(block)
        if block.end - group[0].begin >= _BATCH_BYTES:
            yield group
            group = []
    if group:
        yield group
