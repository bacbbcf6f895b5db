"""Decomposition of a grouped SELECT into a partial aggregation per split, a merge, and a final projection.

The caller runs `partial()` on each split, concatenates the results in the order of the splits, which is the order of the
input, and runs `answer()` over them. The result equals that of the direct query for any division into splits, except for
the rounding of floating-point sums, and the ambiguous results described in `mergeable`. The layout of a state depends on
the DuckDB version, so states that outlive a run are named after it (`pipeline/batch/kept_states.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
from sqlglot import exp

from pipeline.core.refusal import Refusal
from pipeline.kernel.aggregates.grouping import Matcher, aliases_of, keys_of, unclear_name
from pipeline.kernel.aggregates.mergeable import state_of
from pipeline.kernel.aggregates.states import AT, STATES, ExportedState, State, typed
from pipeline.kernel.engine import schema_of
from pipeline.kernel.syntax.function_calls import aggregates_of, is_aggregate, is_known, own, with_modifiers
from pipeline.kernel.syntax.scope import tables_of

__all__ = ["STATES", "CallTypes", "Decomposition", "decompose", "decomposition_obstacle", "has_groups"]

MERGED = "_merged"
_COLUMNS = "_headwater_columns_"
_CLAUSES = frozenset({"with_", "expressions", "from_", "joins", "where", "group", "having", "order", "limit", "offset"})


@dataclass(frozen=True)
class CallTypes:
    """The DuckDB types of the keys, and of the arguments of each call."""

    keys: tuple[str, ...]
    calls: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Decomposition:
    """A decomposed grouped SELECT: keys `_k0…`, states `_a0…`, and the SELECT over their merged values."""

    keys: tuple[str, ...]
    calls: tuple[State, ...]
    source: str
    """The statement from WITH to WHERE, with a placeholder for the columns."""
    finish: str
    """The rest of the statement, over `_merged`."""

    def partial(self, *more: str) -> str:
        """Return the SELECT of keys and exported states over a split's rows, with the additional columns `more`."""
        columns = [f"{key} as _k{i}" for i, key in enumerate(self.keys)]
        columns += [*(call.partial() for call in self.calls), *more]
        return f"{self._select(columns)}{self._by_key()}"

    def types(self, con: duckdb.DuckDBPyConnection) -> CallTypes:
        """Return the types of the keys and arguments, determined on a connection with the inputs."""
        arguments = [argument for call in self.calls for argument in call.arguments]
        columns = [*self.keys, *arguments]
        kinds = iter(c.type for c in schema_of(con, self._select(columns)).columns) if columns else iter(())
        keys = tuple(next(kinds) for _ in self.keys)
        return CallTypes(keys, tuple(tuple(next(kinds) for _ in call.arguments) for call in self.calls))

    def finalize(self, types: CallTypes) -> str:
        """Return the SELECT that merges the states in `_states` and finalizes them, with one row per key."""
        columns = [f"{typed(f'_k{i}', kind)} as _k{i}" for i, kind in enumerate(types.keys)]
        columns += [
            f"{call.finalized(kinds)} as {call.column}" for call, kinds in zip(self.calls, types.calls, strict=True)
        ]
        return f"select {', '.join(columns)} from {self._rows(types)}{self._by_key()}"

    def merge(self, types: CallTypes, also: tuple[str, ...] = ()) -> str:
        """Return the SELECT that merges the states in `_states` into one row of states per key.

        It has the columns of `_states`. The columns `also` must have the same values in all rows of a key.
        """
        columns = [*(f"_k{i}" for i in range(len(self.keys))), *also]
        states = [f"{c.merged(kinds)} as {c.column}" for c, kinds in zip(self.calls, types.calls, strict=True)]
        groups = ", ".join(str(i + 1) for i in range(len(columns)))
        by = f" group by {groups}" if groups else ""
        return f"select {', '.join([*columns, *states])} from {self._rows(types, also)}{by}"

    def _rows(self, types: CallTypes, also: tuple[str, ...] = ()) -> str:
        """Return the rows to merge: one row per exported state, followed by one row per value of the other states."""
        names = [*(f"_k{i}" for i in range(len(self.keys))), *also]
        keys = "".join(f"{name}, " for name in names)
        exported = [call for call in self.calls if isinstance(call, ExportedState)]
        columns = names + [call.column for call in exported]
        if any(call.order for call in exported):
            columns.append(f"row_number() over () as {AT}")
        selects = [f"select {', '.join(columns)} from {STATES}"] if columns else []
        for call, kinds in zip(self.calls, types.calls, strict=True):
            if not isinstance(call, ExportedState):
                selects.append(call.rows(keys, kinds))
        return f"({' union all by name '.join(selects)})"

    def answer(self, types: CallTypes) -> str:
        """Return the SELECT from `_states` to the rows of the statement, with their types."""
        return f"with {MERGED} as ({self.finalize(types)}) {self.finish}"

    def answer_of_merged(self, types: CallTypes) -> str:
        """Return the SELECT like `answer` if `_states` has one row per key, from `merge`, and every call exports its state."""
        columns = [f"{typed(f'_k{i}', kind)} as _k{i}" for i, kind in enumerate(types.keys)]
        columns += [
            f"{call.value(kinds)} as {call.column}"
            for call, kinds in zip(self.calls, types.calls, strict=True)
            if isinstance(call, ExportedState)
        ]
        return f"with {MERGED} as (select {', '.join(columns)} from {STATES}) {self.finish}"

    def _select(self, columns: list[str]) -> str:
        return self.source.replace(_COLUMNS, ", ".join(columns))

    def _by_key(self) -> str:
        positions = ", ".join(str(i + 1) for i in range(len(self.keys)))
        return f" group by {positions}" if positions else ""


def has_groups(tree: exp.Select) -> bool:
    """Return whether a SELECT groups or aggregates; DISTINCT groups by all selected columns."""
    return bool(tree.args.get("group") or tree.args.get("distinct")) or next(aggregates_of(tree), None) is not None


def decomposition_obstacle(tree: exp.Select) -> str | None:
    """Return why a grouped SELECT cannot be decomposed, or `None` if it can."""
    tree = _grouped(tree)
    obstacle = _unknown_clause(tree) or _unmerged_call(tree) or _unsplit_part(tree) or unclear_name(tree)
    if obstacle is not None:
        return obstacle
    finish = _finish(tree, _matcher(tree))
    left = next((column for column in finish.find_all(exp.Column) if not _is_merged(column, tree)), None)
    return None if left is None else f"{left.sql('duckdb')} is neither a key nor inside an aggregate"


def decompose(tree: exp.Select) -> Decomposition:
    """Decompose a grouped SELECT, for which `decomposition_obstacle` must have returned `None`.

    Column names are spelled as in the statement.
    """
    tree = _grouped(tree)
    matcher = _matcher(tree)
    source = tree.copy()
    for clause in ("group", "having", "order", "limit", "offset"):
        source.set(clause, None)
    source.set("expressions", [exp.column(_COLUMNS)])
    return Decomposition(
        keys=tuple(key.sql("duckdb", comments=False) for key in matcher.keys),
        calls=tuple(call for call in _states(tree, matcher) if not isinstance(call, Refusal)),
        source=source.sql("duckdb", comments=False),
        finish=_finish(tree, matcher).sql("duckdb", comments=False),
    )


def _grouped(tree: exp.Select) -> exp.Select:
    """Return a SELECT DISTINCT without aggregates as an equivalent GROUP BY ALL."""
    distinct = tree.args.get("distinct")
    if distinct is None or distinct.args.get("on") or tree.args.get("group") or next(aggregates_of(tree), None):
        return tree
    grouped = tree.copy()
    grouped.set("distinct", None)
    grouped.set("group", exp.Group(all=True))
    return grouped


def _states(tree: exp.Select, matcher: Matcher) -> list[State | Refusal]:
    in_order = _is_in_order(tree)
    return [state_of(call, f"_a{i}", in_order=in_order) for i, call in enumerate(matcher.calls)]


def _is_in_order(tree: exp.Select) -> bool:
    """Return whether rows are aggregated in input order; DuckDB may swap the sides of a join."""
    return len(tables_of(tree)) == 1 and tree.find(exp.Join, exp.Lateral) is None


def _matcher(tree: exp.Select) -> Matcher:
    return Matcher.of(tree, MERGED, keys_of(tree), map(with_modifiers, aggregates_of(tree)))


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
        return "grouping sets need all rows at once"
    return None


def _unmerged_call(tree: exp.Select) -> str | None:
    for node in own(tree, exp.Func, exp.Window):
        if isinstance(node, exp.Window):
            return "a window function needs all rows at once"
        if not is_aggregate(node) and not is_known(node):
            return f"{node.sql('duckdb')} is not known to work row by row"
    in_order = _is_in_order(tree)
    states = (state_of(with_modifiers(node), "", in_order=in_order) for node in aggregates_of(tree))
    return next((state.reason for state in states if isinstance(state, Refusal)), None)


def _unsplit_part(tree: exp.Select) -> str | None:
    """Return an expression that can be computed neither in the states nor over them."""
    finished = [
        *tree.expressions,
        *(tree.args[c] for c in ("group", "having", "order", "limit", "offset") if tree.args.get(c)),
    ]
    for part in finished:
        if part.find(exp.Query):
            return "a subquery in a grouped SELECT needs all rows at once"
        if part.find(exp.Explode, exp.Unnest, exp.Columns):
            return f"{part.sql('duckdb')} in a grouped SELECT needs all rows at once"
    if any(e.is_star for e in tree.expressions):
        return "a star in a grouped SELECT needs all rows at once"
    nameless = next((e for e in tree.expressions if not isinstance(e, exp.Alias | exp.Column)), None)
    return None if nameless is None else f"{nameless.sql('duckdb')} has no name: add an alias"
