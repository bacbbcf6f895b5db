"""The difference between two versions of a table, row by row: by key, or as multisets for a table without one.

Only files that are not in both versions are read. Columns that only one of the versions has are named, and rows are
compared by the others; a column whose type changed is compared as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.core.schema import Schema
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.lake.delta import LakeTable, Version

CHANGE_TYPE, CHANGED = "_change_type", "_changed"
"""The columns that `TableDiff.rows` has besides those of the table; the first has the words of Delta's change feed."""


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
    """Changed rows, by key: `_change_type` is `insert`, `delete`, `update_preimage` or `update_postimage`."""


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
    """
    before, after = versions
    common = {file.uri for file in before.files} & {file.uri for file in after.files}
    scans = [Scan(v.schema, tuple(f for f in v.files if f.uri not in common)) for v in (before, after)]
    columns = _columns(before.schema, after.schema)
    shared = [name for name in after.schema.names if name in before.schema.names]
    by = tuple(key) if set(key) <= set(shared) else ()
    with connect(limits, filesystem=table.storage.filesystem()) as con:
        names = (*after.schema.names, *(n for n in before.schema.names if n not in after.schema.names))
        retyped = {each.name for each in columns if each.before is not None and each.after is not None}
        for view, scan in zip(("_before", "_after"), scans, strict=True):
            con.execute(f"create temp view {view} as {_projected(scan, names, before.schema, after.schema, retyped)}")
        con.execute(f"create temp table _changes as {_changes(by, shared) if by else _multisets(shared, names)}")
        counts = dict(con.execute("select kind, count(*) from _changes group by kind").fetchall())
        changed = dict(
            con.execute(
                "select name, count(*) from (select unnest(changed) as name from _changes) group by name order by name"
            ).fetchall()
        )
        return TableDiff(
            table.name,
            before.number,
            after.number,
            by,
            inserted=int(counts.get("insert", 0)),
            deleted=int(counts.get("delete", 0)),
            updated=int(counts.get("update", 0)),
            changed=changed,
            columns=columns,
            rows=_rows(con, names, by, rows) if rows else None,
        )


def _columns(before: Schema, after: Schema) -> tuple[ColumnDifference, ...]:
    old, new = before.as_dict(), after.as_dict()
    every = [ColumnDifference(name, old.get(name), new.get(name)) for name in (*new, *(n for n in old if n not in new))]
    return tuple(each for each in every if each.before != each.after)


def _projected(scan: Scan, names: Sequence[str], before: Schema, after: Schema, retyped: set[str]) -> str:
    """Return a SELECT of all columns of both versions, null where this one has none."""
    types = {**before.as_dict(), **after.as_dict()}
    parts = []
    for name in names:
        has = name in scan.schema.names
        kind = "varchar" if name in retyped else types[name]
        parts.append(f"{quoted(name) if has else 'null'}::{kind} as {quoted(name)}")
    return f"select {', '.join(parts)} from ({scan.query()})"


def _changes(key: Sequence[str], shared: Sequence[str]) -> str:
    """Return a SELECT of the changed rows by key: their kind, the changed columns, and the row before and after."""
    on = " and ".join(f"o.{quoted(name)} is not distinct from n.{quoted(name)}" for name in key)
    others = [name for name in shared if name not in key]
    differs = ", ".join(f"case when o.{quoted(c)} is distinct from n.{quoted(c)} then {literal(c)} end" for c in others)
    changed = f"list_filter([{differs}], lambda _hw_name: _hw_name is not null)" if others else "[]::varchar[]"
    return (
        "select _hw_kind as kind, changed, before, after from (select case when n._hw_in is null then 'delete' when o._hw_in is null then 'insert' "
        f"else 'update' end as _hw_kind, case when _hw_kind = 'update' then {changed} else [] end as changed, "
        "o._hw_row as before, n._hw_row as after "
        f"from (select *, true as _hw_in, b as _hw_row from _before as b) as o "
        f"full join (select *, true as _hw_in, a as _hw_row from _after as a) as n on {on}) "
        "where _hw_kind <> 'update' or len(changed) > 0"
    )


def _multisets(shared: Sequence[str], names: Sequence[str]) -> str:
    """Return a SELECT of the rows that one version has more often than the other."""
    columns = listed(tuple(shared)) if shared else "1"
    row = ", ".join(f"{quoted(n)} := {quoted(n) if n in shared else 'null'}" for n in names)
    parts = [
        f"select '{kind}' as kind, []::varchar[] as changed, {old} as before, {new} as after from "
        f"(select {columns} from {one} except all select {columns} from {other}) as t"
        for kind, one, other, old, new in (
            ("insert", "_after", "_before", "null", f"struct_pack({row})"),
            ("delete", "_before", "_after", f"struct_pack({row})", "null"),
        )
    ]
    return " union all ".join(parts)


def _rows(con: duckdb.DuckDBPyConnection, names: Sequence[str], key: Sequence[str], limit: int) -> pa.Table:
    by = listed(tuple(key or names))
    parts = [
        f"select case when kind = 'update' then '{update}' else kind end as {CHANGE_TYPE}, changed as {CHANGED}, "
        f"unnest({row}), {number} as _hw_part from _changes where kind in ('update', '{kind}')"
        for row, update, kind, number in (
            ("before", "update_preimage", "delete", 0),
            ("after", "update_postimage", "insert", 1),
        )
    ]
    return arrow(
        con,
        f"select * exclude (_hw_part) from ({' union all '.join(parts)}) order by {by}, _hw_part limit {limit}",
    )
