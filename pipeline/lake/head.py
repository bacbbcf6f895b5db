"""The head of a table: its newest version, kept open by its writer. The Delta log is the only commit point.

Delivery: a manifest is committed at most once, however often it is retried. A commit uses the object that was checked:
of two writers that saw the same version, one commits and the other gets a conflict.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Field, PostCommitHookProperties, TableFeatures, Transaction
from deltalake import Schema as DeltaSchema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from pipeline.core.errors import ConflictError, OutcomeUnknownError, StorageError, StorageUnavailableError
from pipeline.core.partition_fields import plain_columns
from pipeline.core.schema import Schema
from pipeline.core.sources import PROVENANCE
from pipeline.core.staging import Manifest, Mode, StagedFile
from pipeline.kernel.types import arrow_schema, from_arrow
from pipeline.lake.actions import actions_of, uris
from pipeline.lake.file_layout import LAYOUT
from pipeline.lake.log import APP, entries
from pipeline.lake.log_copies import WritableLog
from pipeline.lake.log_files import entry_name
from pipeline.lake.manifests import read_manifest, write_manifest
from pipeline.lake.opening import TableDescription, open_at, open_to_write, unreadable
from pipeline.lake.partition_columns import columns_for, drop_partition_columns, without_partition
from pipeline.lake.quarantine import PROPERTIES
from pipeline.lake.stats import logged

MAX_TRIES = 5
"""Maximum number of attempts of a commit without a conflict."""
REOPEN_AFTER = 50
"""Number of commits after which the table is reopened."""
ADDED_COLUMN = "headwater.added"
"""The metadata key of a column that was added after some of its table's files were written."""
_TIMESTAMP, _FEATURE = '"timestamp_ntz"', "timestampNtz"
"""The type of timestamps without a time zone in a schema, and the feature of the protocol that it needs."""
NO_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


@dataclass(frozen=True)
class Commit:
    """A commit: staged files, the mode, and its metadata."""

    files: Sequence[StagedFile]
    schema: Schema
    mode: Mode
    manifest_id: int
    note: Mapping[str, str] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    """For a merge: the URIs of the files to remove in the same commit."""
    epoch: int | None = None
    """For a stream: the number of its epoch."""
    moves: bool = False
    """Whether the added files contain the same rows as the removed files, so that incremental readers see no change."""


class TableHead:
    """A table kept open at its newest version, for a writer with repeated commits.

    The cost of a commit depends on its own files and a listing of the log, not on the size of the table. After another
    writer has committed a manifest, every commit raises `ConflictError`: open the head again and decide again. Not
    thread-safe.
    """

    def __init__(self, place: TableDescription) -> None:
        """Open the table; raise `StorageError` if it exists and cannot be read."""
        self.place = place
        self._log, self.table = open_to_write(place)
        self._transactions: dict[tuple[int, str], int | None] = {}
        """By version and application, for the open table: delta-rs reads the log each time that it is asked."""
        self.manifest_id = self._newest_manifest_id()
        self._is_stale = False
        self._has_conflict = False
        self._updates = 0
        self._is_recreated = False
        """Whether the open object does not know the table that the last commit created."""

    @property
    def number(self) -> int | None:
        """The number of the version, or `None` if the table does not exist yet."""
        return None if self.table is None else int(self.table.version())

    @property
    def epoch(self) -> int | None:
        """The number of the last committed epoch, or `None` if there is none."""
        return self._transaction(_stream(self.place.name))

    def _transaction(self, app: str) -> int | None:
        if self.table is None:
            return None
        asked = (int(self.table.version()), app)
        if asked not in self._transactions:
            try:
                self._transactions[asked] = self.table.transaction_version(app)
            except (DeltaError, OSError) as error:
                raise unreadable(self.place, None, error) from error
        return self._transactions[asked]

    @property
    def manifest(self) -> Manifest | None:
        """The manifest of the newest version, or `None` while there is none; read on every access."""
        return (
            None if self.manifest_id is None else read_manifest(self.place.storage, self.place.name, self.manifest_id)
        )

    def commit(
        self,
        manifest: Manifest,
        files: Sequence[StagedFile],
        schema: Schema,
        *,
        removed: frozenset[str] = frozenset(),
        epoch: int | None = None,
    ) -> int:
        """Commit staged files with their manifest and return the number of the version that has them.

        `removed` are the URIs of files to remove in the same commit; `epoch` is a stream's epoch, greater than the
        last. Committing the same manifest again returns its version. The commit is durable when this returns.

        Raises `ConflictError` if another writer has committed (nothing is changed), `OutcomeUnknownError` if the
        outcome is not known (commit the same manifest again to determine it), and `StorageError` if the commit failed.
        """
        if (
            epoch is not None
            and self.manifest_id != manifest.manifest_id
            and self.epoch is not None
            and epoch <= self.epoch
        ):
            raise ConflictError(
                f"epoch {epoch} of {self.place.name!r} is already committed", got=f"committed up to epoch {self.epoch}"
            )
        self.place.storage.make()
        write_manifest(self.place.storage, manifest)
        note = {"headwater.run": manifest.run_id, "headwater.mode": manifest.mode}
        return self.commit_files(Commit(files, schema, manifest.mode, manifest.manifest_id, note, removed, epoch))

    def commit_files(self, commit: Commit) -> int:
        """Commit files under a manifest id like `commit`, unless the table already has that id."""
        if self._is_stale:
            self._reload()
        if self.table is not None and self._newest_manifest_id() == commit.manifest_id and not commit.moves:
            self.manifest_id = commit.manifest_id
            return self._number_of(commit.manifest_id, self.table.version())
        if self._has_conflict or self._newest_manifest_id() != self.manifest_id:
            raise conflict(self.place.name)
        self.place.storage.sync([file.path for file in commit.files])
        for left in reversed(range(MAX_TRIES)):
            before = self.number
            try:
                self._write(commit)
                self._log.send(0 if before is None else before + 1)
                self._advance()
            except Exception as error:  # noqa: BLE001 - after any error, only the log shows the outcome
                number = self._resolve(commit, error, before, may_try=left > 0)
            else:
                self._note_transactions(commit, before)
                number = self._committed(commit, before)
            if number is not None:
                self.place.storage.sync([entry_name(number)])
                return number
        raise AssertionError("the last try has returned or raised")

    def _write(self, commit: Commit) -> None:
        """Commit on top of the open version, or recreate the table (first version, other partitions or order)."""
        place, schema, columns = self.place, _delta_schema(commit), self._partition_columns(commit)
        if self.table is None and place.is_quarantine:
            self.table = _create_quarantine(place, self._log, schema)
        if columns != self._known_columns() and commit.mode != "overwrite":
            self._drop_partition_columns()
        adds = _adds(commit, columns)
        manifest_ids = [Transaction(APP, commit.manifest_id)]
        if commit.epoch is not None:
            manifest_ids.append(Transaction(_stream(place.name), commit.epoch))
        properties = CommitProperties(
            custom_metadata={**commit.note, LAYOUT: self.place.layout.to_json()},
            app_transactions=manifest_ids,
            max_commit_retries=0,
        )
        if self.table is None or columns != self._known_columns() or self._is_ordered_otherwise(commit):
            create_table_with_add_actions(
                self._log.uri,
                schema,
                adds,
                mode="error" if self.table is None else "overwrite",
                partition_by=list(columns),
                name=place.name,
                description=place.description or None,
                configuration={"delta.enableChangeDataFeed": "true"},
                storage_options=self._log.options,
                commit_properties=properties,
            )
            self._is_recreated = True
            return
        mode = "overwrite" if commit.mode == "overwrite" else "append"
        self._enable_timestamps(self.table, schema)
        if mode == "append":
            self._add_columns(self.table, schema)
        actions: list[AddAction | RemoveAction] = [*adds, *self._removals(self.table, commit)]
        self.table.create_write_transaction(
            actions,
            mode,
            schema,
            partition_by=list(columns),
            commit_properties=properties,
            post_commithook_properties=NO_HOOKS,
        )

    def _known_columns(self) -> tuple[str, ...] | None:
        """Return the partition columns of the open version; `None` without one."""
        return None if self.table is None else tuple(self.table.metadata().partition_columns)

    def _partition_columns(self, commit: Commit) -> tuple[str, ...]:
        """Return the partition columns after a commit: those of the table, or of the definition if all rows are replaced."""
        known = None if commit.mode == "overwrite" else self._known_columns()
        return columns_for(plain_columns(self.place.partition_by) if known is None else known, commit.files)

    def _drop_partition_columns(self) -> None:
        """Make the partition columns of the open version ordinary ones, in a separate commit with the same manifest id."""
        if self.table is not None:
            is_next = drop_partition_columns(self.place.storage, self.table, self.manifest_id)
            if not is_next:
                raise conflict(self.place.name)
            self._reload()

    def _enable_timestamps(self, table: DeltaTable, schema: DeltaSchema) -> None:
        """Add the protocol's feature for timestamps without a time zone, if a column is the first to need it.

        This is a separate commit with the same manifest id: a commit of files does not do it, and without the feature,
        the table could not be read any more.
        """
        if _TIMESTAMP not in schema.to_json() or _FEATURE in (table.protocol().reader_features or ()):
            return
        manifest_ids = [] if self.manifest_id is None else [Transaction(APP, self.manifest_id)]
        table.alter.add_feature(
            TableFeatures.TimestampWithoutTimezone,
            allow_protocol_versions_increase=True,
            commit_properties=CommitProperties(app_transactions=manifest_ids, max_commit_retries=0),
            post_commithook_properties=NO_HOOKS,
        )

    def _add_columns(self, table: DeltaTable, schema: DeltaSchema) -> None:
        """Add the columns that only the new rows have, in a separate commit with the same manifest id.

        The columns are marked (`Column.is_added`), because the existing files do not have them.
        """
        known = {field.name for field in table.schema().fields}
        new = [
            Field(f.name, f.type, nullable=True, metadata={ADDED_COLUMN: "true"})
            for f in schema.fields
            if f.name not in known
        ]
        if new:
            manifest_ids = [] if self.manifest_id is None else [Transaction(APP, self.manifest_id)]
            table.alter.add_columns(
                new, commit_properties=CommitProperties(app_transactions=manifest_ids, max_commit_retries=0)
            )

    def _removals(self, table: DeltaTable, commit: Commit) -> list[RemoveAction]:
        """Return the actions that remove files; raise `ConflictError` if one does not exist."""
        if not commit.removed:
            return []
        actions = actions_of(table)
        values = [name for name in actions.column_names if name.startswith("partition.")]
        rows = actions.select(["path", "size_bytes", *values]).to_pylist()
        files = dict(zip(uris(self.place.storage, actions), rows, strict=True))
        if missing := commit.removed - set(files):
            raise ConflictError(
                f"table {self.place.name!r} does not have a file that should be replaced",
                got=min(missing),
                do="another process may have compacted it: run again",
            )
        now = int(time.time() * 1000)
        return [
            RemoveAction(
                path=uri.removeprefix(f"{self.place.storage.uri}/"),
                data_change=not commit.moves,
                deletion_timestamp=now,
                size=files[uri]["size_bytes"],
                partition_values={name.removeprefix("partition."): logged(files[uri][name]) for name in values},
            )
            for uri in sorted(commit.removed)
        ]

    def _committed(self, commit: Commit, before: int | None) -> int | None:
        """Return the version of a successful commit; there may be later commits on top of it."""
        self._has_conflict = self._newest_manifest_id() != commit.manifest_id
        self.manifest_id = commit.manifest_id
        return self._number_of(commit.manifest_id, 0 if before is None else before + 1)

    def _resolve(self, commit: Commit, error: Exception, before: int | None, *, may_try: bool) -> int | None:
        """Determine the outcome of a failed commit: return its version, `None` to retry, or raise an error."""
        try:
            self._reload()
        except StorageError as unreadable:
            raise OutcomeUnknownError(
                f"the commit of {self.place.name!r} was sent, but the table cannot be read to check the outcome",
                got=str(error),
                do="run again when the store answers; the run determines the outcome",
            ) from unreadable
        begin = 0 if before is None else before + 1
        commits = entries(self.place.storage, begin, self.number or 0) if (self.number or -1) >= begin else ()
        names = {file.path for file in commit.files}
        ours = [
            e
            for e in commits or ()
            if e.manifest_id == commit.manifest_id and (set(e.moved) == names if commit.moves else not e.moved)
        ]
        if ours or (self._newest_manifest_id() == commit.manifest_id and not commit.moves):
            return self._committed(commit, before)
        if self._newest_manifest_id() != self.manifest_id:
            self._has_conflict = True
            raise conflict(self.place.name) from error
        has_moved = self.number != before
        if may_try and (has_moved or isinstance(error, CommitFailedError | StorageUnavailableError)):
            return None
        if isinstance(error, ConflictError):
            raise error
        if has_moved:
            raise conflict(self.place.name) from error
        if isinstance(error, StorageUnavailableError):  # a request without a response may be applied later
            raise OutcomeUnknownError(
                f"the commit of {self.place.name!r} was sent and not answered",
                got=error.got,
                do="run again when the store answers; the run determines the outcome",
            ) from error
        problem = f"table {self.place.name!r} could not be committed"
        raise self.place.storage.failed(problem, error, "nothing was changed; run again") from error

    def _number_of(self, manifest_id: int, begin: int) -> int:
        """Return the number of the version that committed a manifest id, from `begin` on."""
        assert self.table is not None  # noqa: S101 - it carries the manifest id
        now = int(self.table.version())
        commits = () if begin >= now else entries(self.place.storage, begin, now) or ()
        return next((entry.number for entry in commits if entry.manifest_id == manifest_id), now)

    def _note_transactions(self, commit: Commit, before: int | None) -> None:
        """Note what the log says about the next version if it is this commit, so that it is not read for that."""
        if before is None or self.number != before + 1:
            return
        stream = _stream(self.place.name)
        self._transactions[before + 1, APP] = commit.manifest_id
        if commit.epoch is not None:
            self._transactions[before + 1, stream] = commit.epoch
        elif (before, stream) in self._transactions:
            self._transactions[before + 1, stream] = self._transactions[before, stream]

    def _advance(self) -> None:
        if self._updates >= REOPEN_AFTER:  # an object that was updated over many versions becomes slow
            self._reload()
        elif self.table is None or self._is_recreated:
            self._use(open_at(self.place, self._log.uri, self._log.options))
        else:
            self.table.update_incremental()
            self._updates += 1

    def _reload(self) -> None:
        self._is_stale = True
        self._log, table = open_to_write(self.place)
        self._use(table)
        self._is_stale = False

    def _use(self, table: DeltaTable | None) -> None:
        self.table, self._transactions, self._updates, self._is_recreated = table, {}, 0, False

    def _newest_manifest_id(self) -> int | None:
        return self._transaction(APP)

    def _is_ordered_otherwise(self, commit: Commit) -> bool:
        """Return whether an overwrite has the same columns as the table, in another order.

        Delta keeps the old schema in such an overwrite, so the table must be recreated.
        """
        if self.table is None or commit.mode != "overwrite":
            return False
        known = [field.name for field in self.table.schema().fields]
        return known != list(commit.schema.names) and sorted(known) == sorted(commit.schema.names)


def schema_of_table(table: DeltaTable) -> Schema:
    """Return the columns of a table with DuckDB's type names; added columns come before the provenance columns."""
    added = {field.name for field in table.schema().fields if field.metadata.get(ADDED_COLUMN)}
    schema = from_arrow(pa.schema(table.schema().to_arrow()))
    if not added:
        return schema
    columns = sorted(schema.columns, key=lambda column: column.name in PROVENANCE)
    return Schema(tuple(replace(column, is_added=column.name in added) for column in columns))


def _delta_schema(commit: Commit) -> DeltaSchema:
    """Return the schema of a commit; if it replaces all rows, with the marks of columns that some of its files do not have."""
    schema = DeltaSchema.from_arrow(arrow_schema(commit.schema))
    added = {column.name for column in commit.schema.columns if column.is_added}
    if commit.mode != "overwrite" or not added:
        return schema
    marks = {True: {ADDED_COLUMN: "true"}, False: {}}
    return DeltaSchema(
        [Field(f.name, f.type, nullable=f.nullable, metadata=marks[f.name in added]) for f in schema.fields]
    )


def _create_quarantine(place: TableDescription, log: WritableLog, schema: DeltaSchema) -> DeltaTable:
    """Create an empty quarantine: `create_table_with_add_actions` rejects properties that are not Delta's."""
    table = DeltaTable.create(
        log.uri,
        schema,
        name=place.name,
        description=place.description,
        configuration={"delta.enableChangeDataFeed": "true", **PROPERTIES},
        storage_options=log.options,
        raise_if_key_not_exists=False,
    )
    place.storage.sync([entry_name(0)])
    return table


def conflict(name: str) -> ConflictError:
    """Return the error for a concurrent commit by another writer."""
    return ConflictError(
        f"another process committed {name!r} concurrently", do="this process did not change the table; run again"
    )


def _stream(name: str) -> str:
    return f"{APP}/{name}"


def _adds(commit: Commit, columns: tuple[str, ...]) -> list[AddAction]:
    """Return the actions that add the files of a commit to a table with these partition columns."""
    types, now = commit.schema.as_dict(), int(time.time() * 1000)
    return [
        # the log stores the path as on disk, where DuckDB has already escaped the partition values
        AddAction(
            path=file.path,
            size=file.size_bytes,
            partition_values=dict(file.partition),
            modification_time=now,
            data_change=not commit.moves,
            stats=file.stats,
        )
        for file in (commit.files if columns else [without_partition(file, types) for file in commit.files])
    ]
