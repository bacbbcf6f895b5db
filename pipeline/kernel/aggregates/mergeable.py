"""Aggregate calls with mergeable states, and the choice of their state.

| state | used for | content per split and group |
| --- | --- | --- |
| `ExportedState` | sums, extremes, moments, sketches, the first or the last row | DuckDB's aggregate state, mostly of a fixed size |
| `ListState` | DISTINCT, ORDER BY inside a call, quantiles, the top n | the values over which the call is repeated |
| `CountState` | histogram, mode, entropy | each value with its number of occurrences |

Lists and counts are in memory when they are merged: all distinct values (DISTINCT, counts), n values per split and group
(top n), or all rows (quantiles, ORDER BY), as for the direct call. A state of approx_count_distinct takes 1 kB, which
exceeds the size of the rows for a million groups. A list or text of a split is limited to 2^31 bytes or values by Arrow.

Where SQL leaves the result open, `determinism` has already made the statement deterministic. Without that, `arg_min`,
`arg_max` and `any_value` prefer the first split if one thread merges, `mode` returns the smallest of equally frequent
values, and rows with equal ORDER BY keys are in any order. Sketches (`approx_…`) are within their error bound.
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
"""Calls whose result depends on the order of rows unless they contain ORDER BY."""
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
"""Aggregates whose merged states are tested to give the result of the direct query."""
_VALUES = {**dict.fromkeys(MERGEABLE, 1), **dict.fromkeys(_ON_PAIRS | _BY, 2)}
_PARAMETERS = {
    **dict.fromkeys(("quantile", "quantile_cont", "quantile_disc", "listagg", *_SKETCHES), 1),
    **dict.fromkeys(("min", "max", "arg_min", "arg_max"), 1),
}
"""The number of arguments per row, and the maximum number of constant arguments that follow them."""


def state_of(node: exp.Expr, column: str, *, in_order: bool) -> State | Refusal:
    """Return the state of a call, including its FILTER, stored in `column`; a `Refusal` if it has none.

    `in_order` means that rows are processed in input order, within a split and across splits.
    """
    parts = CallParts.of(node)
    name = None if parts is None else function_name(parts.call)
    if parts is None or name not in MERGEABLE or not _fits(name, parts):
        return Refusal(f"{node.sql('duckdb')} has no mergeable state")
    if name in _COUNTED and not parts.distinct:
        return CountState(column, name, (_sql(parts.arguments[0]),), _where(parts.where))
    if name in _IN_ORDER and not parts.distinct and not parts.order:
        if not in_order:
            return Refusal(
                f"{node.sql('duckdb')} depends on the order of rows, which a join does not preserve: add ORDER BY to it"
            )
        return _in_order(node, column, name, parts)
    if parts.distinct or parts.order or name in _HELD or _is_top(name, parts):
        return _kept(node, column, name, parts)
    return _exported(node, column, name, parts)


def _fits(name: str, parts: CallParts) -> bool:
    """Return whether this form of a call is supported."""
    values = _VALUES[name]
    constants = parts.arguments[values:]
    if len(constants) > _PARAMETERS.get(name, 0) or any(constant.find(exp.Column) for constant in constants):
        return False
    if name in _SKETCHES and len(constants) != 1:
        return False
    if len(parts.arguments) < values and (name != "count" or parts.distinct):
        return False
    if name == "mode" and all(_sql(key) == _sql(parts.arguments[0]) for key in parts.order):
        return not constants and not parts.distinct  # the smallest of equally frequent values, as the state returns
    if any(name not in _ORDERED or isinstance(key.this, exp.Var) for key in parts.order):
        return False
    return not parts.distinct or _fits_distinct(name, parts)


def _fits_distinct(name: str, parts: CallParts) -> bool:
    if name in _ORDERED:  # distinct values can only be ordered by themselves
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
    # not DuckDB's state: merging two states of `last` may return the wrong one if one value is NULL
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
    """Return the list of the values of a split that the call may need."""
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
    """Return the parts of a call with their expressions replaced by columns `<column>_0…`."""

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
