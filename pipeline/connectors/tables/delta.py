"""Delta tables that anyone writes, as a source: the data files of a version, and what later versions added or changed.

Delivery: each row of an append-only table once; with the change data feed, each change once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from pipeline.connectors.files import typed
from pipeline.connectors.files.parquet import ParquetFormat
from pipeline.connectors.tables.conforming import conformed
from pipeline.connectors.tables.delta_log import (
    CHANGE_COLUMNS,
    CHANGE_FEED,
    COLUMN_ID,
    Commit,
    DataFileRead,
    DeltaLocation,
    added_by,
    alive_rows,
    arrow_schema_of,
    changes_by,
    commit_time_ms,
    files_of_version,
    opened,
    parsed_value,
    physical_name,
    removes_rows,
    turns_feed_off,
)
from pipeline.connectors.tables.names import require_distinct
from pipeline.connectors.tables.reader import TableReader
from pipeline.connectors.tables.store_options import references
from pipeline.connectors.tables.versions import VersionFiles, VersionProgress, take
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, Place, SourceError, quantity
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.types import from_arrow

_BATCH_ROWS = 1 << 17


@dataclass(frozen=True)
class DeltaReader(TableReader):
    """Reads a Delta table. Create it with `delta_table`."""

    location: DeltaLocation
    version: int | None = None
    changes: bool = False

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the location of the table is not part of it."""
        return fingerprint("delta", self.version, self.changes)

    def within(self, folder: Path) -> DeltaReader:
        """Return the reader with a relative path resolved against a folder."""
        uri = self.location.uri
        return self if "://" in uri else self.replacing(location=replace(self.location, uri=str(folder / uri)))

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the data files of the newest version, or those that were added since the version of a cursor.

        Raises `SourceError` for a table that cannot be read, and for two columns whose names differ only in case.
        """
        table = self._newest(bound)
        self._require_columns(table)
        table_id, newest = str(table.metadata().id), table.version()
        progress = None if cursor is None else VersionProgress.of(cursor, "delta")
        if progress is None:
            listed = self._snapshot(table)
        else:
            commits = {} if progress.table != table_id else self.location.commits(_versions(progress, table))
            why = self._why_invalid(progress, table, commits, bound)
            if why:
                return ReadPlan((), progress.cursor("delta"), changed=why)
            listed = self._since(progress, commits)
        taken = take(listed, progress or VersionProgress(table_id, newest, 0), bound)
        splits = tuple(self._split(read, table_id, newest) for _, read in taken.files)
        new = f"{quantity(len(splits), 'data file')} up to version {taken.progress.version}" if splits else ""
        return ReadPlan(
            splits,
            taken.progress.cursor("delta"),
            new=new,
            has_more=taken.has_more,
            is_later=not self.changes or progress is None,
        )

    def _newest(self, bound: Bound) -> DeltaTable:
        table = self.location.open(self.version)
        if bound.until is not None:
            with self.location.translated_errors("the Delta table has no version at this time"):
                table.load_as_version(bound.until)
            made_ms = commit_time_ms(self.location.commit(table.version()) or ())
            if made_ms is not None and made_ms > bound.until.timestamp() * 1000:
                raise SourceError(
                    "the Delta table did not exist at this time",
                    got=f"{bound.until}",
                    do="use a later --until",
                    place=self.location.place,
                )
        return table

    def _require_columns(self, table: DeltaTable) -> None:
        require_distinct(self._columns(table).names, self.location.place, "rename one of them in the table")
        if self.changes and table.metadata().configuration.get(CHANGE_FEED, "").lower() != "true":
            raise SourceError(
                "the Delta table has no change data feed",
                do=f"set its property {CHANGE_FEED} to true, or remove changes=True",
                place=self.location.place,
            )

    def _snapshot(self, table: DeltaTable) -> list[VersionFiles[DataFileRead]]:
        commit = self.location.commit(table.version()) if self.changes else None
        time_ms = None if commit is None else commit_time_ms(commit)
        files = files_of_version(table, as_changes=self.changes, time_ms=time_ms)
        return [VersionFiles(table.version(), files, is_snapshot=True)]

    def _why_invalid(
        self, progress: VersionProgress, table: DeltaTable, commits: Mapping[int, Commit | None], bound: Bound
    ) -> str:
        """Return why the rows that were read are no longer valid; empty if they are."""
        if progress.table != str(table.metadata().id):
            return "the Delta table was created again"
        if progress.version > table.version() and bound.until is None:
            return (
                f"version {progress.version} of the Delta table was read, and its newest version is {table.version()}"
            )
        for version, commit in commits.items():
            if commit is None:
                return f"the log of the Delta table no longer has version {version}"
            if self.changes and turns_feed_off(commit):
                return f"the change data feed was turned off in version {version}"
            if not self.changes and removes_rows(commit):
                return (
                    f"version {version} of the Delta table deleted or updated rows; changes=True reads them as changes"
                )
        return ""

    def _since(
        self, progress: VersionProgress, commits: Mapping[int, Commit | None]
    ) -> list[VersionFiles[DataFileRead]]:
        """Return the files that were not read."""
        is_partial = progress.is_snapshot and progress.files is not None
        listed = self._snapshot(self.location.open(progress.version)) if is_partial else []
        files_by = changes_by if self.changes else added_by
        for version, commit in commits.items():
            listed.append(VersionFiles(version, files_by(commit or (), version, self.location.place)))
        return listed

    def _split(self, read: DataFileRead, table_id: str, version: int) -> SourceSplit:
        change = f"?{read.change}={read.commit}" if read.change else ""
        uri = f"{self.location.uri.rstrip('/')}/{read.path}{change}"
        return SourceSplit(SourceObject(uri, read.size_bytes, read.stamp(table_id, version)))

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns of the table."""
        _, table_id, version = DataFileRead.of(source_object.stamp)
        return from_arrow(self._columns(opened(self.location, table_id, version)))

    def _columns(self, table: DeltaTable) -> pa.Schema:
        columns = arrow_schema_of(table)
        return pa.schema([*columns, *CHANGE_COLUMNS]) if self.changes else columns

    def splits(self, source_object: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        """Return splits of a data file, between its row groups."""
        if target_bytes < source_object.size_bytes:
            path = DataFileRead.of(source_object.stamp)[0].path
            with (
                suppress(SourceError),
                self._translated(path),
                self.location.filesystem().open_input_file(path) as file,
            ):
                return typed.splits(ParquetFormat().groups(file), source_object, target_bytes)
        return (SourceSplit(source_object),)

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a data file that are alive, with the columns of the table."""
        read, table_id, version = DataFileRead.of(split.source_object.stamp)
        table = opened(self.location, table_id, version)
        schema, place = self._columns(table), Place(split.source_object.uri)
        by_id = table.metadata().configuration.get("delta.columnMapping.mode") == "id"
        constants = _constants(schema, read)
        with self._translated(read.path), self.location.filesystem().open_input_file(read.path) as file:
            parquet = pq.ParquetFile(file, coerce_int96_timestamp_unit="us")
            alive = self._alive(read, table, parquet.metadata.num_rows)
            position = split.begin
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=_row_groups(parquet, split)):
                rows = conformed(batch, schema, _by_id if by_id else _by_physical_name, constants, place)
                if alive is not None:
                    rows = rows.filter(alive.slice(position, batch.num_rows))
                position += batch.num_rows
                yield rows

    def _alive(self, read: DataFileRead, table: DeltaTable, rows: int) -> pa.Array | None:
        """Return for each row of a data file whether it is to be read; `None` for all."""

        def alive_in(version: int | None) -> pa.Array | None:
            vectors = {} if version is None else alive_rows(self.location, str(table.metadata().id), version)
            return vectors.get(read.path)

        alive = alive_in(read.alive_at)
        if read.not_alive_at is None:
            return alive
        others = alive_in(read.not_alive_at)
        if others is None:
            return pa.repeat(False, rows)  # noqa: FBT003 - a value of Arrow
        return pc.invert(others) if alive is None else pc.and_not(alive, others)

    def _translated(self, path: str) -> Any:
        return self.location.translated_errors(
            f"the data file {path} cannot be read; if VACUUM has removed it, read the table again with --full"
        )

    def check(self) -> Sequence[Finding]:
        """Return the version of the table and the number of its data files; raise `SourceError` if it cannot be read."""
        table = self._newest(UNBOUNDED)
        self._require_columns(table)
        files = files_of_version(table, as_changes=False, time_ms=None)
        detail = f"version {table.version()}, {quantity(len(files), 'data file')}"
        return (Finding(self.location.uri, FindingState.OK, detail),)


def _versions(progress: VersionProgress, table: DeltaTable) -> range:
    """Return the versions after a snapshot of which some files were not read."""
    first = progress.version + (progress.files is None or progress.is_snapshot)
    return range(first, table.version() + 1)


def _constants(schema: pa.Schema, read: DataFileRead) -> Mapping[str, pa.Scalar]:
    values: dict[str, pa.Scalar] = {}
    for column in schema:
        name = physical_name(column)
        if name in read.values:
            values[column.name] = parsed_value(read.values[name], column.type)
    if read.change:
        time = None if read.time_ms is None else read.time_ms * 1000
        values["_commit_version"] = pa.scalar(read.commit, pa.int64())
        values["_commit_timestamp"] = pa.scalar(time, pa.timestamp("us", "UTC"))
        if read.change != "recorded":
            values["_change_type"] = pa.scalar(read.change, pa.string())
    return values


def _by_physical_name(fields: Sequence[pa.Field], wanted: pa.Field) -> int | None:
    name = physical_name(wanted)
    return next((n for n, each in enumerate(fields) if each.name == name), None)


def _by_id(fields: Sequence[pa.Field], wanted: pa.Field) -> int | None:
    number = (wanted.metadata or {}).get(COLUMN_ID)
    if number is None:
        return _by_physical_name(fields, wanted)
    return next((n for n, each in enumerate(fields) if (each.metadata or {}).get(b"PARQUET:field_id") == number), None)


def _row_groups(parquet: pq.ParquetFile, split: SourceSplit) -> list[int]:
    groups, begin = [], 0
    for number in range(parquet.num_row_groups):
        if begin >= split.begin and (split.end is None or begin < split.end):
            groups.append(number)
        begin += parquet.metadata.row_group(number).num_rows
    return groups


def delta_table(
    uri: str | Path,
    *,
    version: int | None = None,
    changes: bool = False,
    options: Mapping[str, str] | None = None,
) -> DeltaReader:
    """Read a Delta table that any engine writes: a folder, or a URI such as `s3://bucket/orders`.

        raw_orders = source(delta_table("s3://sales/orders", options={"aws_region": "eu-central-1"}))

    The first run reads the newest version, or `version` alone. Later runs read the data files that were added since; if
    rows were deleted or updated, the table is read again. With `changes=True`, they read the change data feed instead: the
    rows have `_change_type` (`insert`, `update_preimage`, `update_postimage` or `delete`), `_commit_version` and
    `_commit_timestamp`, and the rows of the first version are inserts. `options` are those of the store under Delta's
    names; credentials are `env:NAME` or `file:PATH`.

    Raises `DefinitionError` for contradictory options, and for a credential that is written out.
    """
    if version is not None and changes:
        raise DefinitionError("changes=True reads all versions", got=f"version={version}", do="remove version=")
    location = DeltaLocation(str(uri).removeprefix("file://"), references(options or {}))
    return DeltaReader(location, version, changes)
