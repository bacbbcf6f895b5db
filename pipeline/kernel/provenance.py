"""Carrying a row's position through a row-by-row statement, so that its quarantine can name the file and line."""

from __future__ import annotations

from sqlglot import exp

from pipeline.core.reading import POSITION, SOURCE
from pipeline.kernel.scope import Scope, relation


def carrying(tree: exp.Query, driving: str, columns: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the statement with `_source` and `_position` of its driving table added, and which were added.

    Only a SELECT straight from a table that has them is changed; `columns` are the driving table's.
    """
    wanted = tuple(name for name in (SOURCE, POSITION) if name in columns)
    table = _driving_table(tree, driving) if wanted else None
    if table is None:
        return tree.sql("duckdb", comments=False), ()
    chosen = {name.lower() for name in tree.named_selects}
    added = tuple(name for name in wanted if name not in chosen)
    changed = tree.copy()
    for name in added:
        changed.append("expressions", exp.column(name, table=table.alias_or_name))
    return changed.sql("duckdb", comments=False), added


def _driving_table(tree: exp.Query, driving: str) -> exp.Table | None:
    """Return the driving table where a SELECT that lists its columns reads it at first hand."""
    if not isinstance(tree, exp.Select) or any(e.is_star or e.find(exp.Columns) for e in tree.expressions):
        return None
    table = relation(tree)
    if not isinstance(table, exp.Table) or id(table) in Scope.of(tree).bodies:
        return None
    return table if table.name.lower() == driving.lower() else None
