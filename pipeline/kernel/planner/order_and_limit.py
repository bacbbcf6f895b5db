"""ORDER BY and LIMIT of a statement that runs in buckets: the part of each bucket, and the part of their union."""

from __future__ import annotations

from sqlglot import exp

from pipeline.kernel.planner.canonical import is_row_expression
from pipeline.kernel.planner.distribution import NotPartitionableError
from pipeline.kernel.planner.partitioning import PartitioningAnalysis
from pipeline.kernel.planner.relations import Columns
from pipeline.kernel.planner.resolver import SelectScope


def split_order_and_limit(tree: exp.Query, walk: PartitioningAnalysis, union: str) -> tuple[str, str | None]:
    """Return the statement of a bucket, and the SELECT over the table `union` of their results, if it is required."""
    while isinstance(tree, exp.Subquery):
        tree = tree.this
    order, limit, offset = (tree.args.get(clause) for clause in ("order", "limit", "offset"))
    if order is None and limit is None and offset is None:
        return tree.sql("duckdb", comments=False), None
    if order is None:
        raise NotPartitionableError("LIMIT without ORDER BY needs all rows at once")
    size, skipped = _count(limit), _count(offset) or 0
    of_bucket = tree.copy()
    distinct = tree.args.get("distinct")
    if size is None and (distinct is None or distinct.args.get("on") is None):
        of_bucket.set("order", None)
    of_bucket.set("offset", None)
    of_bucket.set("limit", None if size is None else exp.Limit(expression=exp.Literal.number(size + skipped)))
    last = exp.select("*").from_(exp.to_identifier(union))
    last.set("order", exp.Order(expressions=_orders(tree, order, walk)))
    last.set("limit", limit and limit.copy())
    last.set("offset", offset and offset.copy())
    return of_bucket.sql("duckdb", comments=False), last.sql("duckdb", comments=False)


def _count(clause: exp.Expr | None) -> int | None:
    if clause is None:
        return None
    number = clause.args.get("expression")
    others = any(value for name, value in clause.args.items() if name != "expression")
    if not isinstance(number, exp.Literal) or not number.is_int or others:
        raise NotPartitionableError(f"{clause.sql('duckdb').strip()} needs all rows at once")
    return int(number.this)


def _orders(tree: exp.Query, order: exp.Expr, walk: PartitioningAnalysis) -> list[exp.Expr]:
    outputs = walk.outputs.get(id(tree))
    first = tree
    while isinstance(first, exp.SetOperation | exp.Subquery):
        first = first.this
    names = [name for name, _ in walk.outputs[id(first)][1]]
    orders: list[exp.Expr] = []
    for ordered in order.expressions:
        by = ordered.this.unnest()
        if not (isinstance(by, exp.Var) or (isinstance(by, exp.Literal) and by.is_int)):
            by = _over_columns(tree, by, names, outputs, walk)
        rewritten = ordered.copy()
        rewritten.set("this", by)
        orders.append(rewritten)
    return orders


def _over_columns(
    tree: exp.Query,
    by: exp.Expr,
    names: list[str],
    outputs: tuple[SelectScope, Columns] | None,
    walk: PartitioningAnalysis,
) -> exp.Expr:
    """Return an ORDER BY expression over the output columns; a single column is returned as its position."""
    if isinstance(by, exp.Column) and not by.table and by.name.lower() in names:
        if names.count(by.name.lower()) > 1:
            raise NotPartitionableError(f"it orders by {by.sql('duckdb')}, which names two columns")
        return exp.Literal.number(names.index(by.name.lower()) + 1)
    position = None if outputs is None else _position(by, outputs, walk)
    if position is None and isinstance(tree, exp.Select) and not any(e.is_star for e in tree.expressions):
        position = next((i for i, e in enumerate(tree.expressions) if e.unalias() == by), None)
    if position is not None:
        return exp.Literal.number(position + 1)

    def over(part: exp.Expr) -> exp.Expr:
        if not isinstance(part, exp.Column):
            return part
        at = None if outputs is None else _position(part, outputs, walk)
        name = part.name.lower()
        if at is None and not part.table and name in names and (outputs is None or not outputs[0].names.find(name)):
            at = names.index(name)
        if at is None or not names[at] or names.count(names[at]) > 1:
            raise NotPartitionableError(f"it orders by {part.sql('duckdb')}, which is not one of its columns")
        return exp.column(exp.to_identifier(names[at], quoted=True))

    if not is_row_expression(by):
        raise NotPartitionableError(f"it orders by {by.sql('duckdb')}, which is not one of its columns")
    return by.copy().transform(over)


def _position(by: exp.Expr, outputs: tuple[SelectScope, Columns], walk: PartitioningAnalysis) -> int | None:
    """Return the index of the SELECT list column that equals an expression."""
    frame, columns = outputs
    term = walk.term(by, (frame,))
    return next((i for i, (_, candidate) in enumerate(columns) if candidate == term), None)
