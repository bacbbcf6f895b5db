"""Metrics: numbers with one definition, which are asked for by dimensions and periods of time.

A metric is an expression over aggregates of one table: a fact, a mart or any other. Its dimensions are columns of the table and,
through the foreign keys of a fact, columns of the dimensions that the fact looks up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from pipeline.core.definitions import Definition, StoredDefinition, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.graph import Graph
from pipeline.kernel.sql import SqlTransform
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.syntax.function_calls import (
    CallParts,
    aggregates_of,
    function_name,
    is_aggregate,
    is_known,
    is_volatile,
    with_modifiers,
)
from pipeline.kernel.syntax.row_expressions import require_row_expression
from pipeline.warehouse.modelling.dimension import DimensionTransform
from pipeline.warehouse.modelling.facts import FactTransform, foreign_keys_of

Grain = Literal["day", "week", "month", "quarter", "year", "fiscal_quarter", "fiscal_year"]
GRAINS: tuple[Grain, ...] = ("day", "week", "month", "quarter", "year", "fiscal_quarter", "fiscal_year")
PERIOD = "period"
"""The column with the first day of a period."""
_FUNCTIONS = ("count", "sum", "min", "max", "avg")
_NAME = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True)
class Aggregate:
    """An aggregate of a metric's expression: a function of an expression over a row, of the rows that satisfy a condition."""

    function: Literal["count", "sum", "min", "max"]
    argument: str = ""
    """Empty for a count of rows."""
    where: str = ""
    is_distinct: bool = False


@dataclass(frozen=True)
class MetricDimension:
    """A column by which a metric can be grouped and filtered."""

    name: str
    """As it is asked for: `origin`, `dim_airline.name` or `origin_key.city`."""
    column: str
    key: str = ""
    """The foreign key column of the metric's table; empty for a column of the table itself."""
    table: str = ""
    references: str = ""
    """The key of the dimension's table."""


@dataclass(frozen=True)
class MetricDefinition:
    """A metric. Create it with `metric`."""

    name: str
    expression: str
    table: str
    time: str = ""
    where: str = ""
    dimension_names: tuple[str, ...] = ()
    owner: str = ""
    description: str = ""
    format: str = ""
    place: Place = field(default=Place(""), compare=False)
    aggregates: tuple[Aggregate, ...] = ()
    formula: str = ""
    """The expression over the values of the aggregates, which are the columns `~0`, `~1` and so on."""
    dimensions: tuple[MetricDimension, ...] = ()
    calendar: str = ""
    """The date dimension with the fiscal year; empty if there is none."""

    @cached_property
    def columns(self) -> frozenset[str]:
        """The columns of the table that its number depends on, in lower case: those of the expression, the condition and the time."""
        texts = [self.where, *(text for each in self.aggregates for text in (each.argument, each.where))]
        found = {node.name.lower() for text in texts if text for node in _row(text).find_all(exp.Column)}
        return frozenset(found | ({self.time.lower()} if self.time else set()))

    @property
    def grains(self) -> tuple[Grain, ...]:
        """The periods by which it can be asked for."""
        if not self.time:
            return ()
        return GRAINS if self.calendar else tuple(each for each in GRAINS if not each.startswith("fiscal"))

    def dimension(self, name: str) -> MetricDimension | None:
        """Return a dimension by name, or `None`."""
        return next((each for each in self.dimensions if each.name == name), None)

    def over(self, graph: Graph) -> MetricDefinition:
        """Return the metric with its dimensions in a project's tables; raise `DefinitionError` if they do not fit."""
        known = [each.name for each in graph.all_of(StoredDefinition)]
        if self.table not in known:
            problem = f"metric {self.name!r} is of a table {self.table!r}, which does not exist"
            raise DefinitionError(problem, do=did_you_mean(self.table, known), place=self.place)
        definition = graph[self.table]
        self._require_columns(definition)
        found = tuple(self._dimension(name, definition, graph) for name in self.dimension_names)
        return replace(self, dimensions=found, calendar=_calendar(definition, graph))

    def _require_columns(self, definition: Definition) -> None:
        columns = columns_of(definition)
        if columns is None:
            return
        for name in sorted(self.columns):
            if name not in {each.lower() for each in columns}:
                problem = f"metric {self.name!r} reads a column {name!r}, which {self.table!r} does not have"
                raise DefinitionError(problem, do=did_you_mean(name, columns), place=self.place)

    def _dimension(self, name: str, definition: Definition, graph: Graph) -> MetricDimension:
        first, _, column = name.partition(".")
        if not column:
            self._require_column(name, name, definition)
            return MetricDimension(name, name)
        keys = foreign_keys_of(definition)
        matching = [key for key in keys if key.column == first] or [key for key in keys if key.table == first]
        if not matching:
            related = sorted({each for key in keys for each in (key.table, key.column)})
            problem = f"dimension {name!r} of metric {self.name!r}: {self.table!r} has no foreign key to {first!r}"
            raise DefinitionError(problem, do=did_you_mean(first, related), place=self.place)
        if len(matching) > 1:
            do = "write " + " or ".join(f"{key.column}.{column}" for key in matching)
            problem = f"dimension {name!r} of metric {self.name!r} is ambiguous: {self.table!r} has several keys of it"
            raise DefinitionError(problem, do=do, place=self.place)
        key = matching[0]
        self._require_column(name, column, graph[key.table])
        return MetricDimension(name, column, key.column, key.table, key.references)

    def _require_column(self, name: str, column: str, definition: Definition) -> None:
        columns = columns_of(definition)
        if columns is not None and column not in columns:
            problem = f"dimension {name!r} of metric {self.name!r}: {definition.name!r} has no column {column!r}"
            raise DefinitionError(problem, do=did_you_mean(column, columns), place=self.place)


def metric(
    name: str,
    expression: str,
    *,
    table: str,
    time: str | None = None,
    dimensions: str | Sequence[str] = (),
    where: str | None = None,
    owner: str = "",
    description: str = "",
    format: str = "",  # noqa: A002 - the word of the field
) -> MetricDefinition:
    """Define a metric: a number that is the same wherever it is asked for. Assign the result to a name beside the definitions.

        on_time_rate = metric(
            "on_time_rate", "count(*) filter (where late <= 15) / count(*)", table="fact_departure", time="departed_at",
            dimensions=["origin", "dim_airline.name"], format="percent",
        )

    `expression` is SQL over `count`, `count(distinct …)`, `sum`, `avg`, `min` and `max` of columns of `table`, each optionally with
    FILTER: one of them, a ratio, or another formula. A division by zero is null. `where` is a condition on the rows of the table that
    count. `time` is the column of a date or time by which periods are made. `dimensions` are columns of the table, and columns of the
    dimensions that a fact looks up, as `dim_airline.name`, or with the column of the foreign key, `origin_key.city`, if the fact looks up
    a dimension in several roles. `format` is for those who show the number, for example `percent`.

    Raises `DefinitionError` for an expression that is not one over these aggregates. That the table, its columns and the dimensions exist
    is checked when the project is loaded.
    """
    place = caller()
    if not _NAME.fullmatch(name):
        raise DefinitionError(
            "the name of a metric is not plain",
            got=repr(name),
            do="use a-z, 0-9 and _, for example on_time_rate",
            place=place,
        )
    if where is not None:
        _require_row(f"where= of metric {name!r}", where, place)
    asked = names(dimensions)
    for each in asked:
        if each in {PERIOD, name} or asked.count(each) > 1:
            problem = f"metric {name!r} has a dimension {each!r} that is named twice or as a column of its results"
            raise DefinitionError(problem, do="remove it, or rename the column in its table", place=place)
    aggregates, formula = _formula(name, expression, place)
    return MetricDefinition(
        name, expression, table, time or "", where or "", asked, owner, description, format, place, aggregates, formula
    )


def resolved(metrics: Iterable[MetricDefinition], graph: Graph) -> tuple[MetricDefinition, ...]:
    """Return metrics with their dimensions, by name; raise `DefinitionError` for a name that is taken, and as `MetricDefinition.over`."""
    found: dict[str, MetricDefinition] = {}
    for each in metrics:
        other = found.get(each.name)
        if other is not None or each.name in graph.names:
            where = f"metric at {other.place}" if other is not None else "table, source or model"
            raise DefinitionError(
                f"the name of metric {each.name!r} is that of another {where}", do="rename one", place=each.place
            )
        found[each.name] = each.over(graph)
    return tuple(found[name] for name in sorted(found))


def _formula(name: str, text: str, place: Place) -> tuple[tuple[Aggregate, ...], str]:
    """Return the aggregates of an expression, each once, and the expression over their values."""
    what = f"the expression of metric {name!r}"
    try:
        tree = sqlglot.parse_one(f"select ({text}\n)", dialect="duckdb")
    except SqlglotError as error:
        raise DefinitionError(f"{what} is not a SQL expression", got=repr(text), place=place) from error
    if not isinstance(tree, exp.Select) or len(tree.expressions) != 1 or not isinstance(tree.expressions[0], exp.Paren):
        raise DefinitionError(f"{what} is not a single SQL expression", got=repr(text), place=place)
    if tree.find(exp.Window) is not None or any(query is not tree for query in tree.find_all(exp.Query)):
        raise DefinitionError(f"{what} contains a subquery or a window function", got=repr(text), place=place)
    found: dict[Aggregate, int] = {}
    for call in list(aggregates_of(tree)):
        whole = with_modifiers(call)
        whole.replace(_value(_aggregates(what, call, whole, place), found))
    if not found:
        do = "write for example sum(amount), or count(*) filter (where late) / count(*)"
        raise DefinitionError(f"{what} contains no aggregate", got=repr(text), do=do, place=place)
    for column in tree.find_all(exp.Column):
        if not column.name.startswith("~"):
            raise DefinitionError(
                f"{what} reads {column.sql('duckdb')} outside an aggregate", got=repr(text), place=place
            )
    _require_calls(what, tree, place)
    for division in list(tree.find_all(exp.Div, exp.IntDiv, exp.Mod)):
        division.set("expression", exp.Nullif(this=exp.paren(division.expression), expression=exp.Literal.number(0)))
    return tuple(found), tree.expressions[0].sql("duckdb", comments=False)


def _value(parts: Sequence[Aggregate], found: dict[Aggregate, int]) -> exp.Expr:
    """Return the value of an aggregate, or of the ratio of two, from the columns of the values."""
    columns = [exp.column(exp.to_identifier(f"~{found.setdefault(each, len(found))}", quoted=True)) for each in parts]
    return columns[0] if len(columns) == 1 else exp.paren(exp.Div(this=columns[0], expression=columns[1]))


def _aggregates(what: str, call: exp.Expr, whole: exp.Expr, place: Place) -> tuple[Aggregate, ...]:
    """Return the aggregate of a call; for an average, the sum and the count of which it is the ratio."""
    function, shown = function_name(call), whole.sql("duckdb")
    parts = CallParts.of(whole)
    if function not in _FUNCTIONS or parts is None or parts.order or len(parts.arguments) > 1:
        do = f"use {', '.join(_FUNCTIONS)}, count(distinct …) and FILTER"
        raise DefinitionError(f"{what} contains {shown}, which is no aggregate of metrics", do=do, place=place)
    if parts.distinct and function not in {"count", "min", "max"}:
        raise DefinitionError(
            f"{what} contains {shown}; only count can be of distinct values", do="use count", place=place
        )
    argument = parts.arguments[0].sql("duckdb", comments=False) if parts.arguments else ""
    where = "" if parts.where is None else parts.where.sql("duckdb", comments=False)
    for text in (argument, where):
        if text:
            _require_row(what, text, place)
    if function == "avg":
        return Aggregate("sum", argument, where), Aggregate("count", argument, where)
    by_name: Mapping[str, Aggregate] = {
        "count": Aggregate("count", argument, where, parts.distinct),
        "sum": Aggregate("sum", argument, where),
        "min": Aggregate("min", argument, where),
        "max": Aggregate("max", argument, where),
    }
    return (by_name[function],)


def _require_row(what: str, text: str, place: Place) -> None:
    require_row_expression(what, text, place)
    tree = _row(text)
    qualified = next((node for node in tree.find_all(exp.Column) if node.table), None)
    if qualified is not None:
        do = "write the name of the column alone; columns of dimensions are for dimensions="
        raise DefinitionError(f"{what} contains {qualified.sql('duckdb')}", do=do, place=place)
    _require_calls(what, tree, place)


def _require_calls(what: str, tree: exp.Expr, place: Place) -> None:
    for node in tree.find_all(exp.Func):
        if is_volatile(node):
            problem = f"{what} calls {function_name(node)}, which returns another value each time"
            raise DefinitionError(problem, do="use columns only", place=place)
        if not is_aggregate(node) and not is_known(node):
            raise DefinitionError(f"{what} calls an unknown function {function_name(node)!r}", place=place)


def _row(text: str) -> exp.Expr:
    return sqlglot.parse_one(f"({text}\n)", dialect="duckdb")


def of_table(text: str, alias: str) -> str:
    """Return an expression over a row with its columns as those of a table's alias."""

    def bind(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.Column) and not node.table:
            return exp.column(exp.to_identifier(node.name, quoted=True), table=exp.to_identifier(alias, quoted=True))
        return node

    return _row(text).transform(bind).sql("duckdb", comments=False)


def columns_of(definition: Definition) -> tuple[str, ...] | None:
    """Return the columns of a table as far as its definition lists them; `None` if it does not."""
    transform = definition.computed_by
    if isinstance(transform, DimensionTransform):
        added = transform.history.added if transform.has_versions else ()
        if transform.sequence_by is not None and not transform.has_versions:
            added = transform.history.added_to_members
        return (transform.surrogate, *transform.members.named_selects, *added)
    if not isinstance(transform, SqlTransform):
        return None
    own = tuple(transform.written.named_selects)
    if "*" in own or not all(own):
        return None
    return (*own, *(name for name, _ in transform.lookups)) if isinstance(transform, FactTransform) else own


def _calendar(definition: Definition, graph: Graph) -> str:
    """Return the date dimension that a table looks up, otherwise the only one of the project; empty if there is none."""
    related = [key.table for key in foreign_keys_of(definition) if _is_calendar(graph[key.table])]
    if related:
        return related[0]
    every = [each.name for each in graph.all_of(StoredDefinition) if _is_calendar(each)]
    return every[0] if len(every) == 1 else ""


def _is_calendar(definition: Definition) -> bool:
    transform = definition.computed_by
    if not isinstance(transform, DimensionTransform) or transform.key != ("date",):
        return False
    return "fiscal_month" in transform.members.named_selects


def fiscal_start(grain: str, calendar: str) -> str:
    """Return SQL for the first day of the fiscal quarter or year of a row of a date dimension."""
    months = f'({calendar}."fiscal_month" - 1)' + (" % 3" if grain == "fiscal_quarter" else "")
    return f"(date_trunc('month', {calendar}.{quoted('date')}) - to_months(cast({months} as integer)))::date"
