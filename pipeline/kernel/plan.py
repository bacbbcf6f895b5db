"""How one SQL statement runs over splits of its driving input: a pure decision on the parsed text.

| strategy | when | how |
| --- | --- | --- |
| blockwise | row by row over one input | each split by itself |
| broadcast | as blockwise, joined to smaller inputs | each split with the whole of the others |
| partial | grouped by mergeable aggregates over a blockwise or broadcast part | states per split, merged once |
| gather | everything else | DuckDB over all files at once, out of core |

Gather is always right; the others are right when the checks below say so.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import duckdb
from sqlglot import exp

from pipeline.kernel.sql import tables_of

Strategy = Literal["blockwise", "broadcast", "partial", "gather"]
MERGEABLE = frozenset(
    {"count", "sum", "min", "max", "avg", "variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop"}
)
"""Aggregates whose states DuckDB exports and merges, and that are proven here to give the direct query's answer."""


@dataclass(frozen=True)
class Plan:
    """A strategy, the input that is split, and the reason in words."""

    strategy: Strategy
    driving: str
    reason: str


def plan(tree: exp.Query) -> Plan:
    """Choose the strategy for a statement."""
    driving = driving_of(tree)
    if driving is None:
        return Plan("gather", next(iter(tables_of(tree)), ""), "its first input is not one table")
    others = [name for name in tables_of(tree) if name != driving]
    obstacle = row_local(tree, driving)
    if obstacle is None:
        if not others:
            return Plan("blockwise", driving, f"every row of {driving!r} is handled by itself")
        return Plan("broadcast", driving, f"{_listed(others)} joined whole to each split of {driving!r}")
    refusal = mergeable(tree, driving)
    if refusal is None:
        return Plan("partial", driving, f"states per split of {driving!r}, merged once")
    return Plan("gather", driving, obstacle if refusal == "no aggregate" else refusal)


def driving_of(tree: exp.Expression) -> str | None:
    """Return the table whose rows flow through the statement: the first after FROM, through CTEs and subqueries."""
    ctes = {cte.alias_or_name: cte.this for cte in tree.find_all(exp.CTE)}
    node: exp.Expression | None = tree
    seen: set[str] = set()
    while node is not None:
        if isinstance(node, exp.Subquery):
            node = node.this
        elif isinstance(node, exp.SetOperation):
            node = node.left
        elif isinstance(node, exp.Select):
            from_ = node.args.get("from_") or node.args.get("from")
            node = None if from_ is None else from_.this
        elif isinstance(node, exp.Table) and isinstance(node.this, exp.Identifier):
            if node.name not in ctes or node.name in seen:
                return node.name
            seen.add(node.name)
            node = ctes[node.name]
        else:
            return None
    return None


def row_local(tree: exp.Expression, driving: str) -> str | None:
    """Return why a statement cannot be applied to each split of `driving` by itself, or `None` when it can."""
    if not isinstance(tree, exp.Select):
        return "a set operation needs all rows at once"
    obstacle = _whole_clause(tree) or _whole_function(tree)
    return obstacle or _from_obstacle(tree, driving)


def mergeable(tree: exp.Expression, driving: str) -> str | None:
    """Return why a statement is not partial-final, or `None` when it is; `no aggregate` when it has none."""
    if not isinstance(tree, exp.Select):
        return "no aggregate"
    functions = list(aggregates_of(tree))
    if not functions:
        return "no aggregate"
    group = tree.args.get("group")
    if group is not None and any(group.args.get(kind) for kind in ("grouping_sets", "cube", "rollup")):
        return "grouping sets are computed at once"
    for clause in ("qualify", "distinct", "windows", "sample", "pivots"):
        if tree.args.get(clause):
            return f"{clause.upper()} needs all rows at once"
    for function in functions:
        if isinstance(function.this, exp.Distinct) or function_name(function) not in MERGEABLE:
            return f"{function.sql('duckdb')} has no state that merges"
    if any(True for _ in _own(tree, exp.Window)):
        return "a window function needs all rows at once"
    for clause in ("having", "order"):
        part = tree.args.get(clause)
        if part is not None and part.find(exp.Query):
            return f"{clause.upper()} holds a subquery"
    if any(isinstance(e, exp.Star) or e.is_star for e in tree.expressions):
        return "a star beside aggregates"
    return _from_obstacle(tree, driving)


def aggregates_of(tree: exp.Select) -> Iterator[exp.Expression]:
    """Yield the aggregate calls of a SELECT itself, not those of its subqueries or windows."""
    for node in _own(tree, exp.Func):
        if is_aggregate(node) and not isinstance(node.parent, exp.Window):
            yield node


def is_aggregate(node: exp.Expression) -> bool:
    """Return whether a call is an aggregate, by sqlglot's or by DuckDB's own list."""
    if isinstance(node, exp.AggFunc):
        return True
    return isinstance(node, exp.Anonymous | exp.AnonymousAggFunc) and str(node.this).lower() in _duckdb_aggregates()


def function_name(node: exp.Expression) -> str:
    """Return DuckDB's name of a function call, in lower case."""
    return node.sql("duckdb").partition("(")[0].strip().lower()


def _whole_clause(tree: exp.Select) -> str | None:
    for clause in ("group", "having", "qualify", "distinct", "order", "limit", "offset", "sample", "pivots"):
        if tree.args.get(clause):
            return f"{clause.upper()} needs all rows at once"
    return None


def _whole_function(tree: exp.Select) -> str | None:
    for node in _own(tree, exp.Func, exp.Window):
        if isinstance(node, exp.Window):
            return "a window function needs all rows at once"
        if is_aggregate(node):
            return f"{node.sql('duckdb')} needs all rows at once"
    return None


def _from_obstacle(tree: exp.Select, driving: str) -> str | None:
    ctes = {cte.alias_or_name: cte.this for cte in tree.find_all(exp.CTE)}
    from_ = tree.args.get("from_") or tree.args.get("from")
    if from_ is None:
        return "it has no FROM"
    obstacle = _relation_obstacle(from_.this, driving, ctes)
    if obstacle is not None:
        return obstacle
    uses = sum(1 for table in tree.find_all(exp.Table) if _reaches(table, driving, ctes))
    chain = _chain_length(from_.this, driving, ctes)
    if uses > chain:
        return f"{driving!r} is read more than once"
    for join in tree.args.get("joins") or []:
        if join.side in {"RIGHT", "FULL"}:
            return f"a {join.side} JOIN keeps rows that no split of {driving!r} has"
    return None


def _relation_obstacle(node: exp.Expression, driving: str, ctes: dict[str, exp.Expression]) -> str | None:
    if isinstance(node, exp.Subquery):
        return row_local(node.this, driving)
    if isinstance(node, exp.Table) and node.args.get("sample"):
        return "SAMPLE needs all rows at once"
    if isinstance(node, exp.Table) and node.name in ctes:
        inner = ctes[node.name]
        if not isinstance(inner, exp.Select):
            return "a set operation needs all rows at once"
        obstacle = _whole_clause(inner) or _whole_function(inner)
        if obstacle is not None:
            return obstacle
        from_ = inner.args.get("from_") or inner.args.get("from")
        for join in inner.args.get("joins") or []:
            if join.side in {"RIGHT", "FULL"}:
                return f"a {join.side} JOIN keeps rows that no split of {driving!r} has"
        return _relation_obstacle(from_.this, driving, ctes)
    return None


def _chain_length(node: exp.Expression, driving: str, ctes: dict[str, exp.Expression]) -> int:
    """Count the table names on the one way from FROM down to the driving table."""
    if isinstance(node, exp.Subquery):
        inner = node.this.args.get("from_") or node.this.args.get("from")
        return _chain_length(inner.this, driving, ctes)
    if isinstance(node, exp.Table) and node.name in ctes:
        inner = ctes[node.name].args.get("from_") or ctes[node.name].args.get("from")
        return 1 + _chain_length(inner.this, driving, ctes)
    return 1


def _reaches(table: exp.Table, driving: str, ctes: dict[str, exp.Expression]) -> bool:
    if table.name == driving:
        return True
    inner = ctes.get(table.name)
    return inner is not None and any(
        _reaches(t, driving, {k: v for k, v in ctes.items() if k != table.name}) for t in inner.find_all(exp.Table)
    )


def _own(tree: exp.Select, *kinds: type[exp.Expression]) -> Iterator[exp.Expression]:
    """Yield nodes of a SELECT that are not inside another query."""
    for node in tree.walk(prune=lambda n: n is not tree and isinstance(n, exp.Query | exp.CTE)):
        if isinstance(node, kinds):
            yield node


@functools.cache
def _duckdb_aggregates() -> frozenset[str]:
    with duckdb.connect() as con:
        rows = con.execute("select distinct function_name from duckdb_functions() where function_type = 'aggregate'")
        return frozenset(str(row[0]) for row in rows.fetchall())


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
