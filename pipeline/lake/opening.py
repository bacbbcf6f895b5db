"""Opens tables of the lake: for reading at a version, and for writing at the newest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from pipeline.core.errors import StorageError
from pipeline.lake.file_layout import FileLayout
from pipeline.lake.log_copies import WritableLog, copy_of
from pipeline.lake.log_files import LOG
from pipeline.lake.quarantine import require_format
from pipeline.lake.storage import Storage

_READABLE_FEATURES = frozenset({"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "inCommitTimestamp"})
"""The features of Delta for readers that do not change which rows the files of a table have."""


@dataclass(frozen=True)
class TableDescription:
    """The description of a table: its location, its name, and the properties with which it is created."""

    storage: Storage
    name: str
    partition_by: tuple[str, ...] = ()
    description: str = ""
    is_quarantine: bool = False
    cluster_by: tuple[str, ...] = ()

    @property
    def layout(self) -> FileLayout:
        """How its files are divided and ordered."""
        return FileLayout(self.partition_by, self.cluster_by)


def open_table(place: TableDescription, number: int | None = None, *, is_known: bool = False) -> DeltaTable | None:
    """Open a version of a table (default: the newest); `None` if the table does not exist.

    With `is_known`, this process has opened the version before, and it need not be the newest any more.
    """
    storage = place.storage
    if (copy := copy_of(storage)) is None:
        return open_at(place, storage.uri, storage.delta_options(), number)
    try:
        at = copy.at(number, is_known=is_known)
    except StorageError as error:
        raise unreadable(place, number, _cause(error)) from error
    if at is not None:
        return open_at(place, str(at[0]), None, at[1])
    if number is None or open_table(place) is None:
        return None
    raise _gone(place, number)


def open_to_write(place: TableDescription) -> tuple[WritableLog, DeltaTable | None]:
    """Open the newest version for a writer."""
    try:
        log = WritableLog(place.storage)
    except StorageError as error:
        raise unreadable(place, None, _cause(error)) from error
    return log, open_at(place, log.uri, log.options)


def open_at(
    place: TableDescription, uri: str, options: dict[str, str] | None, number: int | None = None
) -> DeltaTable | None:
    """Open a version from the log at a URI, which is that of the table or a copy."""
    if "://" not in uri and not (Path(uri) / LOG).is_dir():
        return None
    try:
        table = DeltaTable(uri, version=number, storage_options=options)
        _require_readable(place, table)
        if place.is_quarantine:
            require_format(place.name, table.metadata().configuration)
    except TableNotFoundError as error:
        if number is None or open_table(place) is None:
            return None
        raise _gone(place, number) from error
    except (DeltaError, OSError) as error:
        raise unreadable(place, number, error) from error
    return table


def write_checkpoint(place: TableDescription, number: int | None = None) -> None:
    """Write a checkpoint of a version (default: the newest), if the table exists; raise an error of `deltalake` if that fails."""
    log = WritableLog(place.storage, number)
    table = open_at(place, log.uri, log.options, number)
    if table is not None:
        table.create_checkpoint()
        log.send_checkpoint(int(table.version()))


def _gone(place: TableDescription, number: int) -> StorageError:
    return StorageError(
        f"table {place.name!r} at version {number} cannot be read",
        got="no log entry for this version",
        do="read a newer version: this one is no longer available",
    )


def _require_readable(place: TableDescription, table: DeltaTable) -> None:
    """Raise `StorageError` if another engine has given the table features with which its files have other rows or names."""
    if unknown := sorted(set(table.protocol().reader_features or ()) - _READABLE_FEATURES):
        raise StorageError(
            f"table {place.name!r} has features that the lake does not use",
            got=", ".join(unknown),
            do="remove them with the engine that added them (ALTER TABLE ... DROP FEATURE), "
            f"or read the table as a source: delta_table({place.storage.uri!r})",
        )


def unreadable(place: TableDescription, number: int | None, error: Exception) -> StorageError:
    """Return the error for a table whose log cannot be read."""
    which = "" if number is None else f" at version {number}"
    return place.storage.failed(f"table {place.name!r}{which} cannot be read", error, f"check {place.storage.uri}")


def _cause(error: StorageError) -> Exception:
    """Return the error of the store's client."""
    return error.__cause__ if isinstance(error.__cause__, Exception) else error
