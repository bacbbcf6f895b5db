"""The execution strategy of a SQL statement over splits of its driving input: a pure decision on the parsed text.

| strategy | used for | execution |
| --- | --- | --- |
| blockwise | row-wise statements over one input | each split independently |
| broadcast | the same, joined with smaller inputs | each split with all rows of the other inputs |
| partial | grouping with mergeable aggregates over a blockwise or broadcast query | states per split, merged once |
| gather | everything else | DuckDB over all files at once, out of core |

Gather is always correct. The other strategies are chosen only if every clause, join and function is known to allow it.

`batch.planning` may replace a gather by an exchange into buckets, which it chooses by the size of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sqlglot import exp

from pipeline.kernel.aggregates.decomposition import decomposition_obstacle, has_groups
from pipeline.kernel.syntax.function_calls import is_aggregate, is_volatile, needs_more_than_a_row
from pipeline.kernel.syntax.scope import Scope, driving_of, relation

__all__ = ["Strategy", "StrategyChoice", "choose_strategy", "driving_of"]

Strategy = Literal["blockwise", "broadcast", "partial", "gather"]
_ROW_BY_ROW = frozenset({"with_", "expressions", "from_", "joins", "where"})
_JOINS = frozenset({"", "INNER", "OUTER", "CROSS", "SEMI", "ANTI"})
_METHODS = frozenset({"", "ASOF", "NATURAL"})


@dataclass(frozen=True)
class StrategyChoice:
    """A strategy, the input that is split, and the reason in words."""

    strategy: Strategy
    driving: str
    reason: str


def choose_strategy(tree: exp.Query) -> StrategyChoice:
    """Choose the strategy for a statement."""
    scope = Scope.of(tree)
    driving = scope.driving
    if not scope.inputs:
        return StrategyChoice("gather", "", "it reads no table")
    if driving is None:
        return StrategyChoice("gather", next(iter(scope.inputs), ""), "its first input is not a table")
    obstacle = _obstacle_in(scope, driving)
    if obstacle is None and isinstance(tree, exp.Select) and has_groups(tree):
        obstacle = decomposition_obstacle(tree) or _from(tree, scope, driving)
        if obstacle is None:
            return StrategyChoice("partial", driving, f"states per split of {driving!r}, merged once")
    obstacle = obstacle or _row_by_row(tree, scope, driving)
    if obstacle is not None:
        return StrategyChoice("gather", driving, obstacle)
    others = ", ".join(repr(name) for name in scope.inputs[1:])
    if others:
        return StrategyChoice("broadcast", driving, f"{others} joined to each split of {driving!r}")
    return StrategyChoice("blockwise", driving, f"each row of {driving!r} is processed independently")


def _obstacle_in(scope: Scope, driving: str) -> str | None:
    """Return why a part of the statement rules out splits, wherever it occurs."""
    if scope.reads(driving) > 1:
        return f"{driving!r} is read more than once"
    return next(
        (obstacle for node in scope.tree.walk() if (obstacle := splitting_obstacle(node, "split")) is not None), None
    )


def splitting_obstacle(node: exp.Expr, part: str) -> str | None:
    """Return why a node rules out parts, wherever it occurs; `part` is the term used in the reason: split or bucket."""
    if isinstance(node, exp.With) and node.args.get("recursive"):
        return "a recursive CTE needs all rows at once"
    if isinstance(node, exp.TableSample):
        return "a sample is drawn from all rows at once"
    if isinstance(node, exp.Table) and (node.db or not isinstance(node.this, exp.Identifier)):
        return f"{node.sql('duckdb')} is not one of the project's tables"
    return f"{node.sql('duckdb')} may differ from {part} to {part}" if is_volatile(node) else None


def _row_by_row(query: exp.Expr, scope: Scope, driving: str) -> str | None:
    """Return why a query cannot be applied to each split independently, or `None` if it can."""
    if not isinstance(query, exp.Select):
        return "a set operation needs all rows at once"
    clause = next((name for name, value in query.args.items() if value and name not in _ROW_BY_ROW), None)
    if clause is not None:
        return f"{clause.strip('_').upper()} needs all rows at once"
    return needs_more_than_a_row(query) or _outer_aggregate(query) or _from(query, scope, driving)


def _from(select: exp.Select, scope: Scope, driving: str) -> str | None:
    first = relation(select)
    if first is None:
        return "it has no FROM"
    obstacle = _relation(first, scope, driving)
    joins = (_join(join, driving) for join in select.args.get("joins") or [])
    return obstacle or next((problem for problem in joins if problem is not None), None)


def _relation(node: exp.Expr, scope: Scope, driving: str) -> str | None:
    """Return why the first FROM item is not a row-wise query of the driving table."""
    if not isinstance(node, exp.Table | exp.Subquery) or any(
        v and k not in {"this", "alias"} for k, v in node.args.items()
    ):
        return f"{node.sql('duckdb')} needs all rows at once"
    if isinstance(node, exp.Subquery):
        return _row_by_row(node.this, scope, driving)
    body = scope.bodies.get(id(node))
    return None if body is None else _row_by_row(body, scope, driving)


def _join(join: exp.Join, driving: str) -> str | None:
    if join.side in {"RIGHT", "FULL"}:
        return f"a {join.side} JOIN keeps rows that no split of {driving!r} has"
    if join.kind not in _JOINS or join.method not in _METHODS:
        return f"a {join.method or join.kind} JOIN needs all rows at once"
    return None


def _outer_aggregate(select: exp.Select) -> str | None:
    """Return why an aggregate in a subquery may belong to the outer query, which depends on its columns in SQL."""
    for expression in select.expressions:
        for query in expression.find_all(exp.Query):
            inner = {part.alias_or_name.lower() for part in query.find_all(exp.Table, exp.Subquery)}
            for call in query.find_all(exp.Func):
                if is_aggregate(call) and any(c.table.lower() not in inner for c in call.find_all(exp.Column)):
                    return f"{call.sql('duckdb')} in a subquery may refer to the outer query: qualify its columns"
    return None
