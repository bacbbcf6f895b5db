"""Which columns of a statement's rows depend on given columns of a table that it reads."""

from __future__ import annotations

from sqlglot import exp

from pipeline.kernel.planner.projection import takes_all

_ROWS = ("joins", "laterals", "where", "group", "having", "qualify", "order", "distinct", "windows", "limit")
"""The parts of a statement that decide which rows there are, on which all columns depend."""


def dependent_columns(tree: exp.Query, table: str, columns: frozenset[str] | None) -> frozenset[str] | None:
    """Return the dependent columns of the result; `None` stands for all of them, also as an argument.

    A statement with subqueries, or that combines others, is not analyzed: all of its columns depend if it names one of
    these columns, or takes all.
    """
    if columns is None:
        return None
    known = {name.lower() for name in columns}
    if not isinstance(tree, exp.Select) or next(iter(tree.find_all(exp.Subquery, exp.CTE)), None) is not None:
        return None if takes_all(tree, table) or _names(tree) & known else frozenset()
    if any(_names(part) & known for name in _ROWS for part in _parts(tree, name)):
        return None
    found: set[str] = set()
    for projection in tree.expressions:
        if projection.find(exp.Columns) is not None:
            return None
        if projection.is_star:
            star = projection.find(exp.Star)
            left_out = {each.name.lower() for each in star.args.get("except_") or ()} if star is not None else set()
            found |= {name for name in columns if name.lower() not in left_out}
        elif _names(projection) & known or takes_all(projection, table):
            found.add(projection.alias_or_name)
    return frozenset(found)


def _parts(tree: exp.Select, name: str) -> list[exp.Expr]:
    value = tree.args.get(name)
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, exp.Expr)]


def _names(tree: exp.Expr) -> set[str]:
    return {node.name.lower() for node in tree.find_all(exp.Identifier)}
