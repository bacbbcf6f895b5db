"""The blocks of a Ray dataset in the lake's storage: the workers that compute them write them, and tasks read them.

The files are removed after the step. Each attempt of a task writes files of its own, because an earlier one may still run.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import Datasink, WriteResult

from pipeline.batch.work import InputQuery, Split
from pipeline.core.schema import Schema
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import Storage

_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class WrittenBlock:
    """A file with the rows of one block; `size_bytes` is their size in memory."""

    file: DataFile
    schema: pa.Schema


class BlockDatasink(Datasink[list[WrittenBlock]]):
    """Writes each block to a file, in the worker that computes it; only the names and schemas reach the driver."""

    def __init__(self, place: Storage) -> None:
        """Create the sink; nothing is written yet."""
        self.blocks: tuple[WrittenBlock, ...] = ()
        """The blocks in the order of their files, once all are written."""
        self._place = place

    def write(self, blocks: Iterable[Block], ctx: Any) -> list[WrittenBlock]:
        """Write the blocks of one task."""
        self._place.make()
        stem = f"block-{ctx.task_idx:06d}-{secrets.token_hex(4)}"
        return [self._write(f"{stem}-{number:04d}.arrow", block) for number, block in enumerate(blocks)]

    def _write(self, name: str, block: Block) -> WrittenBlock:
        rows = BlockAccessor.for_block(block).to_arrow().replace_schema_metadata(None)
        if rows.num_rows:
            content = pa.BufferOutputStream()
            with pa.ipc.new_file(content, rows.schema, options=_OPTIONS) as file:
                file.write_table(rows)
            self._place.write_bytes(name, content.getvalue().to_pybytes())
        return WrittenBlock(DataFile(f"{self._place.uri}/{name}", rows.num_rows, rows.nbytes), rows.schema)

    def on_write_complete(self, write_result: WriteResult[list[WrittenBlock]]) -> None:
        """Collect what the tasks returned; in the driver."""
        written = [block for blocks in write_result.write_returns for block in blocks or ()]
        self.blocks = tuple(sorted(written, key=lambda block: block.file.uri))


@dataclass(frozen=True)
class BlockProducer:
    """Produces the rows of blocks, cast to common columns and types."""

    schema: pa.Schema
    place: Storage

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Read the blocks of a split, and register their rows."""
        files = () if split.scan is None else split.scan.files
        rows = pa.concat_tables([self.schema.empty_table(), *map(self._read, files)])
        con.register("_given", rows)
        yield InputQuery("select * from _given", rows_in=rows.num_rows, bytes_in=split.size_bytes)

    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery]:
        """Do the same: the rows are in memory either way."""
        return self.for_validation(con, split)

    def _read(self, file: DataFile) -> pa.Table:
        name = file.uri.removeprefix(f"{self.place.uri}/")
        try:
            with self.place.open(name) as content:
                rows = pa.ipc.open_file(content).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise self.place.failed(f"cannot read {name!r} below {self.place.uri}", error) from error
        return rows.select(self.schema.names).cast(self.schema)


def scan_of(blocks: Sequence[WrittenBlock]) -> Scan:
    """Return the blocks that have rows, to divide them into splits; their columns are those of `BlockProducer`."""
    return Scan(Schema(()), tuple(block.file for block in blocks if block.file.rows))
