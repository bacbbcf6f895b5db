"""The few figures and the one sentence that stand above everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.definitions import Source, StoredDefinition
from pipeline.quality import score
from pipeline.report import words
from pipeline.report.facts import ReportData, TableSummary
from pipeline.report.verdicts import Judged, worded


@dataclass(frozen=True)
class Figure:
    """A number, what it counts, and a line about it."""

    label: str
    value: str
    note: str
    alarm: bool = False


def figures(facts: ReportData, models: Sequence[Judged]) -> tuple[Figure, ...]:
    """Return the headline figures; the last one only for a project with models."""
    found = (_tables(facts), _rows_read(facts), _quarantined(facts), _quality(facts))
    best = models[0].headline if models else None
    if best is None:
        return found
    of, verdict = models[0].told.definition.name, models[0].verdict
    against = "" if best.baseline is None else f", baseline {worded(best.name, best.baseline)}"
    note = f"{of}: {'accepted' if verdict.accepted else 'refused'}{against}"
    shown = Figure(
        f"Model {best.name.replace('_', ' ')}", worded(best.name, best.value), note, alarm=not verdict.accepted
    )
    return (*found, shown)


def accounted(told: Sequence[TableSummary]) -> tuple[str, ...]:
    """Return the tables whose last step lost rows that nobody counted."""
    flows = [
        (t.definition.name, t.made.flow)
        for t in told
        if t.made is not None and isinstance(t.definition, StoredDefinition)
    ]
    return tuple(name for name, f in flows if f.uncounted)


def score_of(told: Sequence[TableSummary]) -> float | None:
    """Return the quality score of tables by their last steps' checks, in percent."""
    return score((check.rows, check.violations) for t in told if t.made is not None for check in t.made.checks)


def scored(value: float | None) -> str:
    """Return a score in words."""
    return words.ABSENT if value is None else words.percent(value / 100)


def _tables(facts: ReportData) -> Figure:
    stored = [t for t in facts.told if isinstance(t.definition, StoredDefinition)]
    made = sum(t.now is not None and t.now.is_done for t in stored)
    failed = sum(t.now is not None and t.now.decision == "failed" for t in stored)
    skipped = sum(t.now is not None and t.now.decision == "upstream_failed" for t in stored)
    same = sum(t.now is not None and t.now.decision == "skip" for t in stored)
    streamed = sum(t.now is not None and t.now.decision == "streamed" for t in stored)
    left = len(stored) - made - failed - skipped - same - streamed
    parts = (
        (made, "made"),
        (failed, "failed"),
        (skipped, "skipped"),
        (same, "up to date"),
        (streamed, "streamed"),
        (left, "not in this run"),
    )
    note = ", ".join(f"{words.count(n)} {what}" for n, what in parts if n)
    return Figure("Tables", words.count(len(stored)), note, alarm=failed > 0)


def _rows_read(facts: ReportData) -> Figure:
    sources = [t for t in facts.told if isinstance(t.definition, Source)]
    read = sum(t.made.flow.rows_in for t in sources if t.made is not None)
    now = sum(t.now.flow.rows_in for t in sources if t.now is not None)
    size = sum(t.made.flow.bytes_in for t in sources if t.made is not None)
    what = f"{words.size(size)} from {words.quantity(len(sources), 'source')}"
    return Figure("Rows read", words.count(read), what if now or not read else f"{what}, none of them in this run")


def _quarantined(facts: ReportData) -> Figure:
    held = sum(aside.rows for aside in facts.asides)
    now = sum(t.now.flow.quarantined for t in facts.told if t.now is not None)
    tables = f"of {words.quantity(len(facts.asides), 'table')}, " if held else ""
    return Figure("Rows in quarantine", words.count(held), f"{tables}{words.count(now)} by this run", alarm=held > 0)


def _quality(facts: ReportData) -> Figure:
    checks = [check for t in facts.told if t.made is not None for check in t.made.checks]
    held = sum(not check.violations for check in checks)
    note = (
        f"{held:,} of {words.quantity(len(checks), 'expectation')} met by every row" if checks else "nothing expected"
    )
    return Figure("Quality score", scored(score_of(facts.told)), note)
