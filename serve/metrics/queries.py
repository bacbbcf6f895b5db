"""Metrics that a caller asks for, compiled to one statement over what the caller may see.

Every interface asks with a `MetricQuery`, so that a metric is the same number wherever it is asked for. A metric exists for a caller that
reads each of its columns as it is: from masked values, another number would come.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache

import duckdb

from pipeline.core.errors import did_you_mean
from pipeline.core.schema import Column, Schema
from pipeline.kernel.scan import no_rows
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import stored_type
from pipeline.project.project import Project
from pipeline.warehouse.modelling.metric_sql import (
    TIME,
    MetricPart,
    grouped,
    parts_of,
    rows_of,
    tables_of_part,
    united,
    values_of,
)
from pipeline.warehouse.modelling.metrics import PERIOD, MetricDefinition, MetricDimension
from serve.access.authorization import Authorizer, CallerColumns
from serve.access.caller import Caller
from serve.http_errors import DeniedError, HttpError, UnknownError
from serve.metrics.rollups import MetricRollups, RollupChoice, RollupQuestion
from serve.queries.engine import Engine
from serve.queries.query import (
    ColumnCondition,
    Condition,
    Operator,
    Ordering,
    Query,
    Selection,
    both,
    comparisons,
    conjuncts,
)
from serve.queries.select import PageStatement, Statement, VisibleRelation, filtered, page
from serve.queries.values import require_value, shown
from serve.tables import Tables, identity_of

_LOG = logging.getLogger("headwater.serve")
_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMPTZ")
_MOST_DESCRIBED = 1_024
"""How many statements over no rows are kept with their columns: these depend on metrics, dimensions and types, and on no value."""
MOST_METRICS = 20
"""The most metrics of one query."""


@dataclass(frozen=True)
class MetricQuery:
    """Metrics by dimensions and periods, of the rows that satisfy a condition on dimensions."""

    metrics: tuple[str, ...]
    dimensions: tuple[str, ...] = ()
    grain: str = ""
    where: Condition | None = None
    begin: str = ""
    """The first time that counts, as a text of the type of the time column; empty for all."""
    end: str = ""
    """The first time that does not count any more."""
    order: tuple[Ordering, ...] = ()
    limit: int | None = None
    """`None` for all rows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows: the dimensions, the period and the metrics."""
        return (*self.groups, *self.metrics)

    @property
    def groups(self) -> tuple[str, ...]:
        """The columns that tell the rows apart."""
        return (*self.dimensions, *([PERIOD] if self.grain else []))


@dataclass(frozen=True)
class VisibleMetric:
    """A metric that a caller may ask for, with the dimensions that the caller sees."""

    metric: MetricDefinition
    dimensions: tuple[Column, ...]
    grains: tuple[str, ...]
    time: Column | None


@dataclass(frozen=True)
class PreparedMetrics:
    """A statement of metrics, ready to be run, and the tables that it reads."""

    statement: PageStatement
    versions: Mapping[str, int]
    identities: tuple[tuple[str, str], ...]
    """Of these versions; see `serve.tables.identity_of`."""
    etag: str
    answered_by: Mapping[str, str] = field(default_factory=dict)
    """The table that each metric is computed from."""


class MetricQueries:
    """Compiles what callers ask of the metrics of a project. Thread-safe."""

    def __init__(self, project: Project, tables: Tables, engine: Engine, authorizer: Authorizer) -> None:
        """Serve metrics of the tables that are served."""
        served = (each for each in project.metrics if tables.definition_or_none(each.table) is not None)
        self._metrics = {each.name: each for each in served}
        self.rollups = MetricRollups(project.graph, tables, authorizer)
        self._tables = tables
        self._engine = engine
        self._described = lru_cache(_MOST_DESCRIBED)(engine.schema)
        self._authorizer = authorizer

    def readable(self, caller: Caller) -> list[VisibleMetric]:
        """Return the metrics that a caller may ask for, by name."""
        seen = _Seen(self._tables, self._authorizer, caller)
        return [found for each in self._metrics.values() if (found := seen.metric(each)) is not None]

    def find(self, names: Sequence[str], caller: Caller) -> list[VisibleMetric]:
        """Return metrics by name; raise `UnknownError` for one that the caller may not ask for, as if it did not exist."""
        if not names:
            raise HttpError("no metric is named", do="write metrics=a,b")
        if len(names) > MOST_METRICS or len(set(names)) < len(names):
            raise HttpError(f"a query has up to {MOST_METRICS} metrics, each once", do="split it into several requests")
        seen, found = _Seen(self._tables, self._authorizer, caller), []
        for name in names:
            metric = self._metrics.get(name)
            visible = None if metric is None else seen.metric(metric)
            if visible is None:
                known = [each.metric.name for each in self.readable(caller)]
                raise UnknownError(f"there is no metric {shown(name)}", do=did_you_mean(name[:200], known))
            found.append(visible)
        return found

    def schema(self, names: Sequence[str], caller: Caller) -> Schema:
        """Return the dimensions that metrics have in common, by which they can be filtered together."""
        return Schema(_common(self.find(names, caller)))

    def prepare(self, query: MetricQuery, caller: Caller) -> PreparedMetrics:
        """Return the statement of a query, which returns one row more than the limit.

        Raises `UnknownError` and `HttpError` for what the caller cannot ask for.
        """
        found = self.find(query.metrics, caller)
        _require(query, found)
        self._engine.require_patterns(query.where)
        made = _Compiler(self, query, caller, found)
        return made.prepared()

    def relation(self, name: str, caller: Caller, where: Condition | None) -> VisibleRelation:
        """Return what a caller may see of the newest version of a table."""
        grant = self._authorizer.grant(caller, name)
        return self._authorizer.relation(grant, caller, self._tables.version(name), where)

    def rows(self, name: str, choice: RollupChoice) -> str:
        """Return a SELECT of all rows of a table of a choice."""
        return self._tables.rows(name, choice.versions[name])

    def columns_of(self, sql: str, names: Sequence[str]) -> Schema:
        """Return the columns of a statement without rows; raise `DeniedError` if metrics cannot be computed."""
        try:
            return self._described(sql)
        except duckdb.Error as error:
            _LOG.error("metrics %s cannot be computed: %s", ", ".join(names), error)
            raise DeniedError("the metric cannot be computed from its table", do="see the server's log") from error


class _Seen:
    """What a caller sees of tables, looked up once each."""

    def __init__(self, tables: Tables, authorizer: Authorizer, caller: Caller) -> None:
        self._tables = tables
        self._authorizer = authorizer
        self._grants = {grant.definition.name: grant for grant in authorizer.readable(caller)}
        self._caller = caller
        self._known: dict[str, CallerColumns | None] = {}

    def metric(self, metric: MetricDefinition) -> VisibleMetric | None:
        table = self._columns(metric.table)
        if table is None or not metric.columns <= {name.lower() for name in self._real(metric.table)}:
            return None
        dimensions = [column for each in metric.dimensions if (column := self._dimension(each, metric)) is not None]
        time = next((each for each in table.schema.columns if each.name.lower() == metric.time.lower()), None)
        if time is None or time.type not in _TIMES:
            return VisibleMetric(metric, tuple(dimensions), (), None)
        has_calendar = metric.calendar and {"date", "fiscal_month"} <= self._real(metric.calendar)
        grains = tuple(each for each in metric.grains if has_calendar or not each.startswith("fiscal"))
        return VisibleMetric(metric, tuple(dimensions), grains, time)

    def _dimension(self, each: MetricDimension, metric: MetricDefinition) -> Column | None:
        if each.key and (each.key not in self._real(metric.table) or each.references not in self._real(each.table)):
            return None
        visible = self._columns(each.table or metric.table)
        kind = None if visible is None else visible.schema.as_dict().get(each.column)
        return None if kind is None else Column(each.name, kind)

    def _real(self, name: str) -> frozenset[str]:
        """Return the columns that the caller sees as they are."""
        visible = self._columns(name)
        return frozenset() if visible is None else visible.unmasked

    def _columns(self, name: str) -> CallerColumns | None:
        if name not in self._known:
            grant = self._grants.get(name)
            version = None if grant is None else self._tables.newest(name)
            self._known[name] = None
            if grant is not None and version is not None:
                with suppress(DeniedError):  # the log says which policy does not fit its table
                    self._known[name] = self._authorizer.columns(grant, self._caller, version)
        return self._known[name]


class _Compiler:
    """Compiles one query."""

    def __init__(
        self, queries: MetricQueries, query: MetricQuery, caller: Caller, found: Sequence[VisibleMetric]
    ) -> None:
        self._queries = queries
        self._query = query
        self._caller = caller
        self._found = {each.metric.name: each for each in found}
        self._wanted = tuple(
            dict.fromkeys((*query.dimensions, *(each.column.name for each in comparisons(query.where))))
        )
        self._relations: dict[tuple[str, object], VisibleRelation] = {}
        self._read: dict[str, tuple[int, str, str]] = {}
        """The tables that the response depends on: the number of the version, its identity, and what of it is seen."""
        self._answered: dict[str, str] = {}

    def prepared(self) -> PreparedMetrics:
        query = self._query
        parts = parts_of([each.metric for each in self._found.values()])
        made = [self._part(part) for part in parts]
        names = query.metrics
        described = self._queries.columns_of(united([blank for _, blank in made], query.groups, names), names)
        columns = tuple(Column(each.name, stored_type(each.type)) for each in described.columns)
        casts = ", ".join(f"cast({quoted(each.name)} as {each.type}) as {quoted(each.name)}" for each in columns)
        values = tuple(value for statement, _ in made for value in statement.values)
        sql = f"select {casts} from ({united([statement.sql for statement, _ in made], query.groups, names)})"
        schema = Schema(columns)
        order = query.order or tuple(Ordering(name) for name in query.groups)
        asked = Query(tuple(Selection(name, name) for name in schema.names), order=order, limit=query.limit)
        ordered = page(VisibleRelation("", 0, sql, schema), asked)
        seen = (query, sorted(self._read.items()), [each.metric for each in self._found.values()])
        return PreparedMetrics(
            replace(ordered, statement=Statement(ordered.statement.sql, values)),
            {name: number for name, (number, _, _) in self._read.items()},
            tuple((name, identity) for name, (_, identity, _) in self._read.items()),
            hashlib.sha256(repr(seen).encode()).hexdigest()[:32],
            self._answered,
        )

    def _part(self, part: MetricPart) -> tuple[Statement, str]:
        """Return the statement of a part, and the same one over no rows, without values."""
        query, first = self._query, part.first
        time = self._found[first.name].time
        names = tables_of_part(part, self._wanted, query.grain)
        relations = {name: self._relation(name) for name in names[1:]}
        relations[first.table] = self._relation(first.table, self._pruning(part, time))
        blank = rows_of(part, self._wanted, query.grain, lambda name: no_rows(relations[name].schema))
        values = values_of(part)
        choice = self._choice(part, blank)
        if choice is not None:
            statement = self._of_rollup(part, choice)
        else:
            source = rows_of(part, self._wanted, query.grain, lambda name: relations[name].sql)
            rows = self._filtered(source, time)
            statement = Statement(grouped(part, query.groups, rows.sql, values), rows.values)
            self._read |= {each.table: (each.version, each.identity, each.fingerprint) for each in relations.values()}
        answered_by = first.table if choice is None else choice.match.rollup.name
        self._answered |= {each.name: answered_by for each in part.metrics}
        return statement, grouped(part, query.groups, blank, values)

    def _filtered(self, source: str, time: Column | None) -> Statement:
        """Return the rows of a SELECT that satisfy the conditions of the query."""
        during = _during(self._query, None if time is None else Column(TIME, time.type))
        return filtered(source, both(self._query.where, *during))

    def _choice(self, part: MetricPart, blank: str) -> RollupChoice | None:
        query, rollups = self._query, self._queries.rollups
        if not rollups.has(part.first.table):
            return None
        made = f"select {', '.join(values_of(part))} from ({blank})"
        types = tuple(each.type for each in self._queries.columns_of(made, query.metrics).columns)
        bounds = tuple(text for text in (query.begin, query.end) if text)
        return rollups.choose(part, RollupQuestion(self._wanted, query.grain, bounds, types), self._caller)

    def _of_rollup(self, part: MetricPart, choice: RollupChoice) -> Statement:
        query, matched, first = self._query, choice.match, part.first
        calendar = self._queries.rows(first.calendar, choice) if query.grain.startswith("fiscal") else ""
        source = matched.rows(query.grain, self._queries.rows(matched.rollup.name, choice), calendar)
        rows = self._filtered(source, self._found[first.name].time)
        self._read |= {n: (each.number, identity_of(each), "all") for n, each in choice.versions.items()}
        return Statement(grouped(part, query.groups, rows.sql, matched.values(part, choice.types)), rows.values)

    def _relation(self, name: str, where: Condition | None = None) -> VisibleRelation:
        if (name, where) not in self._relations:
            self._relations[name, where] = self._queries.relation(name, self._caller, where)
        return self._relations[name, where]

    def _pruning(self, part: MetricPart, time: Column | None) -> Condition | None:
        """Return the conditions on columns of the table itself, by which files are left out."""
        own = {each.name for each in part.first.dimensions if not each.key}
        conditions = [each for each in conjuncts(self._query.where) if each.column.name in own]
        return both(*conditions, *_during(self._query, time))


def _during(query: MetricQuery, time: Column | None) -> list[ColumnCondition]:
    bounds: tuple[tuple[Operator, str], ...] = ((">=", query.begin), ("<", query.end))
    return [] if time is None else [ColumnCondition(time, operator, (text,)) for operator, text in bounds if text]


def _common(found: Sequence[VisibleMetric]) -> tuple[Column, ...]:
    first, *others = found
    return tuple(each for each in first.dimensions if all(each in other.dimensions for other in others))


def _require(query: MetricQuery, found: Sequence[VisibleMetric]) -> None:
    """Raise `HttpError` for dimensions, grains and times that the metrics do not have, all of them."""
    known = [each.name for each in _common(found)]
    for name in query.dimensions:
        if name not in known:
            whose = "the metric has" if len(found) == 1 else "the metrics have in common"
            raise HttpError(f"there is no dimension {shown(name)} that {whose}", do=did_you_mean(name[:200], known))
    if not set(query.dimensions).isdisjoint(query.metrics):
        raise HttpError("a dimension has the name of a metric", do="ask for them in two requests")
    if len(set(query.dimensions)) < len(query.dimensions):
        raise HttpError("a dimension is named twice", do="name each once")
    for each in found:
        name = each.metric.name
        if query.grain and query.grain not in each.grains:
            problem = f"metric {name!r} has no grain {shown(query.grain)}"
            raise HttpError(problem, do=did_you_mean(query.grain[:200], each.grains) if each.grains else "omit it")
        for word, text in (("from", query.begin), ("to", query.end)):
            if text and each.time is None:
                raise HttpError(f"metric {name!r} has no time, so that it takes no {word!r}", do="omit it")
            if text and each.time is not None:
                require_value(Column(word, each.time.type), text)
