"""Pre-aggregations: tables that group another table's rows, from which coarser aggregates are computed exactly.

A table is one if its definition is a plain SELECT that groups a table, optionally joined with the dimensions that it looks up. Sums, counts,
minima and maxima of its groups are those of its rows; averages are ratios of a sum and a count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlglot
from sqlglot import exp

from pipeline.core.definitions import Definition, StoredDefinition, Table
from pipeline.core.graph import Graph
from pipeline.kernel.sql import SqlTransform
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.function_calls import CallParts, aggregates_of, function_name, with_modifiers
from pipeline.warehouse.modelling.facts import foreign_keys_of
from pipeline.warehouse.modelling.metric_sql import TIME, MetricPart, calendar_join, period
from pipeline.warehouse.modelling.metrics import PERIOD, Aggregate, MetricDimension, columns_of
from pipeline.warehouse.warehouse import ForeignKey

EXACT = "time"
"""The grain of a roll-up that is grouped by the time itself."""
_COARSER: Mapping[str, tuple[str, ...]] = {
    EXACT: ("day", "week", "month", "quarter", "year", "fiscal_quarter", "fiscal_year"),
    "day": ("day", "week", "month", "quarter", "year", "fiscal_quarter", "fiscal_year"),
    "week": ("week",),
    "month": ("month", "quarter", "year"),
    "quarter": ("quarter", "year"),
    "year": ("year",),
}
_CLAUSES = {"expressions", "from_", "joins", "where", "group", "order"}
_OTHER_ROWS = (exp.Window, exp.Rollup, exp.Cube, exp.GroupingSets, exp.UDTF, exp.Explode)
"""What makes a SELECT return other rows than one for each group."""
_ROLLUP = "m"


@dataclass(frozen=True)
class Rollup:
    """A table whose rows are groups of another table's rows."""

    name: str
    table: str
    tables: tuple[str, ...]
    """All tables that it is computed from."""
    where: str
    """The condition on the rows that it counts, in the form of `_canonical`."""
    dimensions: Mapping[tuple[str, str], str]
    """Its columns by the foreign key (empty for the table itself) and the column that they are."""
    expressions: Mapping[str, str]
    """Its other columns by the expression over a row that they are grouped by."""
    aggregates: Mapping[Aggregate, str]

    def column(self, dimension: MetricDimension) -> str | None:
        """Return the column with a dimension, or `None`."""
        return self.dimensions.get((dimension.key.lower(), dimension.column.lower()))


@dataclass(frozen=True)
class RollupMatch:
    """A roll-up that answers a query: the columns that it is answered from."""

    rollup: Rollup
    dimensions: tuple[tuple[str, str], ...]
    """The names of the dimensions and the columns with them."""
    grain: str
    """That of its time; empty if the query asks for no time."""
    time: str
    where: str
    aggregates: tuple[str, ...]
    """The columns with the aggregates of the part, in their order."""

    def rows(self, grain: str, rollup: str, calendar: str) -> str:
        """Return a SELECT of the groups, as `metric_sql.rows_of` returns rows; the aggregates are the columns `~p0` and so on.

        `rollup` and `calendar` are SELECTs of the rows of these tables.
        """
        time = f"{_ROLLUP}.{quoted(self.time)}"
        columns = [f"{_ROLLUP}.{quoted(column)} as {quoted(name)}" for name, column in self.dimensions]
        columns += [f"{time} as {quoted(TIME)}"] if self.time else []
        columns += [f"{period(grain, time)} as {quoted(PERIOD)}"] if grain else []
        columns += [f"{_ROLLUP}.{quoted(each)} as {quoted(f'~p{n}')}" for n, each in enumerate(self.aggregates)]
        join = calendar_join(calendar, time) if grain.startswith("fiscal") else ""
        where = f" where {self.where}" if self.where else ""
        return f"select {', '.join(columns)} from ({rollup}) as {_ROLLUP}{join}{where}"

    def values(self, part: MetricPart, types: Sequence[str]) -> list[str]:
        """Return SQL for the value of each aggregate, with the types that they have when they are computed from rows."""
        made = []
        for number, (each, kind) in enumerate(zip(part.aggregates, types, strict=True)):
            value = f"{'sum' if each.function == 'count' else each.function}({quoted(f'~p{number}')})"
            made.append(f"cast({f'coalesce({value}, 0)' if each.function == 'count' else value} as {kind})")
        return made


def rollups_of(graph: Graph) -> dict[str, tuple[Rollup, ...]]:
    """Return the roll-ups of each table."""
    found: dict[str, list[Rollup]] = {}
    for definition in graph.all_of(StoredDefinition):
        made = _rollup(definition, graph)
        if made is not None:
            found.setdefault(made.table, []).append(made)
    return {name: tuple(each) for name, each in found.items()}


def match(
    part: MetricPart, dimensions: Sequence[str], grain: str, rollup: Rollup, *, has_bounds: bool
) -> RollupMatch | None:
    """Return how a roll-up answers a part by dimensions and a grain, or `None` if it does not.

    With `has_bounds`, the query is limited in time, and the caller must check that the limits are those of periods.
    """
    first = part.first
    named = [(name, found) for name in dimensions if (found := first.dimension(name)) is not None]
    columns = [(name, rollup.column(each)) for name, each in named]
    aggregates = [rollup.aggregates.get(_canonical_aggregate(each)) for each in part.aggregates]
    where = _where(first.where, rollup)
    if where is None or None in aggregates or any(column is None for _, column in columns):
        return None
    own, time = "", ""
    if grain or has_bounds:
        times = _times(first.time, rollup)
        own = next((each for each in _COARSER if each in times and (not grain or grain in _COARSER[each])), "")
        if not own:
            return None
        time = times[own]
    known = tuple((name, column) for name, column in columns if column is not None)
    return RollupMatch(rollup, known, own, time, where, tuple(each for each in aggregates if each is not None))


def _where(text: str, rollup: Rollup) -> str | None:
    """Return the condition on the groups that selects those of a condition on rows, or `None` if there is none."""
    if rollup.where == (_canonical(_parsed(text)) if text else ""):
        return ""
    if rollup.where:
        return None
    tree = _parsed(text)
    names = {node.name.lower() for node in tree.find_all(exp.Column)}
    if not all(("", name) in rollup.dimensions for name in names):
        return None

    def bind(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.Column):
            return node
        column = exp.to_identifier(rollup.dimensions["", node.name.lower()], quoted=True)
        return exp.column(column, table=exp.to_identifier(_ROLLUP))

    return tree.transform(bind).sql("duckdb", comments=False)


def _times(time: str, rollup: Rollup) -> dict[str, str]:
    """Return the columns of a roll-up with the periods of a time, by their grain."""
    found = {EXACT: rollup.dimensions["", time.lower()]} if ("", time.lower()) in rollup.dimensions else {}
    for grain in ("day", "week", "month", "quarter", "year"):
        truncated = f"date_trunc('{grain}', {quoted(time)})"
        written = [truncated, f"{truncated}::date"] + ([f"{quoted(time)}::date"] if grain == "day" else [])
        texts = [_canonical(_parsed(text)) for text in written]
        columns = [rollup.expressions[text] for text in texts if text in rollup.expressions]
        if columns:
            found[grain] = columns[0]
    return found


class _Names:
    """The tables of a SELECT by their aliases: the grouped one, and dimensions by the foreign keys that they are joined by."""

    def __init__(self, table: str, columns: Mapping[str, tuple[str, ...]]) -> None:
        self.table = table
        self._columns = columns
        self.keys: dict[str, str] = {}
        """The foreign key column by alias; empty for the table itself."""
        self.tables: dict[str, str] = {}

    def resolve(self, column: exp.Column) -> tuple[str, str] | None:
        """Return the foreign key and the column, in lower case; `None` for an unknown alias."""
        name = column.name.lower()
        if column.table:
            key = self.keys.get(column.table.lower())
            return None if key is None else (key.lower(), name)
        theirs = [key for alias, key in self.keys.items() if key and name in self._columns[self.tables[alias]]]
        if name in {key.lower() for key in self.keys.values()}:
            return "", name
        return (theirs[0].lower(), name) if theirs else ("", name)

    def own(self, tree: exp.Expr) -> exp.Expr | None:
        """Return an expression with its columns unqualified, or `None` if it reads columns of other tables."""
        for column in tree.find_all(exp.Column):
            found = self.resolve(column)
            if found is None or found[0]:
                return None
        return tree.transform(lambda n: exp.column(exp.to_identifier(n.name)) if isinstance(n, exp.Column) else n)


def _rollup(definition: StoredDefinition, graph: Graph) -> Rollup | None:
    transform = definition.computed_by
    if not isinstance(definition, Table) or type(transform) is not SqlTransform or transform.window is not None:
        return None
    select = transform.written
    if not isinstance(select, exp.Select) or {name for name, value in select.args.items() if value} - _CLAUSES:
        return None
    group = select.args.get("group")
    if group is not None and {name for name, value in group.args.items() if value} - {"expressions", "all"}:
        return None
    names = _names(select, graph)
    if names is None or any(query is not select for query in select.find_all(exp.Query)) or select.find(*_OTHER_ROWS):
        return None
    where = select.args.get("where")
    condition = None if where is None else names.own(where.this)
    if where is not None and condition is None:
        return None
    made = Rollup(
        definition.name,
        names.table,
        tuple(dict.fromkeys(names.tables.values())),
        "" if condition is None else _canonical(condition),
        {},
        {},
        {},
    )
    made = _with_columns(made, select, names)
    return made if made.aggregates else None


def _with_columns(rollup: Rollup, select: exp.Select, names: _Names) -> Rollup:
    dimensions: dict[tuple[str, str], str] = {}
    expressions: dict[str, str] = {}
    aggregates: dict[Aggregate, str] = {}
    calls = {id(with_modifiers(call)) for call in aggregates_of(select)}
    for each in select.expressions:
        column, node = each.alias_or_name, each.unalias()
        if isinstance(node, exp.Column):
            resolved = names.resolve(node)
            if resolved is not None:
                dimensions.setdefault(resolved, column)
        elif id(node) in calls:
            found = _aggregate(node, names)
            if found is not None:
                aggregates.setdefault(found, column)
        elif (own := names.own(node)) is not None:
            expressions.setdefault(_canonical(own), column)
    return replace(rollup, dimensions=dimensions, expressions=expressions, aggregates=aggregates)


def _aggregate(node: exp.Expr, names: _Names) -> Aggregate | None:
    parts = CallParts.of(node)
    if parts is None or parts.distinct or parts.order or len(parts.arguments) > 1:
        return None
    function = function_name(parts.call)
    if function not in {"count", "sum", "min", "max"}:
        return None
    texts = []
    for tree in (parts.arguments[0] if parts.arguments else None, parts.where):
        own = None if tree is None else names.own(tree)
        if tree is not None and own is None:
            return None
        texts.append("" if own is None else _canonical(own))
    base = Aggregate("count", texts[0], texts[1])
    kinds: Mapping[str, Aggregate] = {
        "count": base,
        "sum": replace(base, function="sum"),
        "min": replace(base, function="min"),
        "max": replace(base, function="max"),
    }
    return kinds[function]


def _canonical_aggregate(each: Aggregate) -> Aggregate:
    argument = _canonical(_parsed(each.argument)) if each.argument else ""
    return replace(each, argument=argument, where=_canonical(_parsed(each.where)) if each.where else "")


def _names(select: exp.Select, graph: Graph) -> _Names | None:
    """Return the tables of a SELECT, or `None` unless it joins a table with its dimensions by their keys."""
    source = select.args.get("from_")
    table = None if source is None else _plain(source.this, graph)
    if source is None or table is None:
        return None
    keys = foreign_keys_of(table)
    known = {key.table: columns for key in keys if (columns := columns_of(graph[key.table])) is not None}
    names = _Names(table.name, {name: tuple(each.lower() for each in columns) for name, columns in known.items()})
    alias = source.this.alias_or_name.lower()
    names.keys[alias], names.tables[alias] = "", table.name
    for join in select.args.get("joins") or ():
        joined = _plain(join.this, graph)
        key = None if joined is None else _key(join, alias, joined, keys)
        other = join.this.alias_or_name.lower()
        if joined is None or key is None or joined.name not in known or other in names.keys:
            return None
        names.keys[other], names.tables[other] = key.column, joined.name
    return names


def _plain(node: exp.Expr, graph: Graph) -> Definition | None:
    """Return the definition of a table that is named without more, or `None`."""
    if not isinstance(node, exp.Table) or {name for name, value in node.args.items() if value} - {"this", "alias"}:
        return None
    by_name = {name.lower(): name for name in graph.names}
    name = by_name.get(node.name.lower())
    return None if name is None else graph[name]


def _key(join: exp.Join, alias: str, joined: Definition, keys: Sequence[ForeignKey]) -> ForeignKey | None:
    """Return the foreign key that a join is by, or `None` if it may lose or multiply rows."""
    used = {name for name, value in join.args.items() if value} - {"this"}
    if join.side.upper() not in {"", "LEFT"} or join.kind.upper() not in {"", "INNER", "OUTER"}:
        return None
    mine = [key for key in keys if key.table == joined.name]
    if used <= {"using", "side", "kind"} and len(join.args.get("using") or ()) == 1:
        name = join.args["using"][0].name.lower()
        return next((key for key in mine if key.column.lower() == name == key.references.lower()), None)
    on = join.args.get("on")
    if not used <= {"on", "side", "kind"} or not isinstance(on, exp.EQ):
        return None
    sides = [each for each in (on.this, on.expression) if isinstance(each, exp.Column)]
    pairs = {each.table.lower(): each.name.lower() for each in sides}
    theirs = join.this.alias_or_name.lower()
    found = (pairs.get(alias), pairs.get(theirs))
    return next((key for key in mine if (key.column.lower(), key.references.lower()) == found), None)


def _parsed(text: str) -> exp.Expr:
    return sqlglot.parse_one(f"({text}\n)", dialect="duckdb")


def _canonical(tree: exp.Expr) -> str:
    """Return an expression over a row's columns as a text that is equal for expressions that differ only in their layout."""
    while isinstance(tree, exp.Paren):
        tree = tree.this

    def plain(node: exp.Expr) -> exp.Expr:
        return exp.column(exp.to_identifier(node.name.lower(), quoted=True)) if isinstance(node, exp.Column) else node

    return tree.transform(plain).sql("duckdb", comments=False, normalize_functions="lower")
