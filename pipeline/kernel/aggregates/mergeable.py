"""Which aggregate calls have a state that merges, and how it is made, carried and merged.

| state | of | what a split gives for a group |
| --- | --- | --- |
| `ExportedState` | sums, extremes, moments, sketches, the first or the last row | DuckDB's own state, mostly of a fixed size |
| `ListState` | DISTINCT, ORDER BY inside, quantiles, the top n | the values that its call is made over again |
| `CountState` | histogram, mode, entropy | each value with how often it is there |

Kept and counted values are held in memory where they are merged: as many as all splits together have different
values (DISTINCT, counts), n of a split and group (top n), or rows (quantiles, ORDER BY), as the call itself would.
A state of approx_count_distinct takes 1 kB, which over a million groups is more than the rows.
A list or text of a split may have 2^31 bytes or values at most, which is Arrow's limit.

Where SQL lets an answer be any of several, `determinism` has written into the statement which one it is. Without that,
`arg_min`, `arg_max` and `any_value` prefer the first split where one thread merges, `mode` takes the smallest
of equally frequent values, and rows that an ORDER BY inside leaves equal come in any order. Sketches
(`approx_…`) keep their error and differ within it.
"""

from __future__ import annotations

from dataclasses import replace

from sqlglot import exp

from pipeline.core.refusal import Refusal
from pipeline.kernel.aggregates.states import AT, Binding, CountState, ExportedState, ListState, State
from pipeline.kernel.syntax.function_calls import CallParts, function_name

_SPREAD = frozenset({"variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop", "sem"})
_REGRESSIONS = frozenset(
    f"regr_{name}" for name in ("avgx", "avgy", "count", "intercept", "r2", "slope", "sxx", "sxy", "syy")
)
_ON_DOUBLES = frozenset({"product", "skewness", "kurtosis", "kurtosis_pop", "fsum", "favg", "kahan_sum", "sumkahan"})
_ON_PAIRS = frozenset({"corr", "covar_samp", "covar_pop"}) | _REGRESSIONS
_ON_BOOLEANS = frozenset({"bool_and", "bool_or", "count_if"})
_ON_WIDENED = frozenset({"sum", "avg", "mean"})
_ON_ANY = frozenset({"count", "min", "max", "any_value", "approx_count_distinct", "bit_and", "bit_or", "bit_xor"})
_BY = frozenset(f"arg_{end}{nulls}" for end in ("min", "max") for nulls in ("", "_null", "_nulls_last"))
_IN_ORDER = frozenset({"first", "last", "arbitrary", "array_agg", "listagg"})
"""Calls that take the rows in their order where they are not given one."""
_SKETCHES = {"approx_quantile": "FLOAT", "approx_top_k": "BIGINT"}
"""Sketches with the type of their parameter."""
_HELD = frozenset({"median", "mad", "quantile", "quantile_cont", "quantile_disc"})
_COUNTED = frozenset({"histogram", "mode", "entropy"})
_ORDERED = _IN_ORDER | {"any_value"}
_KEEPS_NULLS = frozenset({"first", "last", "arbitrary", "array_agg"})
_COLLECTED = frozenset({"array_agg", "listagg"})

_BINDINGS: dict[str, Binding] = {
    **dict.fromkeys(_ON_WIDENED, "widened"),
    **dict.fromkeys(_ON_BOOLEANS, "boolean"),
    **dict.fromkeys(_ON_DOUBLES | _SPREAD | _ON_PAIRS, "double"),
    "listagg": "varchar",
    "approx_quantile": "quantile",
}

MERGEABLE = (
    _ON_ANY | _ON_WIDENED | _ON_BOOLEANS | _ON_DOUBLES | _SPREAD | _ON_PAIRS | _BY | _IN_ORDER | _HELD | _COUNTED
) | frozenset(_SKETCHES)
"""Aggregates that are proven here to give the direct query's answer."""
_VALUES = {**dict.fromkeys(MERGEABLE, 1), **dict.fromkeys(_ON_PAIRS | _BY, 2)}
_PARAMETERS = {
    **dict.fromkeys(("quantile", "quantile_cont", "quantile_disc", "listagg", *_SKETCHES), 1),
    **dict.fromkeys(("min", "max", "arg_min", "arg_max"), 1),
}
"""How many arguments a call takes of each row, and how many constants after them at most."""


def state_of(node: exp.Expr, column: str, *, in_order: bool) -> State | Refusal:
    """Return the state of a call with its FILTER, in a column of that name, or why it has none.

    `in_order` says that the rows of a split, and the splits, come in the order of the input.
    """
    parts = CallParts.of(node)
    name = None if parts is None else function_name(parts.call)
    if parts is None or name not in MERGEABLE or not _fits(name, parts):
        return Refusal(f"{node.sql('duckdb')} has no state that merges")
    if name in _COUNTED and not parts.distinct:
        return CountState(column, name, (_sql(parts.arguments[0]),), _where(parts.where))
    if name in _IN_ORDER and not parts.distinct and not parts.order:
        if not in_order:
            return Refusal(
                f"{node.sql('duckdb')} takes rows in their order, which a join does not keep: write ORDER BY in it"
            )
        return _in_order(node, column, name, parts)
    if parts.distinct or parts.order or name in _HELD or _is_top(name, parts):
        return _kept(node, column, name, parts)
    return _exported(node, column, name, parts)


def _fits(name: str, parts: CallParts) -> bool:
    """Return whether a call has a form that is known here, for those that have more than one."""
    values = _VALUES[name]
    constants = parts.arguments[values:]
    if len(constants) > _PARAMETERS.get(name, 0) or any(constant.find(exp.Column) for constant in constants):
        return False
    if name in _SKETCHES and len(constants) != 1:
        return False
    if len(parts.arguments) < values and (name != "count" or parts.distinct):
        return False
    if name == "mode" and all(_sql(key) == _sql(parts.arguments[0]) for key in parts.order):
        return not constants and not parts.distinct  # the least of equally frequent values, which its state gives
    if any(name not in _ORDERED or isinstance(key.this, exp.Var) for key in parts.order):
        return False
    return not parts.distinct or _fits_distinct(name, parts)


def _fits_distinct(name: str, parts: CallParts) -> bool:
    if name in _ORDERED:  # different values have no order but their own
        return name in _COLLECTED and {_sql(key.this) for key in parts.order} == {_sql(parts.arguments[0])}
    return _VALUES[name] == 1 and not _is_top(name, parts) and name not in _COUNTED | _ON_BOOLEANS | set(_SKETCHES)


def _is_top(name: str, parts: CallParts) -> bool:
    return name in {"min", "max", *_BY} and len(parts.arguments) > _VALUES[name]


def _exported(node: exp.Expr, column: str, name: str, parts: CallParts) -> ExportedState:
    values = [_sql(argument) for argument in parts.arguments[: _VALUES[name]]]
    parameters = []
    for constant in parts.arguments[_VALUES[name] :]:
        kind = _SKETCHES.get(name, "VARCHAR")
        parameters.append((f"{kind}[]" if isinstance(constant, exp.Array) else kind, _sql(constant)))
    known = {"listagg": "string_agg", "count": "count" if values else "count_star"}.get(name, name)
    binding = _BINDINGS.get(name, "given")
    if binding == "quantile" and parameters[0][0].endswith("[]"):
        binding = "quantiles"
    return ExportedState(column, known, _sql(node), tuple(values), binding, tuple(parameters))


def _in_order(node: exp.Expr, column: str, name: str, parts: CallParts) -> State:
    if name == "listagg":
        return replace(_exported(node, column, name, parts), order=f" order by {AT}")
    # not a state of DuckDB's: of two for `last`, it may keep the wrong one when one is of NULL
    argument = _sql(parts.arguments[0])
    value, where = f"{{'v0': {argument}}}", _where(parts.where)
    again = {"array_agg": "list", "last": "last"}.get(name, "first")
    kept = f"list({value}){where}" if again == "list" else f"[{again}({value}){where}]"
    return ListState(
        column, (argument,), kept, f"{again}({column}_0 order by {AT}) filter (where {column}_is)", packed=True
    )


def _kept(node: exp.Expr, column: str, name: str, parts: CallParts) -> ListState:
    values = [_sql(value) for value in parts.arguments[: _VALUES[name]]]
    arguments = tuple(dict.fromkeys([*values, *(_sql(key.this) for key in parts.order)]))
    packed = len(arguments) > 1 or name in _KEEPS_NULLS
    fields = ", ".join(f"'v{i}': {sql}" for i, sql in enumerate(arguments))
    conditions = [] if name in _KEEPS_NULLS else [f"{sql} is not null" for sql in values]
    conditions += [] if parts.where is None else [f"({_sql(parts.where)})"]
    where = f" filter (where {' and '.join(conditions)})" if conditions else ""
    kept = _chosen(name, parts, f"{{{fields}}}" if packed else arguments[0], where)
    again = _again(node, column, arguments)
    columns = [f"{column}_{i}" for i in range(len(arguments))]
    kept_value = "{" + ", ".join(f"'v{i}': {name}" for i, name in enumerate(columns)) + "}" if packed else columns[0]
    there = f" filter (where {column}_is)" if packed else f" filter (where {kept_value} is not null)"
    kept_again = _chosen(name, _over(parts, column, arguments), kept_value, there)
    again = f"{again} filter (where {column}_is)" if packed else again
    return ListState(column, arguments, kept, again, packed, kept_again)


def _chosen(name: str, parts: CallParts, value: str, where: str) -> str:
    """Return the list of those values of a split that the call may need."""
    if _is_top(name, parts):
        others = ", ".join(_sql(argument) for argument in parts.arguments[1:])
        return f"{name}({value}, {others}){where}"
    if parts.order and name not in _COLLECTED:
        order = ", ".join(_sql(key) for key in parts.order)
        return f"[{'last' if name == 'last' else 'first'}({value} order by {order}){where}]"
    return f"list({'distinct ' if parts.distinct else ''}{value}){where}"


def _again(node: exp.Expr, column: str, arguments: tuple[str, ...]) -> str:
    """Return the call without its FILTER over columns `<column>_0…`."""
    copy = node.copy()
    parts = CallParts.of(copy)
    for value in [] if parts is None else [*parts.arguments, *(key.this for key in parts.order)]:
        sql = _sql(value)
        if sql in arguments:
            value.replace(exp.column(f"{column}_{arguments.index(sql)}"))
    return _sql(copy.this if isinstance(copy, exp.Filter) else copy)


def _over(parts: CallParts, column: str, arguments: tuple[str, ...]) -> CallParts:
    """Return the parts of a call that choose values, over columns `<column>_0…`."""

    def over(node: exp.Expr) -> exp.Expr:
        sql = _sql(node)
        return exp.column(f"{column}_{arguments.index(sql)}") if sql in arguments else node

    order = tuple(key.copy() for key in parts.order)
    for key in order:
        key.set("this", over(key.this))
    return replace(parts, arguments=tuple(over(argument) for argument in parts.arguments), order=order)


def _where(condition: exp.Expr | None) -> str:
    return "" if condition is None else f" filter (where {_sql(condition)})"


def _sql(node: exp.Expr) -> str:
    return node.sql("duckdb", comments=False)
