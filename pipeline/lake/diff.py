"""The difference between two versions of a table, row by row: by key, or as multisets for a table without one.

Only files that are not in both versions are read. Columns that only one of the versions has are named.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import listed
from pipeline.lake.changed_rows import CHANGE_TYPE, CHANGED, TypedSelect, changed_rows, changed_scans
from pipeline.lake.delta import LakeTable, Version


@dataclass(frozen=True)
class ColumnDifference:
    """A column that only one version has, or whose type differs; the type is `None` where the column is missing."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class TableDiff:
    """What a version of a table changed compared with another."""

    table: str
    before: int
    after: int
    key: tuple[str, ...]
    """The columns by which rows are matched; empty: rows are compared as multisets, and none counts as updated."""
    inserted: int = 0
    deleted: int = 0
    updated: int = 0
    changed: Mapping[str, int] = field(default_factory=dict)
    """For each column, in how many updated rows it differs."""
    columns: tuple[ColumnDifference, ...] = ()
    rows: pa.Table | None = field(default=None, compare=False)
    """Changed rows, by key; see `pipeline.lake.changed_rows`."""


def diff(
    table: LakeTable,
    versions: tuple[Version, Version],
    key: Sequence[str] = (),
    *,
    rows: int = 0,
    limits: Limits | None = None,
) -> TableDiff:
    """Compare two versions, and return up to `rows` changed rows, ordered by key.

    `key` is used if both versions have its columns. Memory is bounded by `limits`; DuckDB spills what exceeds it.
    If the table has a column `_change_type` or `_changed`, those that tell changes have more underscores before their names.
    """
    before, after = versions
    parts = [TypedSelect(scan.query(), scan.schema) for scan in changed_scans(before, after)]
    kind, differs = _added({*before.schema.names, *after.schema.names})
    found = changed_rows(parts[0], parts[1], key, (kind, differs))
    with connect(limits, filesystem=table.storage.filesystem()) as con:
        con.execute(f"create temp table _changes as {found.sql}")
        counts = dict(con.execute(f"select {kind}, count(*) from _changes group by all").fetchall())
        updates = f"select unnest({differs}) as name from _changes where {kind} = 'update_postimage'"
        changed = con.execute(f"select name, count(*) from ({updates}) group by name order by name").fetchall()
        order = listed(found.key or found.schema.names[2:])
        shown = f"select * from _changes order by {order}, {kind} desc limit {rows}"
        return TableDiff(
            table.name,
            before.number,
            after.number,
            found.key,
            inserted=int(counts.get("insert", 0)),
            deleted=int(counts.get("delete", 0)),
            updated=int(counts.get("update_postimage", 0)),
            changed=dict(changed),
            columns=_columns(before.schema, after.schema),
            rows=arrow(con, shown) if rows else None,
        )


def _added(names: Collection[str]) -> tuple[str, str]:
    """Return names for the columns that tell changes, which the table does not have."""
    prefix = ""
    while f"{prefix}{CHANGE_TYPE}" in names or f"{prefix}{CHANGED}" in names:
        prefix += "_"
    return f"{prefix}{CHANGE_TYPE}", f"{prefix}{CHANGED}"


def _columns(before: Schema, after: Schema) -> tuple[ColumnDifference, ...]:
    old, new = before.as_dict(), after.as_dict()
    every = [ColumnDifference(name, old.get(name), new.get(name)) for name in (*new, *(n for n in old if n not in new))]
    return tuple(each for each in every if each.before != each.after)
