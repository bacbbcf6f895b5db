"""The interface of warehouses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from pipeline.kernel.scan import DataFile, Scan

if TYPE_CHECKING:
    import fsspec
    import pyarrow as pa


LEDGER = "headwater_loads"
"""The table of the warehouse that records the loaded versions, in the case of the engine."""


@dataclass(frozen=True)
class ForeignKey:
    """A column whose values must be keys of another table in the warehouse."""

    column: str
    table: str
    references: str
    """The key column of that table."""


@dataclass(frozen=True)
class Load:
    """A version of a table to load: all rows, and if they are known, the files added and removed since a version."""

    name: str
    version: int
    manifest_id: int
    scan: Scan
    key: tuple[str, ...] = ()
    description: str = ""
    since: tuple[int, int] | None = None
    added: tuple[DataFile, ...] = ()
    removed: tuple[DataFile, ...] = ()
    """Rows of the removed files that are also in the added ones were only rewritten."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    """Checked if the other table is in the warehouse."""
    run_id: str = ""
    """The run that committed the version."""
    committed_at: datetime | None = None
    """When the version was committed to the lake."""
    seen: tuple[int, int] | None = None
    """The version that the warehouse had when the load was prepared."""
    masking: tuple[tuple[str, str], ...] = ()
    """The declared masking policies of columns in Snowflake."""

    @property
    def replaces_most(self) -> bool:
        """Whether so many rows were written again that replacing the table costs less than comparing them."""
        return sum(file.rows for file in self.removed) * 2 > sum(file.rows for file in self.scan.files)

    def is_done(self, loaded: tuple[int, int] | None) -> bool:
        """Return whether a warehouse with a version needs no load: it has this one, or meanwhile got a later one.

        A lower number that is loaded knowingly is a table that was recreated.
        """
        if loaded is None:
            return False
        return loaded == (self.version, self.manifest_id) or (loaded != self.seen and loaded[0] > self.version)


@dataclass(frozen=True)
class LoadRecord:
    """What the warehouse itself records of the version of a table that it has."""

    version: int
    manifest_id: int
    rows: int | None = None
    committed_at: datetime | None = None
    """When the version was committed to the lake, in UTC; `None` for a table loaded by an earlier Headwater."""
    loaded_at: datetime | None = None
    """When it was loaded, in UTC, by the clock of the warehouse."""


def moment(microseconds: int | None) -> datetime | None:
    """Return a time in UTC from its microseconds since 1970."""
    return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


class Warehouse(Protocol):
    """A database with the gold tables. Each version of a table is loaded exactly once."""

    def require_writable(self) -> None:
        """Raise `StorageError` if tables cannot be loaded; no table is changed."""

    def loaded(self) -> dict[str, tuple[int, int]]:
        """Return the version and the manifest id of each table in the warehouse."""

    def loads(self) -> dict[str, LoadRecord]:
        """Return what is recorded of each table in the warehouse."""

    def load(self, load: Load, *, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Load a version of a table in one transaction; raise `StorageError` on failure, after which nothing has changed.

        The key must be unique and not null, and the values of foreign keys must exist.
        """

    def drop(self, name: str) -> None:
        """Drop a table in one transaction, if it exists; raise `StorageError` on failure."""

    def query(self, text: str) -> pa.Table:
        """Return the rows of a SELECT in DuckDB's dialect.

        Raises `RequestError` for an invalid query, and `StorageError` if the warehouse cannot be read.
        """
