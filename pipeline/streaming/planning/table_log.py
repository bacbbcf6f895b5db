"""A table of the lake as a log: its versions in order, each with the rows that it added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import cast

import duckdb
import pyarrow as pa

from pipeline.batch.work import InputQuery, RowProducer, Split
from pipeline.connectors.direct_tail import DirectTail
from pipeline.core.epochs import Epoch, InputProgress
from pipeline.core.errors import NewColumnsError, RequestError, SourceError, StorageError
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import INGESTED_AT, POSITION, PROVENANCE, SOURCE, Extent, LogTraits, SplitReader, Tail
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import empty
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.type_widening import is_wider
from pipeline.lake import LakeTable
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.inputs import StreamInput


@dataclass(frozen=True)
class TableLog:
    """The versions of a table as a log with one partition. An offset is the number of the next version to read."""

    table: LakeTable

    @classmethod
    def of(cls, workspace: Workspace, name: str) -> TableLog:
        """Return the log of a definition's table, which may not exist yet."""
        return cls(workspace.table(name))

    @property
    def uri(self) -> str:
        """The URI of the only partition."""
        return f"lake://{self.table.name}"

    @property
    def traits(self) -> LogTraits:
        """A version is never split."""
        return LogTraits(has_whole_partitions=True)

    def extents(self) -> Mapping[str, Extent]:
        """Return the range of existing versions."""
        version = self.table.number()
        return {self.uri: Extent(0, 0 if version is None else version + 1)}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Raise `RequestError`: versions have no event time."""
        del time
        raise RequestError(f"a stream of {self.table.name!r} cannot start at a time", do="use --from earliest")

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read versions as they are committed."""
        yield DirectTail(self, dict(offsets), max_rows=1 << 62)

    def epoch(self, end: int) -> Epoch | None:
        """Return the epoch of the last version before `end`; `None` if it is unknown."""
        manifest = self._manifest(end - 1)
        return None if manifest is None else manifest.epoch

    def _manifest(self, number: int) -> Manifest | None:
        try:
            version = self.table.version(number)
        except StorageError:
            return None
        return None if version is None else version.manifest

    def added_files(self, begin: int, end: int) -> tuple[Schema, tuple[DataFile, ...]]:
        """Return the columns, and the files that the versions from `begin` (inclusive) to `end` (exclusive) added.

        Raises `SourceError` if these versions removed rows, because a stream cannot retract their results.
        """
        now = self.table.version(end - 1, lenient=True)
        if now is None:
            raise SourceError(
                f"table {self.table.name!r} no longer exists",
                do="recreate it, and rebuild this table: headwater stream --from earliest",
            )
        if begin == 0:
            return now.schema, now.files
        added = self._appended(begin, end)
        if added is None:
            raise SourceError(
                f"table {self.table.name!r} was changed other than by appending rows",
                got=f"rows removed between version {begin - 1} and {end - 1}",
                do="rebuild this table with --from earliest, or compute it in batch",
            )
        return now.schema, added

    def _appended(self, begin: int, end: int) -> tuple[DataFile, ...] | None:
        """Return the files that versions added, `None` if they removed rows; rewritten rows are neither."""
        added = self._appended_only(begin, end)
        if added is not None:
            return added
        files: tuple[DataFile, ...] = ()
        rewrites = [number for number in range(begin, end) if self._rewrites(number)]
        for number in (*rewrites, end):
            added = self._appended_only(begin, number)
            if added is None:
                return None
            files, begin = (*files, *added), number + 1
        return files

    def _appended_only(self, begin: int, end: int) -> tuple[DataFile, ...] | None:
        if begin >= end:
            return ()
        then, now = (self.table.version(number, lenient=True) for number in (begin - 1, end - 1))
        if then is None or now is None:
            return None
        change = self.table.change_since(begin - 1, then.manifest_id, now)
        return None if change is None or change.removed else change.added

    def _rewrites(self, number: int) -> bool:
        """Return whether a version has the rows of the one before it, with wider types: it is of the same epoch."""
        before, now = self._manifest(number - 1), self._manifest(number)
        if before is None or now is None or before.epoch is None or now.epoch is None:
            return False
        return now.mode == "overwrite" and now.epoch.number == before.epoch.number


@dataclass(frozen=True)
class TableInput(StreamInput):
    """A streamed input that is a table of the lake."""

    follows: bool = False
    """Whether it has the event time of the stream that writes it, and therefore also takes over its watermark."""
    slack_us: int = 0
    """By how much its watermark is then behind that of the other stream."""

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that are read: the used columns, the event time, and the log position."""
        names = self.schema.names if self.columns is None else self.columns
        time = () if self.time is None else (self.time.column,)
        return tuple(dict.fromkeys((*names, *time, SOURCE, POSITION)))

    @property
    def is_of_lake(self) -> bool:
        """True."""
        return True

    def upstream_epoch(self, offsets: Mapping[str, int], known: InputProgress) -> Epoch | None:
        """Return the epoch of the last version that was read; `None` if none was read."""
        return None if offsets == known.offsets else self.table.epoch(offsets[self.table.uri])

    def consumed(self, offsets: Mapping[str, int]) -> Mapping[str, int]:
        """Return the name of the table and the last version that was read."""
        return {self.name: offsets[self.table.uri] - 1}

    @property
    def table(self) -> TableLog:
        """The log of the table."""
        return cast("TableLog", self.log)

    @property
    def partition(self) -> str:
        """The URI of the only partition."""
        return literal(f"lake://{self.name}")

    def producer(self, reader: SplitReader | None, at: str) -> RowProducer:
        """Return the producer of the rows in the files of versions."""
        del reader, at
        return _VersionProducer(self)

    def empty_rows(self, con: duckdb.DuckDBPyConnection) -> pa.Table:
        """Return a table with the columns that are read and no rows."""
        kinds = {SOURCE: "VARCHAR", POSITION: "BIGINT", **self.schema.as_dict()}
        return empty(con, Schema(tuple(Column(name, kinds[name]) for name in self.read_columns)))


@dataclass(frozen=True)
class _VersionProducer:
    stream_input: TableInput

    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery]:
        return self._input_query(con, split)

    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery | None]:
        return self._input_query(con, split)

    @contextmanager
    def _input_query(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        del con
        (source_split,) = split.source_splits
        schema, files = self.stream_input.table.added_files(source_split.begin, source_split.end or 0)
        self._require_columns(schema)
        scan = Scan(self.stream_input.schema, files)
        names = {name.lower() for name in self.stream_input.schema.names}
        provenance = [f"null::varchar as {SOURCE}"] if SOURCE not in names else []
        provenance += [f"null::bigint as {POSITION}"] if POSITION not in names else []
        # files that were written before a type was widened have the narrower type
        typed = ", ".join(f"{quoted(c.name)}::{c.type} as {quoted(c.name)}" for c in scan.schema.columns)
        query = f"select {', '.join([typed, *provenance])} from ({scan.query()})"
        yield InputQuery(query, rows_in=scan.rows, bytes_in=scan.size_bytes)

    def _require_columns(self, schema: Schema) -> None:
        """Raise `NewColumnsError` for a wider type of a used column, or for a new column if the stream uses all columns."""
        stream_input = self.stream_input
        names = stream_input.schema.names
        looks_at_all = stream_input.columns is None or set(names) <= {
            *stream_input.columns,
            SOURCE,
            POSITION,
            INGESTED_AT,
        }
        new = [name for name in schema.names if name not in {*names, *PROVENANCE}]
        if new and looks_at_all:
            raise NewColumnsError(f"table {stream_input.name!r} has new columns", got=", ".join(new))
        kinds, used = schema.as_dict(), set(stream_input.read_columns)
        columns = [column for column in stream_input.schema.columns if column.name in used]
        wider = [f"{c.name!r} as {kinds[c.name]}" for c in columns if is_wider(c.type, kinds.get(c.name, c.type))]
        if wider:
            raise NewColumnsError(f"table {stream_input.name!r} has columns of wider types", got=", ".join(wider))
