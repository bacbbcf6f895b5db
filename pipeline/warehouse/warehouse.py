"""What a warehouse is, and which one a URL names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.core.errors import SettingsError
from pipeline.kernel.scan import DataFile, Scan

if TYPE_CHECKING:
    import duckdb
    import fsspec


@dataclass(frozen=True)
class Load:
    """A version of a table to bring in: all its rows, and what came since a version where only rows were added."""

    name: str
    version: int
    mark: int
    scan: Scan
    key: tuple[str, ...] = ()
    description: str = ""
    since: tuple[int, int] | None = None
    added: tuple[DataFile, ...] = ()


class Warehouse(Protocol):
    """A database with the gold tables. Each version of a table is loaded once."""

    def loaded(self) -> dict[str, tuple[int, int]]:
        """Return the version and the mark of each table that is in the warehouse."""

    def load(self, load: Load, *, filesystem: fsspec.AbstractFileSystem | None = None) -> None:
        """Bring a table to a version in one transaction; raise `StorageError` when that fails: nothing has changed then."""

    def read(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Open the warehouse for reading."""


def open_warehouse(url: str) -> Warehouse:
    """Return the warehouse that a URL names: the path of a file is DuckDB's.

    Raises `SettingsError` for another system.
    """
    scheme, separator, path = url.partition("://")
    if separator and scheme not in {"duckdb", "file"}:
        raise SettingsError(
            "there is no warehouse of this kind", got=url, do="give the path of a DuckDB file, in headwater.toml"
        )
    from pipeline.warehouse.duckdb import DuckDBWarehouse  # noqa: PLC0415 - the one that is used is imported

    return DuckDBWarehouse(path if separator else url)
