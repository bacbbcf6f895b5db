"""Classification of the function calls of a statement, based on DuckDB's list of functions."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from pipeline.kernel.pool import catalog_rows

_MACROS = frozenset({"split_part", "nullif", "if", "fmod", "fdiv", "days_in_month", "date_add", "array_to_string"})
"""DuckDB's row-wise macros, in addition to those for lists and maps. Other macros may contain an aggregate or the time."""
_OF_LISTS = ("list_", "array_", "map_")
_CLOCKS = ("current_", "local")
"""The prefixes of keywords for the current time or session, for example `current_date` and `localtimestamp`."""
_ARGUMENTS = ("this", "expression", "quantile", "count", "separator")
"""The attributes in which sqlglot stores the arguments of known aggregates, in the order of the text."""
_SYNTAX = (exp.Case, exp.If, exp.Cast, exp.Struct, exp.Array)
"""What sqlglot has as functions and SQL does not write as such."""

_READING = threading.Lock()


@dataclass(frozen=True)
class CallParts:
    """The parts of an aggregate call, as nodes of the statement."""

    call: exp.Expr
    arguments: tuple[exp.Expr, ...]
    distinct: bool
    order: tuple[exp.Ordered, ...]
    where: exp.Expr | None
    """The condition of its FILTER."""

    @classmethod
    def of(cls, node: exp.Expr) -> CallParts | None:
        """Return the parts of a call, including its FILTER; `None` if it has an unsupported part."""
        call = node.this if isinstance(node, exp.Filter) else node
        inner = call.this if isinstance(call, exp.IgnoreNulls) else call
        unknown = {name for name, value in inner.args.items() if value} - {*_ARGUMENTS, "expressions", "big_int"}
        if unknown or isinstance(node.parent, exp.WithinGroup | exp.RespectNulls | exp.Dot):
            return None
        if isinstance(inner, exp.Anonymous | exp.AnonymousAggFunc):
            arguments = list(inner.expressions)
        else:
            arguments = [inner.args[name] for name in _ARGUMENTS if inner.args.get(name)]
        order, distinct = (), False
        if arguments and isinstance(arguments[0], exp.Order):
            order = tuple(arguments[0].expressions)
            arguments[0] = arguments[0].this
        if arguments and isinstance(arguments[0], exp.Distinct):
            if len(arguments[0].expressions) != 1:
                return None
            distinct, arguments[0] = True, arguments[0].expressions[0]
        if any(isinstance(argument, exp.Order | exp.Distinct) for argument in arguments):
            return None
        arguments = [argument for argument in arguments if not isinstance(argument, exp.Star)]
        where = node.expression.this if isinstance(node, exp.Filter) else None
        return cls(call, tuple(arguments), distinct, order, where)


def own(select: exp.Select, *kinds: type[exp.Expr]) -> Iterator[exp.Expr]:
    """Yield the nodes of a SELECT that are not inside another query."""
    for node in select.walk(prune=lambda n: n is not select and isinstance(n, exp.Query | exp.With)):
        if isinstance(node, kinds):
            yield node


def aggregates_of(select: exp.Select) -> Iterator[exp.Expr]:
    """Yield the aggregate calls of a SELECT, excluding subqueries and windows."""
    for node in own(select, exp.Func):
        if is_aggregate(node) and not isinstance(with_modifiers(node).parent, exp.Window):
            yield node


def with_modifiers(call: exp.Expr) -> exp.Expr:
    """Return an aggregate call including its IGNORE NULLS, RESPECT NULLS and FILTER."""
    while isinstance(call.parent, exp.Filter | exp.IgnoreNulls | exp.RespectNulls) and call.parent.this is call:
        call = call.parent
    return call


def is_aggregate(node: exp.Expr) -> bool:
    """Return whether a call is an aggregate according to sqlglot or DuckDB."""
    if not isinstance(node, exp.Func) or isinstance(node, exp.Connector):
        return False
    return isinstance(node, exp.AggFunc) or function_name(node) in _duckdb("aggregate")


def is_volatile(node: exp.Expr) -> bool:
    """Return whether a call is volatile: it depends on randomness, the clock or the session."""
    if not isinstance(node, exp.Func) or isinstance(node, exp.Connector):
        return False
    names = {function_name(node), *(name.lower() for name in node.sql_names())} - {"error"}  # it always raises
    return not names.isdisjoint(_duckdb("changing")) or any(name.startswith(_CLOCKS) for name in names)


def is_known(node: exp.Expr) -> bool:
    """Return whether a call is one of DuckDB's row-wise functions, or part of the SQL language."""
    if not isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return True
    name = str(node.this).lower()
    return name in _duckdb("scalar") or name in _MACROS or name.startswith(_OF_LISTS)


def function_name(node: exp.Expr) -> str:
    """Return the DuckDB name of a function call, in lower case."""
    if isinstance(node, _SYNTAX):  # not called by name; nested ones would be printed once for each level
        return type(node).__name__.lower()
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return str(node.this).strip().lower()
    return node.sql("duckdb").partition("(")[0].strip().lower()


def needs_more_than_a_row(select: exp.Select) -> str | None:
    """Return why the calls of a SELECT cannot be evaluated row by row, or `None` if they can."""
    for node in own(select, exp.Func, exp.Window):
        if isinstance(node, exp.Window):
            return "a window function needs all rows at once"
        if is_aggregate(node):
            return f"{node.sql('duckdb')} needs all rows at once"
        if not is_known(node):
            return f"{node.sql('duckdb')} is not known to work row by row"
    return None


def is_reserved(name: str) -> bool:
    """Return whether a name is a keyword that must be quoted before a dot."""
    return name.lower() in _duckdb("reserved")


def read_functions() -> None:
    """Read DuckDB's list of functions, which takes 16 ms once in a process: a run does it beside its other work."""
    with _READING:
        _names_by_kind()


def _duckdb(kind: str) -> frozenset[str]:
    """Return the names of DuckDB's functions or keywords of a kind."""
    with _READING:
        return _names_by_kind()[kind]


@functools.cache
def _names_by_kind() -> dict[str, frozenset[str]]:
    functions = catalog_rows("select function_type, lower(function_name), stability from duckdb_functions()")
    keywords = catalog_rows("select keyword_category, keyword_name from duckdb_keywords()")
    return {
        "aggregate": frozenset(name for kind, name, _ in functions if kind == "aggregate"),
        "changing": frozenset(
            name for kind, name, how in functions if kind == "scalar" and how not in {"CONSISTENT", None}
        ),
        "scalar": frozenset(name for kind, name, _ in functions if kind == "scalar"),
        "reserved": frozenset(name for kind, name in keywords if kind in {"reserved", "type_function"}),
    }
