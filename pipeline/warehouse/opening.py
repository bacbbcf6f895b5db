"""Which warehouse a URL names."""

from __future__ import annotations

from pipeline.core.errors import SettingsError
from pipeline.warehouse.warehouse import Warehouse


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
