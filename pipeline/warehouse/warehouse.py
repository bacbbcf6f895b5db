"""The interface of warehouses."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.kernel.scan import DataFile, Scan

if TYPE_CHECKING:
    import duckdb
    import fsspec


@dataclass(frozen=True)
class Load:
    """A version of a table to load: all rows, and if rows were only added, the files added since a version."""

    name: str
    version: int
    manifest_id: int
    scan: Scan
    key: tuple[str, ...] = ()
    description: str = ""
    since: tuple[int, int] | None = None
    added: tuple[DataFile, ...] = ()


class Warehouse(Protocol):
    """A database with the gold tables. Each version of a table is loaded exactly once."""

    def require_writable(self) -> None:
        """Raise `StorageError` if tables cannot be loaded; nothing is changed."""

    def loaded(self) -> dict[str, tuple[int, int]]:
        """Return the version and the manifest id of each table in the warehouse."""

    def load(self, load: Load, *, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Load a version of a table in one transaction; raise `StorageError` on failure, after which nothing has changed."""

    def drop(self, name: str) -> None:
        """Drop a table in one transaction, if it exists; raise `StorageError` on failure."""

    def read(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open the warehouse for reading."""
