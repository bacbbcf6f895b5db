"""Makes statements deterministic whose result depends on the order of rows.

SQL does not define which rows LIMIT returns, which of equal rows comes first, or which value `any_value` returns. The files
of a table have no defined order and are compacted. To make incremental and full runs return the same result:

| expression | result |
| --- | --- |
| `any_value(x)` | the smallest value |
| `mode(x)` | the smallest of the most frequent values |
| `arg_min(x, y)`, `arg_max(x, y)` | the smallest or the greatest `x` of the rows with the extreme `y` |
| `list`, `array_agg`, `string_agg` without ORDER BY | values in ascending order |
| the same, `first`, `last`, with ORDER BY | rows with equal ORDER BY keys are ordered by value |
| `first`, `last`, `arbitrary` without ORDER BY | rejected |
| LIMIT, DISTINCT ON | rows by ORDER BY, then by all columns of the result |
| `row_number`, `lag`, … and ROWS frames | rows by ORDER BY, then by the columns that the SELECT uses |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot import exp

from pipeline.core.errors import DefinitionError, Place
from pipeline.kernel.syntax.function_calls import aggregates_of, function_name, is_aggregate, own

_FIRST_OR_LAST = frozenset({"first", "last", "arbitrary"})
_COLLECTED = frozenset({"array_agg", "listagg"})
_ORDERED = _FIRST_OR_LAST | _COLLECTED | {"any_value", "mode"}
_EXTREMES = (exp.ArgMin, exp.ArgMax)
_BY_ROW = frozenset({"row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value"}) | _ORDERED


def deterministic(tree: exp.Query, place: Place | None = None) -> exp.Query:
    """Return an equivalent statement whose result does not depend on the order of rows, or the statement itself.

    Raises `DefinitionError` for `first`, `last` and `arbitrary` without ORDER BY.
    """
    changed = tree.copy()
    for query in list(changed.find_all(exp.Query)):
        if isinstance(query, exp.Select):
            _decide_windows(query)
            for call in [node for node in own(query, exp.Func) if is_aggregate(node)]:
                _decide_call(call, place)
        if isinstance(query, exp.Select | exp.SetOperation):
            _decide_rows(query)
    return tree if changed == tree else changed


def _decide_call(call: exp.Expr, place: Place | None) -> None:
    """Order the input of an aggregate by its ORDER BY, then by value."""
    name = function_name(call)
    if isinstance(call, _EXTREMES):
        _decide_extreme(call)
        return
    if name not in _ORDERED or _is_framed(call):
        return
    arguments = call.expressions if isinstance(call, exp.Anonymous | exp.AnonymousAggFunc) else [call.this]
    if not arguments:
        return
    order = arguments[0] if isinstance(arguments[0], exp.Order) else None
    if order is None and name == "any_value":
        outer = call.parent if isinstance(call.parent, exp.IgnoreNulls) else call
        outer.replace(exp.Min(this=call.this.copy()))
    elif order is None and name in _FIRST_OR_LAST:
        sql = arguments[0].sql("duckdb")
        raise DefinitionError(
            f"the result of {call.sql('duckdb')} depends on the order of rows, which is undefined",
            do=f"write {name}({sql} order by ...), or use min({sql}), max({sql}) or arg_min({sql}, ...)",
            place=place,
        )
    else:
        value = arguments[0] if order is None else order.this
        values = value.expressions if isinstance(value, exp.Distinct) else [value]
        if order is None:
            order = exp.Order()
            arguments[0].replace(order)
            order.set("this", value)
        _append(order, values)


def _decide_extreme(call: exp.Expr) -> None:
    """Break ties between rows with the same extreme by value."""
    value, by = call.this, call.expression
    if isinstance(value, exp.Distinct | exp.Order) or (isinstance(by, exp.Tuple) and value in by.expressions):
        return
    known = exp.and_(*(exp.Not(this=exp.Is(this=part.copy(), expression=exp.Null())) for part in (by, value)))
    filtered = call.parent if isinstance(call.parent, exp.Filter) else None
    call.set("expression", exp.Tuple(expressions=[by.copy(), value.copy()]))
    if filtered is None:
        call.replace(exp.Filter(this=call.copy(), expression=exp.Where(this=known)))
    else:
        filtered.expression.set("this", exp.and_(exp.paren(filtered.expression.this), known))


def _decide_windows(select: exp.Select) -> None:
    """Order the rows of windows by their ORDER BY, then by all columns that the SELECT uses."""
    windows = [node for node in own(select, exp.Window) if _is_framed(node.this) or _has_rows(node, select)]
    if not windows:
        return
    row = list(_row(select))
    for window in windows:
        named = _named(select, window)
        if named is not None:
            window.set("alias", None)
            for part in ("partition_by", "order", "spec"):
                value = named.args.get(part)
                window.set(part, [v.copy() for v in value] if isinstance(value, list) else value and value.copy())
        if window.args.get("order") is None:
            window.set("order", exp.Order(expressions=[]))
        known = {node.sql("duckdb") for node in window.args.get("partition_by") or []}
        _append(window.args["order"], [node for node in row if node.sql("duckdb") not in known])
        if not window.args["order"].expressions:
            window.set("order", None)


def _is_framed(call: exp.Expr) -> bool:
    """Return whether a window call depends on the order of individual rows."""
    inner = call
    while isinstance(inner, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        inner = inner.this
    outer = call.parent
    while isinstance(outer, exp.Filter | exp.IgnoreNulls | exp.RespectNulls):
        outer = outer.parent
    return isinstance(outer, exp.Window) and isinstance(inner, exp.Func) and function_name(inner) in _BY_ROW


def _has_rows(window: exp.Expr, select: exp.Select) -> bool:
    spec = (_named(select, window) or window).args.get("spec")
    return spec is not None and str(spec.args.get("kind")).upper() == "ROWS"


def _named(select: exp.Select, window: exp.Expr) -> exp.Expr | None:
    """Return the definition of a named window in the WINDOW clause."""
    name = window.args.get("alias")
    defined = select.args.get("windows") or []
    return None if name is None else next((w for w in defined if w.this.name.lower() == name.name.lower()), None)


def _row(select: exp.Select) -> Iterator[exp.Expr]:
    """Yield the expressions that identify a row within the SELECT; rows that are equal in all of them are interchangeable."""
    group = select.args.get("group")
    if group is not None:
        yield from (key for key in group.expressions if not isinstance(key, exp.Literal))
    grouped = group is not None and (
        group.args.get("all") or any(isinstance(k, exp.Literal) for k in group.expressions)
    )
    if group is not None:
        calls = set(map(id, aggregates_of(select)))
        for projection in select.expressions if grouped else ():
            if not any(id(node) in calls or isinstance(node, exp.Window) for node in projection.walk()):
                yield projection.unalias()
        return
    if any(e.is_star for e in select.expressions):
        from_, joins = select.args.get("from_"), select.args.get("joins") or []
        yield from (exp.column(n.this.alias_or_name) for n in [from_, *joins] if n is not None and n.this.alias_or_name)
    if next(aggregates_of(select), None) is not None:
        return  # one row
    aliases = {e.alias.lower(): e for e in select.expressions if isinstance(e, exp.Alias)}
    for column in own(select, exp.Column):
        alias = None if column.args.get("table") else aliases.get(column.name.lower())
        if (
            (alias is None or alias.find(exp.Window) is None)
            and not column.is_star
            and column.find_ancestor(exp.Lambda) is None
        ):
            yield column.copy()


def _decide_rows(query: exp.Query) -> None:
    """Order the rows of a query with LIMIT, OFFSET or DISTINCT ON by all columns of the result."""
    distinct = query.args.get("distinct")
    if not any(query.args.get(clause) for clause in ("limit", "offset")) and not (
        isinstance(distinct, exp.Distinct) and distinct.args.get("on")
    ):
        return
    order = query.args.get("order")
    if order is None:
        query.set("order", exp.Order(expressions=[exp.Ordered(this=exp.var("ALL"))]))
    elif not any(isinstance(key.this, exp.Var) or key.this.name.upper() == "ALL" for key in order.expressions):
        has_star = "*" in query.named_selects
        rest = (
            [exp.Columns(this=exp.Star())]
            if has_star
            else map(exp.Literal.number, range(1, 1 + len(query.named_selects)))
        )
        _append(order, rest)


def _append(order: exp.Expr, nodes: Iterable[exp.Expr]) -> None:
    """Append the missing keys to an ORDER BY."""
    known = {key.this.sql("duckdb") for key in order.expressions}
    if "ALL" in {text.upper() for text in known}:
        return
    for node in nodes:
        if node.sql("duckdb") not in known:
            known.add(node.sql("duckdb"))
            order.append("expressions", exp.Ordered(this=node.copy()))
