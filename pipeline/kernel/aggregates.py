"""Mergeable aggregates: one grouped SELECT as a partial, a merge and a finish.

DuckDB exports the state of an aggregate as an Arrow value (`AGG(x) export_state`) and merges it again, so the
three statements below give the direct query's answer over any split of the rows (sums of floating-point
numbers within their rounding). A state's layout belongs to a DuckDB version; states never outlive a run here.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
from sqlglot import exp

from pipeline.kernel.engine import arrow, literal, schema_of
from pipeline.kernel.plan import aggregates_of, function_name

STATES = "_states"
MERGED = "_merged"


@dataclass(frozen=True)
class Call:
    """One aggregate call: its DuckDB name and the SQL of its arguments and filter."""

    function: str
    sql: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """A grouped SELECT taken apart: keys `_k0…`, states `_a0…`, and the SELECT over their merged values."""

    keys: tuple[str, ...]
    calls: tuple[Call, ...]
    source: str
    """Everything from WITH to WHERE, with a `{columns}` to fill in."""
    finish: str

    def partial(self) -> str:
        """Return the SELECT that turns a split's rows into keys and exported states."""
        columns = [f"{key} as _k{i}" for i, key in enumerate(self.keys)]
        columns += [f"{call.sql} export_state as _a{i}" for i, call in enumerate(self.calls)]
        text = self.source.replace(_COLUMNS, ", ".join(columns))
        positions = ", ".join(str(i + 1) for i in range(len(self.keys)))
        return f"{text} group by {positions}" if positions else text

    def types(self, con: duckdb.DuckDBPyConnection) -> tuple[tuple[str, ...], ...]:
        """Return the argument types of each call, asked of a connection that has the inputs."""
        found = []
        for call in self.calls:
            if not call.arguments:
                found.append(())
                continue
            query = self.source.replace(_COLUMNS, ", ".join(call.arguments))
            found.append(tuple(column.type for column in schema_of(con, query).columns))
        return tuple(found)

    def merge(self, types: tuple[tuple[str, ...], ...]) -> str:
        """Return the SELECT that merges the states of many splits, in `_states`, to one row per key."""
        columns = [f"_k{i}" for i in range(len(self.keys))]
        for i, (call, kinds) in enumerate(zip(self.calls, types, strict=True)):
            name = "count_star" if call.function == "count" and not kinds else call.function
            signature = ", ".join(literal(kind) for kind in kinds)
            state = f"to_aggregate_state(_a{i}, {literal(name)}, [{signature}])"
            columns.append(f"finalize(combine_aggr({state})) as _a{i}")
        text = f"select {', '.join(columns)} from {STATES}"
        positions = ", ".join(str(i + 1) for i in range(len(self.keys)))
        return f"{text} group by {positions}" if positions else text


_COLUMNS = "_headwater_columns_"


def take_apart(tree: exp.Select) -> Split:
    """Take a grouped SELECT apart; `plan.mergeable` must have said that it can be."""
    tree = tree.copy()
    keys = _keys(tree)
    calls: list[Call] = []
    nodes: list[exp.Expression] = []
    for node in aggregates_of(tree):
        whole = node.parent if isinstance(node.parent, exp.Filter) else node
        if whole not in nodes:
            nodes.append(whole)
            arguments = tuple(
                e.sql("duckdb") for e in [node.this, *node.expressions] if e is not None and not isinstance(e, exp.Star)
            )
            calls.append(Call(function_name(node), whole.sql("duckdb"), arguments))
    finish = exp.select().from_(MERGED)
    names = {id(e): e.alias_or_name for e in tree.expressions}
    finish.set(
        "expressions",
        [exp.alias_(_over_merged(e.unalias(), keys, nodes), names[id(e)], quoted=True) for e in tree.expressions],
    )
    if tree.args.get("having"):
        finish.set("where", exp.Where(this=_over_merged(tree.args["having"].this, keys, nodes, tree)))
    if tree.args.get("order"):
        finish.set("order", _order(tree, keys, nodes))
    for clause in ("limit", "offset"):
        finish.set(clause, tree.args.get(clause))
    source = tree
    for clause in ("group", "having", "order", "limit", "offset"):
        source.set(clause, None)
    source.set("expressions", [exp.column(_COLUMNS)])
    return Split(
        keys=tuple(key.sql("duckdb") for key in keys),
        calls=tuple(calls),
        source=source.sql("duckdb", comments=False),
        finish=finish.sql("duckdb", comments=False),
    )


def finish(con: duckdb.DuckDBPyConnection, split: Split, states: pa.Table, types: tuple[tuple[str, ...], ...]) -> None:
    """Merge the splits' states and make the view `_merged`, which `split.finish` reads."""
    con.register(STATES, states)
    con.register(MERGED, arrow(con, split.merge(types)))


def _keys(tree: exp.Select) -> list[exp.Expression]:
    group = tree.args.get("group")
    if group is None:
        return []
    if group.args.get("all"):
        own = set(map(id, aggregates_of(tree)))
        return [e.unalias() for e in tree.expressions if not any(id(n) in own for n in e.walk())]
    by_alias = {e.alias: e.unalias() for e in tree.expressions if e.alias}
    keys = []
    for key in group.expressions:
        if isinstance(key, exp.Literal) and key.is_int:
            keys.append(tree.expressions[int(key.this) - 1].unalias())
        elif isinstance(key, exp.Column) and not key.table and key.name in by_alias:
            keys.append(by_alias[key.name])
        else:
            keys.append(key)
    return keys


def _over_merged(
    node: exp.Expression, keys: list[exp.Expression], calls: list[exp.Expression], tree: exp.Select | None = None
) -> exp.Expression:
    aliases = {e.alias: e.unalias() for e in tree.expressions if e.alias} if tree is not None else {}

    def replaced(part: exp.Expression) -> exp.Expression:
        for i, call in enumerate(calls):
            if part == call:
                return exp.column(f"_a{i}")
        for i, key in enumerate(keys):
            if part == key:
                return exp.column(f"_k{i}")
        if isinstance(part, exp.Column) and not part.table and part.name in aliases:
            return exp.paren(_over_merged(aliases[part.name], keys, calls))
        return part

    return node.copy().transform(replaced)


def _order(tree: exp.Select, keys: list[exp.Expression], calls: list[exp.Expression]) -> exp.Order:
    order = tree.args["order"].copy()
    for ordered in order.expressions:
        if not (isinstance(ordered.this, exp.Literal) and ordered.this.is_int):
            ordered.set("this", _over_merged(ordered.this, keys, calls, tree))
    return order
