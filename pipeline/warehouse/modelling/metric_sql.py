"""The SQL of metrics, over any relations of the tables: those of a caller's policies, or the tables as they are.

Metrics of the same rows are computed together, and those of different tables are united by their dimensions. A row of a fact counts once:
dimensions are joined by their keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.modelling.metrics import (
    PERIOD,
    Aggregate,
    MetricDefinition,
    MetricDimension,
    fiscal_start,
    of_table,
)

TIME = "~time"
"""The column with the time of a row, which conditions on the time are about."""
_FACT, _CALENDAR = "f", "c"


@dataclass(frozen=True)
class MetricPart:
    """Metrics of the same rows: those of one table that satisfy one condition, with one time."""

    metrics: tuple[MetricDefinition, ...]

    @property
    def first(self) -> MetricDefinition:
        """One of them, which has the table, the condition and the time of all."""
        return self.metrics[0]

    @cached_property
    def aggregates(self) -> tuple[Aggregate, ...]:
        """The aggregates of all of them, each once."""
        return tuple(dict.fromkeys(one for each in self.metrics for one in each.aggregates))


def parts_of(metrics: Sequence[MetricDefinition]) -> tuple[MetricPart, ...]:
    """Return metrics by the rows that they are computed from."""
    found: dict[tuple[str, str, str], list[MetricDefinition]] = {}
    for each in metrics:
        found.setdefault((each.table, each.where, each.time), []).append(each)
    return tuple(MetricPart(tuple(each)) for each in found.values())


def tables_of_part(part: MetricPart, dimensions: Sequence[str], grain: str) -> tuple[str, ...]:
    """Return the tables that a part reads for dimensions and a grain, the table of the metrics first."""
    joined = [found.table for name in dimensions if (found := part.first.dimension(name)) is not None and found.table]
    calendar = [part.first.calendar] if grain.startswith("fiscal") else []
    return tuple(dict.fromkeys([part.first.table, *joined, *calendar]))


def rows_of(part: MetricPart, dimensions: Sequence[str], grain: str, relation_of: Callable[[str], str]) -> str:
    """Return a SELECT of the rows that count: their dimensions, period and time, and the arguments of the aggregates.

    `relation_of` returns the SELECT of a table's rows. The arguments and conditions of the aggregates are the columns `~a0`,
    `~w0` and so on.
    """
    first = part.first
    used = [found for name in dimensions if (found := first.dimension(name)) is not None]
    keys = list(dict.fromkeys((each.key, each.table, each.references) for each in used if each.key))
    aliases = {key: f"d{number}" for number, (key, _, _) in enumerate(keys)}
    columns = [f"{_column(each, aliases)} as {quoted(each.name)}" for each in used]
    joins = [
        f" left join ({relation_of(table)}) as {aliases[key]} on {aliases[key]}.{quoted(references)} = {_FACT}.{quoted(key)}"
        for key, table, references in keys
    ]
    if first.time:
        columns.append(f"{_FACT}.{quoted(first.time)} as {quoted(TIME)}")
    if grain:
        columns.append(f"{period(grain, f'{_FACT}.{quoted(first.time)}')} as {quoted(PERIOD)}")
    if grain.startswith("fiscal"):
        joins.append(calendar_join(relation_of(first.calendar), f"{_FACT}.{quoted(first.time)}"))
    for number, each in enumerate(part.aggregates):
        if each.argument:
            columns.append(f"{of_table(each.argument, _FACT)} as {quoted(f'~a{number}')}")
        if each.where:
            columns.append(f"{of_table(each.where, _FACT)} as {quoted(f'~w{number}')}")
    where = f" where {of_table(first.where, _FACT)}" if first.where else ""
    selected = ", ".join(columns) or f"1 as {quoted('~1')}"
    return f"select {selected} from ({relation_of(first.table)}) as {_FACT}{''.join(joins)}{where}"


def period(grain: str, time: str) -> str:
    """Return SQL for the first day of the period of a time; fiscal ones need `calendar_join`."""
    if grain.startswith("fiscal"):
        return fiscal_start(grain, _CALENDAR)
    return f"date_trunc({literal(grain)}, {time})::date"


def calendar_join(calendar: str, time: str) -> str:
    """Return the join of the day of a time in a date dimension."""
    return f" left join ({calendar}) as {_CALENDAR} on {_CALENDAR}.{quoted('date')} = {time}::date"


def values_of(part: MetricPart) -> list[str]:
    """Return SQL for the value of each aggregate over the rows of `rows_of`."""
    values = []
    for number, each in enumerate(part.aggregates):
        argument = quoted(f"~a{number}") if each.argument else "*"
        condition = f" filter (where {quoted(f'~w{number}')})" if each.where else ""
        values.append(f"{each.function}({'distinct ' if each.is_distinct else ''}{argument}){condition}")
    return values


def grouped(part: MetricPart, names: Sequence[str], rows: str, values: Sequence[str]) -> str:
    """Return a SELECT of the metrics by the columns `names` of rows, with the given SQL for the values of the aggregates."""
    made = ", ".join(f"{value} as {quoted(f'~v{number}')}" for number, value in enumerate(values))
    groups = listed(list(names))
    inner = f"select {groups}{', ' if groups else ''}{made} from ({rows}) as t{f' group by {groups}' if groups else ''}"
    columns = [quoted(name) for name in names]
    for each in part.metrics:
        renamed = {f'"~{n}"': f'"~v{part.aggregates.index(one)}"' for n, one in enumerate(each.aggregates)}
        columns.append(f"{_renamed(each.formula, renamed)} as {quoted(each.name)}")
    return f"select {', '.join(columns)} from ({inner})"


def united(selects: Sequence[str], names: Sequence[str], metrics: Sequence[str]) -> str:
    """Return a SELECT of all metrics by their common columns; a metric without rows in a group is null."""
    if len(selects) == 1:
        return f"select {listed([*names, *metrics])} from ({selects[0]})"
    every = " union all by name ".join(f"({each})" for each in selects)
    groups = listed(list(names))
    values = ", ".join(f"any_value({quoted(name)}) as {quoted(name)}" for name in metrics)
    return f"select {groups}{', ' if groups else ''}{values} from ({every}){f' group by {groups}' if groups else ''}"


def _column(each: MetricDimension, aliases: dict[str, str]) -> str:
    return f"{aliases[each.key] if each.key else _FACT}.{quoted(each.column)}"


def _renamed(formula: str, names: dict[str, str]) -> str:
    for before, after in names.items():
        formula = formula.replace(before, after)
    return formula
