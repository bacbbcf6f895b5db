"""The headline: key figures, and one sentence on the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.definitions import Source
from pipeline.core.errors import quantity
from pipeline.quality import score
from pipeline.report import words
from pipeline.report.facts import ReportData, TableSummary
from pipeline.report.verdicts import Judged, worded


@dataclass(frozen=True)
class Figure:
    """A number, its label, and a note."""

    label: str
    value: str
    note: str
    alarm: bool = False


def figures(facts: ReportData, models: Sequence[Judged]) -> tuple[Figure, ...]:
    """Return the headline figures; the last one only if the project has models."""
    shown_always = (_tables(facts), _rows_read(facts), _quarantined(facts), _quality(facts))
    best = models[0].headline if models else None
    if best is None:
        return shown_always
    of, verdict = models[0].table.definition.name, models[0].verdict
    against = "" if best.baseline is None else f", baseline {worded(best.name, best.baseline)}"
    note = f"{of}: {'accepted' if verdict.accepted else 'refused'}{against}"
    shown = Figure(
        f"Model {best.name.replace('_', ' ')}", worded(best.name, best.value), note, alarm=not verdict.accepted
    )
    return (*shown_always, shown)


def accounted(tables: Sequence[TableSummary]) -> tuple[str, ...]:
    """Return the tables whose last step lost uncounted rows; tables of streams are checked by `headwater verify`."""
    flows = [
        (t.definition.name, t.built.flow) for t in tables if t.built is not None and not t.is_streamed and t.is_table
    ]
    return tuple(name for name, f in flows if f.uncounted)


def score_of(tables: Sequence[TableSummary]) -> float | None:
    """Return the quality score over the checks of the tables' last steps, in percent."""
    return score((check.rows, check.violations) for t in tables if t.built is not None for check in t.built.checks)


def scored(value: float | None) -> str:
    """Format a score."""
    return words.ABSENT if value is None else words.percent(value / 100)


def _tables(facts: ReportData) -> Figure:
    stored = [t for t in facts.tables if t.is_table]
    built = sum(t.step is not None and t.step.is_done for t in stored)
    failed = sum(t.step is not None and t.step.decision == "failed" for t in stored)
    skipped = sum(t.step is not None and t.step.decision == "upstream_failed" for t in stored)
    same = sum(t.step is not None and t.step.decision == "skip" for t in stored)
    streamed = sum(t.step is not None and t.step.decision == "streamed" for t in stored)
    left = len(stored) - built - failed - skipped - same - streamed
    parts = (
        (built, "computed"),
        (failed, "failed"),
        (skipped, "skipped"),
        (same, "up to date"),
        (streamed, "streamed"),
        (left, "not in this run"),
    )
    note = ", ".join(f"{words.count(n)} {what}" for n, what in parts if n)
    return Figure("Tables", words.count(len(stored)), note, alarm=failed > 0)


def _rows_read(facts: ReportData) -> Figure:
    sources = [t for t in facts.tables if isinstance(t.definition, Source)]
    read = sum(t.built.flow.rows_in for t in sources if t.built is not None)
    now = sum(t.step.flow.rows_in for t in sources if t.step is not None)
    size = sum(t.built.flow.bytes_in for t in sources if t.built is not None)
    what = f"{words.size(size)} from {quantity(len(sources), 'source')}"
    return Figure("Rows read", words.count(read), what if now or not read else f"{what}, none in this run")


def _quarantined(facts: ReportData) -> Figure:
    total = sum(aside.rows for aside in facts.quarantines)
    now = sum(t.step.flow.quarantined for t in facts.tables if t.step is not None)
    tables = f"of {quantity(len(facts.quarantines), 'table')}, " if total else ""
    return Figure("Rows in quarantine", words.count(total), f"{tables}{words.count(now)} by this run", alarm=total > 0)


def _quality(facts: ReportData) -> Figure:
    checks = [check for t in facts.tables if t.built is not None for check in t.built.checks]
    checked = [check for check in checks if check.rows]
    met = sum(not check.violations for check in checked)
    parts = [f"{met:,} of {quantity(len(checked), 'expectation')} satisfied by every row"] if checked else []
    if len(checks) > len(checked):
        parts.append(f"{quantity(len(checks) - len(checked), 'expectation')} without rows")
    return Figure("Quality score", scored(score_of(facts.tables)), ", ".join(parts) or "no expectations")
