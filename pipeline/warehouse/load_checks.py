"""What every engine computes and checks of a load in DuckDB: the rows that differ, unique keys, and their errors."""

from __future__ import annotations

import duckdb

from pipeline.core.errors import StorageError, quantity
from pipeline.kernel.engine import one
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, quoted
from pipeline.warehouse.warehouse import ForeignKey, Load

NEW, GONE = "_headwater_new", "_headwater_gone"
"""The temporary tables of the rows that differ between two versions."""


def find_changed_rows(con: duckdb.DuckDBPyConnection, load: Load) -> bool:
    """Create `NEW` and `GONE` with the rows that a version has more and less than the loaded one.

    Returns false if rows are gone that have no key by which they could be found in the warehouse.
    """
    added, removed = (Scan(load.scan.schema, files).query() for files in (load.added, load.removed))
    con.execute(f"create or replace temp table {NEW} as ({added}) except all ({removed})")
    con.execute(f"create or replace temp table {GONE} as ({removed}) except all ({added})")
    return bool(load.key) or not one(con, f"select count(*) from {GONE}")[0]


def require_unique(con: duckdb.DuckDBPyConnection, load: Load, rows: str) -> None:
    """Raise `StorageError` if the key of a row is null, or that of another one."""
    if not load.key:
        return
    keys = listed(load.key)
    is_null = " or ".join(f"{quoted(name)} is null" for name in load.key)
    wrong = f"select {keys} from ({rows}) group by all having count(*) > 1 or {is_null} limit 1"
    found = con.execute(wrong).fetchall()
    if found:
        raise key_violation(load.name, f"several rows of {', '.join(map(repr, found[0]))}, or a null in it")


def key_violation(name: str, got: str) -> StorageError:
    """Return the error for a table whose key is not unique or null."""
    return StorageError(
        f"the key of {name!r} is violated: the warehouse keeps the last version",
        got=got,
        do=f"recompute it: headwater run --full --select {name}",
    )


def missing_members(name: str, foreign_key: ForeignKey, count: int, example: object) -> StorageError:
    """Return the error for values of a foreign key that the other table does not have."""
    return StorageError(
        f"{quantity(count, 'row')} of {name!r} have a {foreign_key.column!r} that {foreign_key.table!r} does not have",
        got=str(example),
        do=f"recompute both: headwater run --full --select {foreign_key.table} {name}",
    )
