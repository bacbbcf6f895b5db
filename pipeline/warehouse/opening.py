"""Creation of a warehouse from its URL."""

from __future__ import annotations

from pipeline.core.errors import SettingsError
from pipeline.warehouse.warehouse import Warehouse


def open_warehouse(url: str) -> Warehouse:
    """Return the warehouse of a URL; a file path is a DuckDB database, and `snowflake://` an account.

    Raises `SettingsError` for other systems.
    """
    scheme, separator, path = url.partition("://")
    if separator and scheme == "snowflake":
        from pipeline.warehouse.snowflake.connection import snowflake_address  # noqa: PLC0415 - only the used warehouse is imported
        from pipeline.warehouse.snowflake.engine import SnowflakeWarehouse  # noqa: PLC0415 - likewise

        return SnowflakeWarehouse(snowflake_address(url))
    if separator and scheme not in {"duckdb", "file"}:
        raise SettingsError(
            "unsupported warehouse",
            got=f"{scheme}://",
            do="set `warehouse` in headwater.toml to the path of a DuckDB file, or to snowflake://...",
        )
    from pipeline.warehouse.duckdb import DuckDBWarehouse  # noqa: PLC0415 - only the used warehouse is imported

    return DuckDBWarehouse(path if separator else url)
