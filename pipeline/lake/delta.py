"""Delta tables: staged files in, versions out. The Delta log is the only commit point.

Delivery: a manifest is committed at most once, whatever is retried; a reader sees all of a commit or none.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from pipeline.core.errors import ConflictError, OutcomeUnknownError, StorageError
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest, Mode, StagedFile, mark_of
from pipeline.kernel.engine import connect, first_line, listed, literal
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.types import arrow_schema, from_arrow
from pipeline.lake.stats import delta_stats, logged, partition_value
from pipeline.lake.storage import Storage

APP = "headwater"
"""The Delta application whose transaction number is the mark of a table's manifest."""
ROW_GROUP = 122_880


@dataclass(frozen=True)
class Version:
    """A committed state of a table: its number, its contract, its files and the manifest that made it."""

    number: int
    schema: Schema
    files: tuple[DataFile, ...]
    partition_by: tuple[str, ...] = ()
    manifest: Manifest | None = None
    mark: int | None = None

    def scan(self) -> Scan:
        """Return all rows."""
        return Scan(self.schema, self.files)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True)
class Commit:
    """What to commit: staged files, how, and what it says of itself."""

    files: Sequence[StagedFile]
    schema: Schema
    mode: Mode
    mark: int
    note: Mapping[str, str] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    """For a merge: the URIs of the files that go, in the same commit."""


@dataclass(frozen=True)
class Change:
    """How the files of a table differ from those of an earlier version."""

    added: tuple[DataFile, ...]
    removed: tuple[DataFile, ...] = ()


@dataclass(frozen=True)
class LakeTable:
    """One table of the lake, at `<lake>/<layer>/<name>`."""

    storage: Storage
    name: str
    partition_by: tuple[str, ...] = ()
    description: str = ""
    has_manifest: bool = True
    """Whether its commits carry a manifest of their own; a quarantine follows its table's."""

    def version(self, number: int | None = None, *, lenient: bool = False) -> Version | None:
        """Return the newest version, or a given one; `None` when the table is not there.

        Raises `StorageError` when it cannot be read, or when a given version is no longer kept; but with `lenient`,
        for a caller that makes the table anew, a version whose manifest is gone or damaged comes without one.
        """
        if lenient:
            return replace(self, has_manifest=False).version(number)
        found = self._open(number)
        return None if found is None else self._describe(found)

    def number(self) -> int | None:
        """Return the number of the newest version, quickly; `None` when the table is not there."""
        log = Path(self.storage.uri) / "_delta_log"
        if self.storage.is_local:
            names = os.listdir(log) if log.is_dir() else []  # noqa: PTH208 - the names alone, of thousands
            return max(
                (int(name[:20]) for name in names if name.endswith(".json") and name[:20].isdigit()), default=None
            )
        found = self._open(None)
        return None if found is None else found.version()

    def mark(self) -> int | None:
        """Return the mark of the newest version; `None` when the table is not there, or was made by others."""
        found = self._open(None)
        return None if found is None else found.transaction_version(APP)

    def added_since(self, number: int, mark: int | None, now: Version) -> tuple[DataFile, ...] | None:
        """Return the files that came between a version and `now`, or `None` when it is more than an addition.

        `None` too when the earlier version is no longer kept, or no longer has that mark because the table was
        removed and made again: the caller reads everything then.
        """
        change = self.change_since(number, mark, now)
        return None if change is None or change.removed else change.added

    def change_since(self, number: int, mark: int | None, now: Version) -> Change | None:
        """Return the files that came and went between a version and `now`; `None` when that version cannot be told.

        The files that went are there to be read, or the answer is `None`.
        """
        try:
            then = self.version(number)
        except StorageError:
            return None
        if then is None or then.mark != mark or now.number < number:
            return None
        before, after = {file.uri for file in then.files}, {file.uri for file in now.files}
        removed = tuple(file for file in then.files if file.uri not in after)
        if not all(self.storage.has(file.uri.removeprefix(f"{self.storage.uri}/")) for file in removed):
            return None
        return Change(tuple(file for file in now.files if file.uri not in before), removed)

    def stager(self, run_id: str) -> DeltaStager:
        """Return what writes this table's files for a run."""
        return DeltaStager(self.storage, run_id, self.partition_by)

    def bounds(self, version: Version, columns: Sequence[str]) -> pa.Table:
        """Return what the log says of a version's files: `uri`, and `min_0`, `max_0` of the first column and so on.

        A bound is null where the log has none. A partition column's bounds are its value.
        """
        table = self._open(version.number)
        if table is None:
            raise StorageError(f"table {self.name!r} is not there", do=f"look at {self.storage.uri}")
        actions = _actions(table)
        found: dict[str, pa.Array | pa.ChunkedArray] = {"uri": self._uris(actions)}
        for number, name in enumerate(columns):
            for which in ("min", "max"):
                said = next((n for n in (f"partition.{name}", f"{which}.{name}") if n in actions.column_names), None)
                found[f"{which}_{number}"] = pa.nulls(actions.num_rows) if said is None else actions.column(said)
        return pa.table(found)

    def commit(
        self,
        manifest: Manifest,
        files: Sequence[StagedFile],
        schema: Schema,
        seen: Version | None,
        removed: frozenset[str] = frozenset(),
    ) -> Version:
        """Commit staged files with their manifest, on top of the version the work was based on.

        `removed` are the URIs of files that go in the same commit, for a manifest that merges. Raises `ConflictError` when another commit came between (nothing is changed then), and
        `OutcomeUnknownError` when the store does not say what became of it.
        """
        text = manifest.to_json()
        self.storage.make()
        self.storage.write_text(_manifest_name(manifest.mark), text)
        note = {"headwater.run": manifest.run_id, "headwater.mode": manifest.mode}
        return self.commit_files(Commit(files, schema, manifest.mode, manifest.mark, note, removed), seen)

    def commit_files(self, commit: Commit, seen: Version | None) -> Version:
        """Commit files under a mark, unless the table carries that mark already."""
        current = self._open(None)
        if current is not None and current.transaction_version(APP) == commit.mark:
            return self._describe(current)
        if (None if seen is None else seen.mark) != (None if current is None else current.transaction_version(APP)):
            raise self._conflict()
        moved = current is not None and tuple(current.metadata().partition_columns) != self.partition_by
        if moved and commit.mode != "overwrite":
            raise StorageError(
                f"table {self.name!r} is partitioned otherwise than its definition says",
                got=", ".join(self.partition_by) or "none",
                do="recompute it with --full",
            )
        try:
            self._write(current, commit, anew=current is None or moved)
        except Exception as error:  # noqa: BLE001 - whatever was raised, only the log says what happened
            return self._resolve(commit, error, current)
        committed = self._open(None)
        if committed is None:
            raise OutcomeUnknownError(f"table {self.name!r} is not there after its commit")
        return self._describe(committed)

    def _write(self, current: DeltaTable | None, commit: Commit, *, anew: bool = False) -> None:
        """Commit on top of `current`, or make the table anew: the first version, or with other partitions."""
        adds = [_add(file) for file in commit.files]
        schema = DeltaSchema.from_arrow(arrow_schema(commit.schema))
        properties = CommitProperties(
            custom_metadata=dict(commit.note), app_transactions=[Transaction(APP, commit.mark)], max_commit_retries=0
        )
        if current is None or anew:
            create_table_with_add_actions(
                self.storage.uri,
                schema,
                adds,
                mode="error" if current is None else "overwrite",
                partition_by=list(self.partition_by),
                name=self.name,
                description=self.description or None,
                configuration={"delta.enableChangeDataFeed": "true"},
                storage_options=dict(self.storage.options) or None,
                commit_properties=properties,
            )
        else:
            mode = "overwrite" if commit.mode == "overwrite" else "append"
            actions: list[AddAction | RemoveAction] = [*adds, *self._removals(current, commit.removed)]
            current.create_write_transaction(
                actions, mode, schema, partition_by=list(self.partition_by), commit_properties=properties
            )

    def _removals(self, current: DeltaTable, removed: frozenset[str]) -> list[RemoveAction]:
        """Return the actions that take files away; raise `StorageError` when one is not there to be taken."""
        if not removed:
            return []
        actions = _actions(current)
        values = [name for name in actions.column_names if name.startswith("partition.")]
        rows = actions.select(["size_bytes", *values]).to_pylist()
        files = {uri: row for uri, row in zip(self._uris(actions).to_pylist(), rows, strict=True) if uri in removed}
        if missing := removed - set(files):
            raise StorageError(f"table {self.name!r} does not have a file that was to be replaced", got=min(missing))
        now = int(time.time() * 1000)
        return [
            RemoveAction(
                path=uri.removeprefix(f"{self.storage.uri}/"),
                data_change=True,
                deletion_timestamp=now,
                size=row["size_bytes"],
                partition_values={name.removeprefix("partition."): logged(row[name]) for name in values},
            )
            for uri, row in sorted(files.items())
        ]

    def _uris(self, actions: pa.Table) -> pa.Array:
        # the log escapes a path once more than the file's name is
        return pa.array([f"{self.storage.uri}/{unquote(p)}" for p in actions.column("path").to_pylist()], pa.string())

    def _resolve(self, commit: Commit, error: Exception, before: DeltaTable | None) -> Version:
        """Find out what became of a commit that raised: it is there, or somebody else's is, or nothing."""
        try:
            now = self._open(None)
        except StorageError as unreadable:
            raise OutcomeUnknownError(
                f"the commit of {self.name!r} was sent and the table cannot be read again",
                got=str(error),
                do="run again when the store answers: it will find out",
            ) from unreadable
        if now is not None and now.transaction_version(APP) == commit.mark:
            return self._describe(now)
        if now is not None and (before is None or now.version() != before.version()):
            raise self._conflict() from error
        raise StorageError(
            f"table {self.name!r} could not be committed", got=first_line(error), do="nothing was changed; run again"
        ) from error

    def _conflict(self) -> ConflictError:
        return ConflictError(
            f"another run committed {self.name!r} while this one worked",
            do="nothing of this table was changed; run again",
        )

    def _open(self, number: int | None) -> DeltaTable | None:
        if self.storage.is_local and not (Path(self.storage.uri) / "_delta_log").is_dir():
            return None
        try:
            return DeltaTable(self.storage.uri, version=number, storage_options=dict(self.storage.options) or None)
        except TableNotFoundError:
            return None
        except (DeltaError, OSError) as error:
            which = "" if number is None else f" at version {number}"
            raise StorageError(
                f"table {self.name!r}{which} cannot be read", got=first_line(error), do=f"look at {self.storage.uri}"
            ) from error

    def _describe(self, table: DeltaTable) -> Version:
        mark = table.transaction_version(APP)
        actions = _actions(table)
        counts = (actions.column(name).to_pylist() for name in ("num_records", "size_bytes"))
        files = tuple(
            DataFile(uri, int(rows or 0), int(size))
            for uri, rows, size in sorted(zip(self._uris(actions).to_pylist(), *counts, strict=True))
        )
        return Version(
            number=table.version(),
            schema=from_arrow(pa.schema(table.schema().to_arrow())),
            files=files,
            partition_by=tuple(table.metadata().partition_columns),
            manifest=self._manifest(mark),
            mark=mark,
        )

    def _manifest(self, mark: int | None) -> Manifest | None:
        if mark is None or not self.has_manifest:
            return None
        try:
            text = self.storage.read_text(_manifest_name(mark))
        except StorageError as error:
            raise StorageError(
                f"the manifest of table {self.name!r} is gone",
                got=error.got,
                do="restore the file, or recompute the table with --full",
            ) from error
        if mark_of(text) != mark:
            raise StorageError(
                f"the manifest of table {self.name!r} is damaged",
                got=f"another content than the one committed in {_manifest_name(mark)}",
                do="restore the file, or recompute the table with --full",
            )
        return Manifest.from_json(text)


@dataclass(frozen=True)
class DeltaStager:
    """Writes Parquet files named after the run and the split, so that a retried split writes the same names."""

    storage: Storage
    run_id: str
    partition_by: tuple[str, ...] = ()

    def stage(self, con: duckdb.DuckDBPyConnection, select: str, split: int) -> tuple[StagedFile, ...]:
        """Write a SELECT's rows below the table; raise `StorageError` when the store refuses."""
        self.storage.make()
        types = {c[0]: str(c[1]) for c in con.execute(f"describe {select}").fetchall()}
        name = f"part-{self.run_id}-{split:05d}"
        options = "format parquet, compression zstd, return_stats true"
        if self.partition_by:
            options += (
                f", partition_by ({listed(self.partition_by)}), write_partition_columns true, "
                f"filename_pattern {literal(name + '-{i}')}, overwrite_or_ignore true"
            )
            target = self.storage.uri
        else:
            options += f", row_group_size {ROW_GROUP}"
            target = f"{self.storage.uri}/{name}.parquet"
        try:
            cursor = con.execute(f"copy ({select}) to {literal(target)} ({options})")
        except (duckdb.IOException, OSError) as error:
            raise StorageError(
                f"cannot write below {self.storage.uri}",
                got=first_line(error),
                do="check its space and permissions; nothing was committed",
            ) from error
        columns = [column[0] for column in cursor.description or ()]
        written = [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
        return tuple(self._staged(file, types) for file in written if file["count"])

    def scan(self, files: Sequence[StagedFile]) -> str:
        """Return a call of `read_parquet` on staged files."""
        uris = ", ".join(literal(f"{self.storage.uri}/{file.path}") for file in files)
        return f"read_parquet([{uris}], hive_partitioning = false)"

    def _staged(self, file: Mapping[str, Any], types: Mapping[str, str]) -> StagedFile:
        kinds = {k: "TIMESTAMPTZ" if v == "TIMESTAMP WITH TIME ZONE" else v for k, v in types.items()}
        partition = {k: partition_value(v, kinds[k]) for k, v in (file["partition_keys"] or {}).items()}
        if "" in partition.values():
            raise StorageError(
                f"empty text in a partition column below {self.storage.uri}",
                got=", ".join(name for name, value in partition.items() if value == ""),
                do="use null, which Delta cannot tell from it, or do not partition by this column",
            )
        path = str(file["filename"]).partition(self.storage.uri.rstrip("/") + "/")[2]
        return StagedFile(
            path=path,
            size_bytes=int(file["file_size_bytes"]),
            rows=int(file["count"]),
            partition=partition,
            stats=delta_stats(int(file["count"]), file["column_statistics"], kinds, self.partition_by),
        )


@dataclass(frozen=True)
class Lake:
    """A place with a folder per layer and a Delta table per definition."""

    storage: Storage

    def table(self, layer: str, name: str, *, partition_by: tuple[str, ...] = (), description: str = "") -> LakeTable:
        """Return a table, whether it is there or not."""
        return LakeTable(self.storage.at(layer, name), name, partition_by, description)

    def quarantine(self, name: str) -> LakeTable:
        """Return the table of the rows that were set aside from a table."""
        description = f"Rows set aside from {name}"
        return LakeTable(self.storage.at("quarantine", name), name, description=description, has_manifest=False)

    def scratch(self, run_id: str, name: str) -> Storage:
        """Return a place for what a step of a run writes and reads again, which all workers reach."""
        return self.storage.at("_headwater", run_id, name)

    def rows(self, table: LakeTable) -> pa.Table:
        """Return all rows of a table's newest version."""
        version = table.version()
        if version is None:
            raise StorageError(f"table {table.name!r} is not there yet", do="run the project first")
        with connect(filesystem=self.storage.filesystem()) as con:
            return con.sql(version.scan().query()).to_arrow_table()


def _actions(table: DeltaTable) -> pa.Table:
    """Return what the log says of each file; not by `pa.table`, which would import pandas to look at it."""
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def _add(file: StagedFile) -> AddAction:
    # the log wants the path as the folder is named on disk; DuckDB has escaped the partition values already
    return AddAction(
        path=file.path,
        size=file.size_bytes,
        partition_values=dict(file.partition),
        modification_time=int(time.time() * 1000),
        data_change=True,
        stats=file.stats,
    )


def _manifest_name(mark: int) -> str:
    return f"_headwater/{mark:016x}.json"
