"""Renders the report: facts in, one HTML document out, with the templates next to this module."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import quantity
from pipeline.core.sources import PROVENANCE
from pipeline.governance import CheckRecord
from pipeline.report import headline, words
from pipeline.report.charts import rendered
from pipeline.report.facts import ReportData, TableSummary
from pipeline.report.flow import flow_picture
from pipeline.report.svg import shortened
from pipeline.report.verdicts import judged, worded

LONG = 600
"""Maximum number of characters shown of a quarantined row."""


@dataclass(frozen=True)
class CheckSummary:
    """A table's checks with its score and the number of violations."""

    table: TableSummary
    checks: tuple[CheckRecord, ...]
    score: str
    violations: int


@dataclass(frozen=True)
class Link:
    """A page beside the report that its navigation names."""

    file: str
    title: str


def templates(*packages: str) -> Environment:
    """Return the templates of packages, which may extend those of the report, with the report's filters."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "pipeline.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({tool.__name__: tool for tool in _FILTERS})
    return environment


def page(facts: ReportData, links: Sequence[Link] = ()) -> str:
    """Return the report as one HTML document without external references, besides links to other pages."""
    models = judged(facts.tables)
    return (
        templates()
        .get_template("report.html")
        .render(
            settings=facts.project.settings,
            run=facts.run,
            lasted=None if facts.run is None else words.between(facts.run.started_at, facts.run.ended_at),
            tables=facts.tables,
            figures=headline.figures(facts, models),
            unaccounted=headline.accounted(facts.tables),
            flow=flow_picture(facts.tables),
            judged_tables=[_expected(t) for t in facts.tables if t.built is not None and t.built.checks],
            quarantines=facts.quarantines,
            charts=[rendered(each.table.name, each.table.chart, each.drawn) for each in facts.charts],
            models=models,
            absent=words.ABSENT,
            links=links,
        )
    )


def expectations(table: TableSummary) -> list[CheckRecord]:
    """Return a table's checks in order of declaration, those of its key last."""
    definition = table.definition
    order = [e.name for e in definition.expect] if isinstance(definition, StoredDefinition) else []
    checks = () if table.built is None else table.built.checks
    return sorted(checks, key=lambda c: order.index(c.expectation) if c.expectation in order else len(order))


def condition(check: CheckRecord) -> str:
    """Return the condition of a check as SQL; uniqueness of the key, which concerns several rows, as text."""
    return "one row for each key" if check.expectation == "key_is_unique" else check.condition


def cells(row: str | None) -> tuple[tuple[str, str], ...]:
    """Return the columns and values of a quarantined row, without provenance; raw text has an empty column name."""
    text = row or ""
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, Mapping):
        return (("", shortened(text, LONG)),)
    each = max(LONG // max(len(values), 1), 24)
    return tuple(
        (str(name), shortened(_plain(value), each)) for name, value in values.items() if name not in PROVENANCE
    )


def _expected(table: TableSummary) -> CheckSummary:
    checks = expectations(table)
    return CheckSummary(
        table, tuple(checks), headline.scored(headline.score_of([table])), sum(c.violations for c in checks)
    )


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


_FILTERS: tuple[Callable[..., object], ...] = (
    words.count,
    words.percent,
    words.seconds,
    words.speed,
    words.moment,
    words.minute,
    quantity,
    cells,
    condition,
    worded,
)
"""The functions that the templates call."""
