"""Systems of which no server was available: they are read by the drivers that Headwater supports for any system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline.connectors.databases.adbc import AdbcDriver, adbc
from pipeline.connectors.databases.query_reader import QueryReader
from pipeline.connectors.databases.sql_database import sql_database


def snowflake_table(url: str, table: str | None = None, **options: Any) -> QueryReader:
    """Read a table or a query of Snowflake by its ADBC driver; `options` are those of `adbc`.

        orders = source(snowflake_table("env:SNOWFLAKE_URL", "SHOP.PUBLIC.ORDERS", key="ID", cursor="UPDATED_AT"))

    Tested against a double of its protocol. Names are case-sensitive: write them as Snowflake stores them.
    """
    return adbc("adbc_driver_snowflake", url, table, **options)


def bigquery(
    project: str, table: str | None = None, *, settings: Mapping[str, str] | None = None, **options: Any
) -> QueryReader:
    """Read a table or a query of BigQuery by its ADBC driver; `options` are those of `adbc`.

        orders = source(bigquery("my-project", "shop.orders", key="id", cursor="updated_at"))

    Not tested against BigQuery.
    """
    given = {"adbc.bigquery.sql.project_id": project, **(settings or {})}
    reader = adbc("adbc_driver_bigquery", f"bigquery://{project}", table, settings=given, **options)
    if not isinstance(reader.database, AdbcDriver):
        raise TypeError(type(reader.database).__name__)
    return replace(reader, database=replace(reader.database, quote_character="`", text_type="string", takes_url=False))


def sqlserver(url: str, table: str | None = None, **options: Any) -> QueryReader:
    """Read a table or a query of SQL Server by SQLAlchemy; `options` are those of `sql_database`.

        orders = source(sqlserver("mssql+pymssql://reader@db.example.com/shop", "dbo.orders", password="env:PASSWORD"))

    Not tested against SQL Server.
    """
    return sql_database(url, table, **options)


def oracle(url: str, table: str | None = None, **options: Any) -> QueryReader:
    """Read a table or a query of Oracle by SQLAlchemy; `options` are those of `sql_database`.

        orders = source(oracle("oracle+oracledb://reader@db.example.com/?service_name=shop", "SHOP.ORDERS"))

    Not tested against Oracle. Names are case-sensitive: write them as Oracle stores them.
    """
    return sql_database(url, table, **options)
