"""All statements of loading. Nothing else is executed on Snowflake by a load.

A test parses each with sqlglot's grammar of Snowflake; those that it cannot parse have a reviewed golden file. Between
BEGIN and COMMIT there is no DDL, because Snowflake commits a transaction before DDL.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.kernel.sql_text import quoted
from pipeline.warehouse import warehouse
from pipeline.warehouse.snowflake.column_types import SnowflakeColumn, identifier, stored_name
from pipeline.warehouse.warehouse import ForeignKey, Load

LEDGER, STAGE = stored_name(warehouse.LEDGER), "HEADWATER_STAGE"
OPERATION = "HEADWATER_OPERATION"
"""The column of a landing table for a MERGE: D deletes the row of the key, U updates or inserts it."""
BEGIN, COMMIT, ROLLBACK = "BEGIN", "COMMIT", "ROLLBACK"
CREATE_STAGE = f"CREATE STAGE IF NOT EXISTS {STAGE}"
LIST_STAGE = f"LIST @{STAGE}"
CREATE_LEDGER = (
    f"CREATE TABLE IF NOT EXISTS {quoted(LEDGER)} ("
    '"TABLE_NAME" VARCHAR NOT NULL, "VERSION" NUMBER(38,0), "MANIFEST_ID" NUMBER(38,0), "ROW_COUNT" NUMBER(38,0), '
    '"MODE" VARCHAR, "ATTEMPT" VARCHAR, "RUN_ID" VARCHAR, "COMMITTED_AT" TIMESTAMP_TZ(6), "LOADED_AT" TIMESTAMP_TZ(6))'
)
READ_LEDGER = (
    'SELECT DISTINCT "TABLE_NAME", "VERSION", "MANIFEST_ID", "ROW_COUNT", '
    'CAST(DATE_PART(EPOCH_MICROSECOND, "COMMITTED_AT") AS NUMBER(38,0)) AS "COMMITTED_US", '
    'CAST(DATE_PART(EPOCH_MICROSECOND, "LOADED_AT") AS NUMBER(38,0)) AS "LOADED_US" '
    f'FROM {quoted(LEDGER)} WHERE "VERSION" IS NOT NULL'
)


def text(value: str) -> str:
    """Return a string literal of Snowflake, in which a backslash is an escape."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def expect_table(name: str) -> str:
    """Return the INSERT of the table's row in the ledger, unless it has one."""
    return (
        f'INSERT INTO {quoted(LEDGER)} ("TABLE_NAME") SELECT o."TABLE_NAME" FROM (SELECT {text(name)} AS "TABLE_NAME") AS o '
        f'WHERE NOT EXISTS (SELECT 1 FROM {quoted(LEDGER)} WHERE "TABLE_NAME" = {text(name)})'
    )


def claim(name: str, attempt: str) -> str:
    """Return the UPDATE that begins a load: it waits for other loads of the table, and holds the lock until COMMIT."""
    return f'UPDATE {quoted(LEDGER)} SET "ATTEMPT" = {text(attempt)} WHERE "TABLE_NAME" = {text(name)}'


def loaded_version(name: str) -> str:
    """Return the SELECT of the loaded version, which is null before the first load."""
    return (
        f'SELECT DISTINCT "VERSION", "MANIFEST_ID", "ATTEMPT" FROM {quoted(LEDGER)} WHERE "TABLE_NAME" = {text(name)}'
    )


def record(load: Load, rows: int, mode: str) -> str:
    """Return the UPDATE of the ledger to the version of a load."""
    at = load.committed_at
    committed = "NULL" if at is None else f"CAST({text(at.isoformat(sep=' '))} AS TIMESTAMP_TZ(6))"
    return (
        f'UPDATE {quoted(LEDGER)} SET "VERSION" = {load.version}, "MANIFEST_ID" = {load.manifest_id}, '
        f'"ROW_COUNT" = {rows}, "MODE" = {text(mode)}, "RUN_ID" = {text(load.run_id)}, "COMMITTED_AT" = {committed}, '
        f'"LOADED_AT" = CAST(CURRENT_TIMESTAMP() AS TIMESTAMP_TZ(6)) WHERE "TABLE_NAME" = {text(load.name)}'
    )


def mark_unknown(name: str) -> str:
    """Return the UPDATE that lets the next load replace the table: its columns are about to change."""
    return f'UPDATE {quoted(LEDGER)} SET "VERSION" = NULL, "MANIFEST_ID" = NULL WHERE "TABLE_NAME" = {text(name)}'


def forget(name: str) -> str:
    """Return the DELETE of a table's row in the ledger."""
    return f'DELETE FROM {quoted(LEDGER)} WHERE "TABLE_NAME" = {text(name)}'


def put(pattern: str, folder: str) -> str:
    """Return the PUT of local files into a folder of the stage; the connector uploads them in parallel.

    The folder ends with a slash: `@stage/orders` is also a prefix of `@stage/orders_archive`.
    """
    return f"PUT {text('file://' + pattern)} @{STAGE}/{folder}/ AUTO_COMPRESS=FALSE OVERWRITE=TRUE PARALLEL=8"


def remove(folder: str) -> str:
    """Return the REMOVE of a folder of the stage."""
    return f"REMOVE @{STAGE}/{folder}/"


def create_landing(landing: str, columns: Sequence[SnowflakeColumn], *, is_merge: bool) -> str:
    """Return the DDL of the landing table: it is temporary, so it belongs to one attempt and has no load history."""
    parts = [f"{column.identifier} {column.landing_type}" for column in columns]
    parts += [f"{quoted(OPERATION)} VARCHAR"] if is_merge else []
    return f"CREATE OR REPLACE TEMPORARY TABLE {quoted(landing)} ({', '.join(parts)})"


def copy_into(landing: str, folder: str) -> str:
    """Return the COPY of a folder of the stage; logical types keep microseconds and time zones."""
    return (
        f"COPY INTO {quoted(landing)} FROM @{STAGE}/{folder}/ "
        "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE"
    )


def count(table: str) -> str:
    """Return the SELECT of a number of rows; `table` is a name as Snowflake stores it."""
    return f'SELECT COUNT(*) AS "ROW_COUNT" FROM {quoted(table)}'


def missing_keys(landing: str, foreign_key: ForeignKey, *, is_merge: bool) -> str:
    """Return the SELECT of the number of landed rows whose value another table does not have as a key, and of one.

    Rows that a MERGE deletes may have any value.
    """
    value, key, table = (identifier(n) for n in (foreign_key.column, foreign_key.references, foreign_key.table))
    stays = f" AND l.{quoted(OPERATION)} = 'U'" if is_merge else ""
    return (
        f'SELECT COUNT(*) AS "ROW_COUNT", CAST(MIN(l.{value}) AS VARCHAR) AS "EXAMPLE" FROM {quoted(landing)} AS l '
        f"WHERE l.{value} IS NOT NULL{stays} AND NOT EXISTS (SELECT 1 FROM {table} AS d WHERE d.{key} = l.{value})"
    )


def create_table(table: str, columns: Sequence[SnowflakeColumn]) -> str:
    """Return the DDL of a table."""
    parts = ", ".join(f"{column.identifier} {column.type}" for column in columns)
    return f"CREATE TABLE IF NOT EXISTS {identifier(table)} ({parts})"


def find_table(table: str) -> str:
    """Return the SELECT of a row if the table exists; DESCRIBE is an error if it does not."""
    return (
        'SELECT "TABLE_NAME" FROM INFORMATION_SCHEMA.TABLES '
        f'WHERE "TABLE_SCHEMA" = CURRENT_SCHEMA() AND "TABLE_NAME" = {text(stored_name(table))}'
    )


def describe(table: str) -> str:
    """Return the SHOW of a table's columns."""
    return f"DESCRIBE TABLE {identifier(table)}"


def add_column(table: str, column: SnowflakeColumn, masking_policy: str | None = None) -> str:
    """Return the DDL that adds a column of nulls, with its masking policy: who may read the table may not see it bare."""
    masked = "" if masking_policy is None else f" WITH MASKING POLICY {quoted(stored_name(masking_policy))}"
    return f"ALTER TABLE {identifier(table)} ADD COLUMN IF NOT EXISTS {column.identifier} {column.type}{masked}"


def widen_column(table: str, column: SnowflakeColumn) -> str:
    """Return the DDL that widens a number."""
    return f"ALTER TABLE {identifier(table)} ALTER COLUMN {column.identifier} SET DATA TYPE {column.type}"


def drop_column(table: str, stored: str) -> str:
    """Return the DDL that drops a column, by its name as Snowflake stores it."""
    return f"ALTER TABLE {identifier(table)} DROP COLUMN {quoted(stored)}"


def set_comment(table: str, description: str) -> str:
    """Return the DDL of a table's comment."""
    return f"COMMENT ON TABLE {identifier(table)} IS {text(description)}"


def drop_table(table: str) -> str:
    """Return the DDL that drops a table."""
    return f"DROP TABLE IF EXISTS {identifier(table)}"


def delete_all(table: str) -> str:
    """Return the DELETE of all rows; TRUNCATE would end the transaction."""
    return f"DELETE FROM {identifier(table)}"


def insert(table: str, landing: str, columns: Sequence[SnowflakeColumn]) -> str:
    """Return the INSERT of the landed rows."""
    names = ", ".join(column.identifier for column in columns)
    values = ", ".join(f"{column.value} AS {column.identifier}" for column in columns)
    return f"INSERT INTO {identifier(table)} ({names}) SELECT {values} FROM {quoted(landing)}"


def merge(table: str, landing: str, columns: Sequence[SnowflakeColumn], key: Sequence[str]) -> str:
    """Return the MERGE of the landed changes by key. The landing table has at most one row of each key."""
    operation = quoted(OPERATION)
    values = ", ".join(f"{column.value} AS {column.identifier}" for column in columns)
    keys = [identifier(name) for name in key]
    nested = {column.identifier for column in columns if column.is_nested}
    same = " AND ".join(
        f"TO_JSON(t.{name}) = TO_JSON(s.{name})" if name in nested else f"t.{name} = s.{name}" for name in keys
    )
    others = [column.identifier for column in columns if column.identifier not in keys]
    names = ", ".join(column.identifier for column in columns)
    landed = ", ".join(f"s.{column.identifier}" for column in columns)
    update = f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{n} = s.{n}' for n in others)} " if others else ""
    return (
        f"MERGE INTO {identifier(table)} AS t USING (SELECT {values}, {operation} FROM {quoted(landing)}) AS s ON {same} "
        f"WHEN MATCHED AND s.{operation} = 'D' THEN DELETE {update}"
        f"WHEN NOT MATCHED AND s.{operation} = 'U' THEN INSERT ({names}) VALUES ({landed})"
    )
