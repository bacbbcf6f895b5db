"""Carrying a row's position through a row-by-row statement, so that its quarantine can name the file and line."""

from __future__ import annotations

from sqlglot import exp

from pipeline.core.reading import POSITION, SOURCE


def carrying(tree: exp.Query, driving: str, columns: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the statement with `_source` and `_position` of its driving table added, and which were added.

    Only a SELECT straight from a table that has them is changed; `columns` are the driving table's.
    """
    text = tree.sql("duckdb", comments=False)
    wanted = tuple(name for name in (SOURCE, POSITION) if name in columns)
    if not wanted or not isinstance(tree, exp.Select):
        return text, ()
    from_ = tree.args.get("from_") or tree.args.get("from")
    table = from_.this if from_ is not None else None
    if not isinstance(table, exp.Table) or table.name != driving:
        return text, ()
    if any(e.is_star for e in tree.expressions):
        return text, ()
    added = tuple(name for name in wanted if name not in tree.named_selects)
    changed = tree.copy()
    for name in added:
        changed.append("expressions", exp.column(name, table=table.alias_or_name))
    return changed.sql("duckdb", comments=False), added
