"""The provenance of rows in a row-wise statement: the position for the quarantine, and the key for changes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from pipeline.core.sources import POSITION, PROVENANCE, SOURCE
from pipeline.kernel.syntax.scope import Scope, relation


def with_provenance(tree: exp.Query, driving: str, columns: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the statement with `_source` and `_position` of its driving table added, and the names added.

    Only a SELECT directly from a table that has these columns is changed; `columns` are those of the driving table.
    """
    provenance = tuple(name for name in (SOURCE, POSITION) if name in columns)
    table = _driving_table(tree, driving) if provenance else None
    if table is None:
        return tree.sql("duckdb", comments=False), ()
    chosen = {name.lower() for name in tree.named_selects}
    added = tuple(name for name in provenance if name not in chosen)
    changed = tree.copy()
    for name in added:
        changed.append("expressions", exp.column(name, table=table.alias_or_name))
    return changed.sql("duckdb", comments=False), added


def carries_provenance(tree: exp.Query, driving: str, columns: tuple[str, ...]) -> bool:
    """Return whether every row of the result of `with_provenance` has its `_source` and `_position`."""
    place = (SOURCE, POSITION)
    if not set(place) <= set(columns):
        return False
    return with_provenance(tree, driving, columns)[1] == place or passed_through(tree, driving, place) == place


def without_provenance(tree: exp.Query, driving: str) -> exp.Query:
    """Return the statement with stars that exclude the provenance, in each SELECT that reads only the driving table.

    As a result, the star of a source with `stored=False` stands for the columns of its contract.
    """
    changed = tree.copy()
    bodies = Scope.of(changed).bodies
    for select in changed.find_all(exp.Select):
        table = relation(select)
        if select.args.get("joins") or not isinstance(table, exp.Table) or id(table) in bodies:
            continue
        for star in select.expressions if table.name.lower() == driving.lower() else ():
            inner = star.this if isinstance(star, exp.Column) else star
            if isinstance(inner, exp.Star):
                left_out = [exp.column(name) for name in PROVENANCE]
                inner.set("except_", [*(inner.args.get("except_") or []), *left_out])
    return changed


def passed_through(tree: exp.Query, driving: str, columns: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names under which a SELECT directly from its driving table outputs columns unchanged.

    `None` if one of them is not known to be output unchanged.
    """
    table = relation(tree) if isinstance(tree, exp.Select) else None
    if not isinstance(table, exp.Table) or id(table) in Scope.of(tree).bodies or table.name.lower() != driving.lower():
        return None
    output_names = [_output_name(tree, table.alias_or_name.lower(), column.lower()) for column in columns]
    return None if None in output_names else tuple(name for name in output_names if name is not None)


def _output_name(tree: exp.Query, alias: str, column: str) -> str | None:
    joined = bool(tree.args.get("joins"))
    for projection in tree.selects:
        node = projection.unalias()
        if not isinstance(node, exp.Column | exp.Star):
            continue
        is_ours = node.table.lower() == alias if isinstance(node, exp.Column) and node.table else True
        if node.is_star:
            star = node if isinstance(node, exp.Star) else node.this
            changes = any(star.args.values()) if isinstance(star, exp.Star) else True
            if is_ours and not changes and (node is not star or not joined):
                return column
        elif is_ours and node.name.lower() == column:
            return str(projection.alias_or_name)
    return None


def _driving_table(tree: exp.Query, driving: str) -> exp.Table | None:
    """Return the driving table if a SELECT with listed columns reads it directly."""
    if not isinstance(tree, exp.Select) or any(_may_hold(e) for e in tree.expressions):
        return None
    table = relation(tree)
    if not isinstance(table, exp.Table) or id(table) in Scope.of(tree).bodies:
        return None
    return table if table.name.lower() == driving.lower() else None


def _may_hold(projection: exp.Expr) -> bool:
    """Return whether a projection may already contain the provenance, as a star that does not exclude it."""
    if projection.find(exp.Columns):
        return True
    star = projection.this if isinstance(projection, exp.Column) else projection
    if not isinstance(star, exp.Star):
        return bool(projection.is_star)
    return not {SOURCE, POSITION} <= {left_out.name for left_out in star.args.get("except_") or []}
