"""Which columns of a statement's rows depend on given columns of a table that it reads."""

from __future__ import annotations

from collections.abc import Collection

from sqlglot import exp

from pipeline.kernel.planner.projection import takes_all

_ROWS = ("joins", "laterals", "where", "group", "having", "qualify", "order", "distinct", "windows", "limit")
"""The parts of a statement that decide which rows there are, on which all columns depend."""


def dependent_columns(tree: exp.Query, table: str, columns: frozenset[str] | None) -> frozenset[str] | None:
    """Return the dependent columns of the result; `None` stands for all of them, also as an argument.

    A name of a dependent column of the result counts as one of these columns, because it may refer to it wherever it stands. A statement
    with subqueries, or that combines others, is not analyzed: all of its columns depend if it names one of these columns, or
    takes all.
    """
    if columns is None:
        return None
    known = {name.lower() for name in columns}
    if not isinstance(tree, exp.Select) or any(
        each is not tree for each in tree.find_all(exp.Query, exp.CTE, exp.Pivot)
    ):
        return None if takes_all(tree, table) or _names(tree) & known else frozenset()
    found: set[str] = set()
    for projection in tree.expressions:
        dependent = _dependent(projection, table, columns, known | _lower(found))
        if dependent is None:
            return None
        found |= dependent
    if any(_names(part) & (known | _lower(found)) for name in _ROWS for part in _parts(tree, name)):
        return None
    return None if found and _are_rows_chosen(tree, found) else frozenset(found)


def _dependent(
    projection: exp.Expr, table: str, columns: frozenset[str], known: Collection[str]
) -> frozenset[str] | None:
    """Return the dependent ones of the columns that a projection makes; `None` if rows or other columns depend too."""
    star = projection.find(exp.Star) if projection.is_star else None
    if star is not None:
        if isinstance(projection, exp.Column) and projection.table.lower() in known:  # the fields of a struct
            return None
        return _dependent_of_star(star, columns, known)
    if projection.find(exp.Columns) is not None:
        return None
    if not (_names(_expression(projection)) & set(known) or takes_all(projection, table)):
        return frozenset()
    is_one_row = projection.find(exp.Unnest, exp.Explode) is None
    return frozenset({projection.alias_or_name}) if is_one_row and projection.alias_or_name else None


def _dependent_of_star(star: exp.Star, columns: frozenset[str], known: Collection[str]) -> frozenset[str]:
    replaced = {each.alias.lower(): each for each in star.args.get("replace") or ()}
    renamed = {each.this.name.lower(): each.alias for each in star.args.get("rename") or ()}
    left_out = {each.name.lower() for each in star.args.get("except_") or ()} | replaced.keys()
    found = {renamed.get(name.lower(), name) for name in columns if name.lower() not in left_out}
    return frozenset(found | {each.alias for each in replaced.values() if _names(each.this) & set(known)})


def _are_rows_chosen(tree: exp.Select, found: Collection[str]) -> bool:
    """Return whether dependent columns of the result decide which rows there are, without being named: all, or by position."""
    distinct, group = tree.args.get("distinct"), tree.args.get("group")
    if distinct is not None and distinct.args.get("on") is None:
        return True
    if group is not None and group.args.get("all"):
        return any(each.alias_or_name in found and each.find(exp.AggFunc) is None for each in tree.expressions)
    numbers = [
        int(each.this)
        for name in ("group", "order", "distinct")
        for part in _parts(tree, name)
        for each in part.find_all(exp.Literal)
        if each.is_int and isinstance(each.parent, exp.Group | exp.Ordered | exp.Tuple)
    ]
    is_all = any(each.name.upper() == "ALL" for part in _parts(tree, "order") for each in part.find_all(exp.Var))
    if numbers and any(each.is_star for each in tree.expressions):
        return True
    return is_all or any(
        tree.expressions[at - 1].alias_or_name in found for at in numbers if at <= len(tree.expressions)
    )


def _expression(projection: exp.Expr) -> exp.Expr:
    return projection.this if isinstance(projection, exp.Alias) else projection


def _lower(names: Collection[str]) -> set[str]:
    return {name.lower() for name in names}


def _parts(tree: exp.Select, name: str) -> list[exp.Expr]:
    value = tree.args.get(name)
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, exp.Expr)]


def _names(tree: exp.Expr) -> set[str]:
    return {node.name.lower() for node in tree.find_all(exp.Identifier)}
