"""The columns of a table that a statement uses; the others are not read."""

from __future__ import annotations

from sqlglot import exp

from pipeline.core.schema import Schema


def used_columns(tree: exp.Query, table: str, schema: Schema) -> tuple[str, ...]:
    """Return the columns of a table that a statement may use, at least one; all columns if it contains a star.

    A column counts as used if its name occurs anywhere in the statement, even if it refers to another table.
    """
    if takes_all(tree, table):
        return schema.names
    named = {node.name.lower() for node in tree.find_all(exp.Identifier)}
    return tuple(name for name in schema.names if name.lower() in named) or schema.names[:1]


def takes_all(tree: exp.Expr, table: str) -> bool:
    """Return whether a statement or a part of it may use all columns of a table."""
    stars = (star for star in tree.find_all(exp.Star) if not isinstance(star.parent, exp.Count))
    if next(stars, None) is not None or tree.find(exp.Columns, exp.Pivot) is not None:
        return True
    if any(join.method == "NATURAL" for join in tree.find_all(exp.Join)):
        return True
    rows = {table.lower(), *(t.alias.lower() for t in tree.find_all(exp.Table) if t.name.lower() == table.lower())}
    return any(not column.table and column.name.lower() in rows for column in tree.find_all(exp.Column))
