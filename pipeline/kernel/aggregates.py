"""Mergeable aggregates: one grouped SELECT as a partial, a merge and a finish.

DuckDB exports the state of an aggregate as an Arrow value (`AGG(x) export_state`) and merges it again, so the
three statements below give the direct query's answer over any split of the rows (sums of floating-point
numbers within their rounding). A state's layout belongs to a DuckDB version; states never outlive a run here.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
from sqlglot import exp

from pipeline.kernel.calls import aggregates_of, function_name, is_aggregate, is_known, own
from pipeline.kernel.engine import literal, schema_of
from pipeline.kernel.matching import Matcher, aliases_of, keys_of, unclear_name

STATES = "_states"
MERGED = "_merged"
_COLUMNS = "_headwater_columns_"
_SPREAD = frozenset({"variance", "var_samp", "var_pop", "stddev", "stddev_samp", "stddev_pop"})
MERGEABLE = frozenset({"count", "sum", "min", "max", "avg"}) | _SPREAD
"""Aggregates whose states DuckDB exports and merges, and that are proven here to give the direct query's answer."""
_CLAUSES = frozenset({"with_", "expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset"})
_WIDENED = {
    **dict.fromkeys(("TINYINT", "UTINYINT", "USMALLINT", "UINTEGER", '"NULL"'), "BIGINT"),
    **dict.fromkeys(("DATE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "TIMESTAMP"),
    **dict.fromkeys(("FLOAT", "UHUGEINT"), "DOUBLE"),
    "UBIGINT": "HUGEINT",
}
"""The type on which `sum` and `avg` really work when they have none for their argument's."""


@dataclass(frozen=True)
class Call:
    """One aggregate call: its DuckDB name, its whole SQL, and the SQL of its arguments."""

    function: str
    sql: str
    arguments: tuple[str, ...]

    def signature(self, kinds: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """Return the name and the types under which DuckDB knows the state of a call on arguments of `kinds`."""
        if self.function == "count":
            return ("count", kinds) if kinds else ("count_star", ())
        if self.function in _SPREAD:
            return self.function, ("DOUBLE",)
        if self.function in {"sum", "avg"}:
            return self.function, tuple(_WIDENED.get(kind, kind) for kind in kinds)
        return self.function, kinds


@dataclass(frozen=True)
class Types:
    """The DuckDB types of a split's keys, and of the arguments of each of its calls."""

    keys: tuple[str, ...]
    calls: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Split:
    """A grouped SELECT taken apart: keys `_k0…`, states `_a0…`, and the SELECT over their merged values."""

    keys: tuple[str, ...]
    calls: tuple[Call, ...]
    source: str
    """Everything from WITH to WHERE, with a place to fill the columns in."""
    finish: str
    """Everything else, over `_merged`."""

    def partial(self) -> str:
        """Return the SELECT that turns a split's rows into keys and exported states."""
        columns = [f"{key} as _k{i}" for i, key in enumerate(self.keys)]
        columns += [f"{call.sql} export_state as _a{i}" for i, call in enumerate(self.calls)]
        return f"{self._select(columns)}{self._by_key()}"

    def types(self, con: duckdb.DuckDBPyConnection) -> Types:
        """Return the types of the keys and arguments, asked of a connection that has the inputs."""
        arguments = [argument for call in self.calls for argument in call.arguments]
        columns = [*self.keys, *arguments]
        kinds = iter(c.type for c in schema_of(con, self._select(columns)).columns) if columns else iter(())
        keys = tuple(next(kinds) for _ in self.keys)
        return Types(keys, tuple(tuple(next(kinds) for _ in call.arguments) for call in self.calls))

    def merge(self, types: Types) -> str:
        """Return the SELECT that merges the states of many splits, in `_states`, to one row per key."""
        columns = [f"{_typed(f'_k{i}', kind)} as _k{i}" for i, kind in enumerate(types.keys)]
        for i, (call, kinds) in enumerate(zip(self.calls, types.calls, strict=True)):
            name, bound = call.signature(kinds)
            state = f"to_aggregate_state(_a{i}, {literal(name)}, [{', '.join(literal(kind) for kind in bound)}])"
            columns.append(f"finalize(combine_aggr({state})) as _a{i}")
        return f"select {', '.join(columns)} from {STATES}{self._by_key()}"

    def answer(self, types: Types) -> str:
        """Return the one SELECT that merges and finishes, from `_states` to the statement's rows and types."""
        return f"with {MERGED} as ({self.merge(types)}) {self.finish}"

    def _select(self, columns: list[str]) -> str:
        return self.source.replace(_COLUMNS, ", ".join(columns))

    def _by_key(self) -> str:
        positions = ", ".join(str(i + 1) for i in range(len(self.keys)))
        return f" group by {positions}" if positions else ""


def has_groups(tree: exp.Select) -> bool:
    """Return whether a SELECT groups or aggregates."""
    return bool(tree.args.get("group")) or next(aggregates_of(tree), None) is not None


def refusal(tree: exp.Select) -> str | None:
    """Return why a grouped SELECT cannot be taken apart, or `None` when it can."""
    obstacle = _unknown_clause(tree) or _unmerged_call(tree) or _unsplit_part(tree) or unclear_name(tree)
    if obstacle is not None:
        return obstacle
    finish = _finish(tree, _matcher(tree))
    left = next((column for column in finish.find_all(exp.Column) if not _is_merged(column, tree)), None)
    return None if left is None else f"{left.sql('duckdb')} is neither a key nor inside an aggregate"


def take_apart(tree: exp.Select) -> Split:
    """Take a grouped SELECT apart; `refusal` must have said that it can be.

    Columns get the names that the statement writes.
    """
    matcher = _matcher(tree)
    source = tree.copy()
    for clause in ("group", "having", "order", "limit", "offset"):
        source.set(clause, None)
    source.set("expressions", [exp.column(_COLUMNS)])
    return Split(
        keys=tuple(key.sql("duckdb", comments=False) for key in matcher.keys),
        calls=tuple(_call(node) for node in matcher.calls),
        source=source.sql("duckdb", comments=False),
        finish=_finish(tree, matcher).sql("duckdb", comments=False),
    )


def _typed(column: str, kind: str) -> str:
    return column if kind == '"NULL"' else f"{column}::{kind}"


def _call(node: exp.Expr) -> Call:
    call = node.this if isinstance(node, exp.Filter) else node
    argument = None if isinstance(call.this, exp.Star) else call.this
    arguments = () if argument is None else (argument.sql("duckdb", comments=False),)
    return Call(function_name(call), node.sql("duckdb", comments=False), arguments)


def _matcher(tree: exp.Select) -> Matcher:
    wholes = [node.parent if isinstance(node.parent, exp.Filter) else node for node in aggregates_of(tree)]
    return Matcher.of(tree, MERGED, keys_of(tree), wholes)


def _finish(tree: exp.Select, matcher: Matcher) -> exp.Select:
    columns = [exp.alias_(matcher.over(e.unalias()), e.alias_or_name, quoted=True) for e in tree.expressions]
    finish = exp.select(*columns, copy=False).from_(MERGED)
    if tree.args.get("having"):
        finish.set("where", exp.Where(this=matcher.over(tree.args["having"].this, aliases_of(tree))))
    if tree.args.get("order"):
        finish.set("order", _order(tree, matcher))
    for clause in ("limit", "offset"):
        if tree.args.get(clause):
            finish.set(clause, tree.args[clause].copy())
    return finish


def _order(tree: exp.Select, matcher: Matcher) -> exp.Order:
    order: exp.Order = tree.args["order"].copy()
    aliases = aliases_of(tree)
    for ordered in order.expressions:
        by = ordered.this
        if not isinstance(by, exp.Literal | exp.Var) and not _is_alias(by, aliases):
            ordered.set("this", matcher.over(by, aliases))
    return order


def _is_alias(node: exp.Expr, aliases: dict[str, exp.Expr]) -> bool:
    return isinstance(node, exp.Column) and not node.table and node.name.lower() in aliases


def _is_merged(column: exp.Column, tree: exp.Select) -> bool:
    if isinstance(column.parent, exp.Ordered) and _is_alias(column, aliases_of(tree)):
        return True
    return column.table == MERGED


def _unknown_clause(tree: exp.Select) -> str | None:
    clause = next((name for name, value in tree.args.items() if value and name not in _CLAUSES), None)
    if clause is not None:
        return f"{clause.strip('_').upper()} needs all rows at once"
    group = tree.args.get("group")
    if group is None:
        return None
    sets = (exp.Rollup, exp.Cube, exp.GroupingSets, exp.Tuple)
    if any(value and name not in {"expressions", "all"} for name, value in group.args.items()) or any(
        isinstance(key, sets) for key in group.expressions
    ):
        return "grouping sets are computed at once"
    return None


def _unmerged_call(tree: exp.Select) -> str | None:
    for node in own(tree, exp.Func, exp.Window):
        if isinstance(node, exp.Window):
            return "a window function needs all rows at once"
        if is_aggregate(node):
            if not _is_mergeable(node):
                return f"{node.sql('duckdb')} has no state that merges"
        elif not is_known(node):
            return f"{node.sql('duckdb')} is not known to work row by row"
    return None


def _is_mergeable(call: exp.Expr) -> bool:
    """Return whether a call is one of the proven ones, in its plain form: one argument, no DISTINCT, no order."""
    if function_name(call) not in MERGEABLE or isinstance(call.this, exp.Distinct | exp.Order):
        return False
    if any(value for name, value in call.args.items() if name not in {"this", "big_int"}):
        return False
    return not isinstance(call.parent, exp.WithinGroup | exp.IgnoreNulls | exp.RespectNulls | exp.Dot)


def _unsplit_part(tree: exp.Select) -> str | None:
    """Return a part that belongs neither to the states nor to what is computed over them."""
    finished = [
        *tree.expressions,
        *(tree.args[c] for c in ("group", "having", "order", "limit", "offset") if tree.args.get(c)),
    ]
    for part in finished:
        if part.find(exp.Query):
            return "a subquery beside aggregates"
        if part.find(exp.Explode, exp.Unnest, exp.Columns):
            return f"{part.sql('duckdb')} beside aggregates"
    if any(e.is_star for e in tree.expressions):
        return "a star beside aggregates"
    nameless = next((e for e in tree.expressions if not isinstance(e, exp.Alias | exp.Column)), None)
    return None if nameless is None else f"{nameless.sql('duckdb')} has no name: write `as`"
