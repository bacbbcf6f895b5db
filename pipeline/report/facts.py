"""What a report tells, read from the catalog and the lake. Nothing is drawn or worded here.

What the newest run did not make is told by the newest step that made it, so that a report is complete after a run that
had nothing to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline.core.definitions import Chart, Definition, StoredDefinition, Table
from pipeline.core.errors import StorageError, did_you_mean
from pipeline.governance import Catalog, RunRecord, StepRecord
from pipeline.kernel.engine import connect, one
from pipeline.kernel.sql_text import literal, quoted
from pipeline.lake import Lake, LakeTable, Storage
from pipeline.project.project import Project
from pipeline.report.words import quantity

SAMPLES = 5
"""How many quarantined rows of a table are shown."""
POINTS = 6_000
"""How many points a chart may have; of more, those with the greatest x are drawn."""


@dataclass(frozen=True)
class TableSummary:
    """A definition, what the newest run did with it, and the step that last made it."""

    definition: Definition
    now: StepRecord | None = None
    made: StepRecord | None = None
    made_at: str | None = None

    @property
    def rows(self) -> int | None:
        """The rows of the table as it stands; `None` when it is not made, or is not a table."""
        if not isinstance(self.definition, StoredDefinition):
            return None
        known = self.made if self.now is None or self.now.has_failed else self.now
        return None if known is None else known.total_rows


@dataclass(frozen=True)
class QuarantineSummary:
    """The quarantine of a table: how many rows for which reasons, and a few of them."""

    table: str
    rows: int
    reasons: Mapping[str, int]
    samples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ChartData:
    """A mart's chart: its points `(x, y, series)` sorted by x, and what has to be said of what they leave out."""

    table: Table
    points: tuple[tuple[Any, float, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportData:
    """All that a report tells."""

    project: Project
    run: RunRecord
    told: tuple[TableSummary, ...]
    asides: tuple[QuarantineSummary, ...] = ()
    drawn: tuple[ChartData, ...] = ()


def read(project: Project, catalog: Catalog) -> ReportData:
    """Read what there is to tell of the newest run; raise `StorageError` when nothing has run yet."""
    run = catalog.run()
    if run is None:
        raise StorageError(
            f"there is no run of {project.settings.name!r} to report", do="run the project first: headwater run"
        )
    steps = {step.name: step for step in run.steps}
    told = tuple(
        _told(definition, steps.get(definition.name), run, catalog) for definition in project.graph.definitions
    )
    lake = Lake(Storage(project.settings.lake, project.settings.storage))
    stored = [t.definition for t in told if isinstance(t.definition, StoredDefinition)]
    asides = [_aside(lake, definition.name) for definition in stored]
    charts = [d for d in stored if isinstance(d, Table) and d.chart is not None]
    return ReportData(
        project, run, told, tuple(a for a in asides if a is not None), tuple(_drawn(lake, table) for table in charts)
    )


def _told(definition: Definition, now: StepRecord | None, run: RunRecord, catalog: Catalog) -> TableSummary:
    if now is not None and now.is_done:
        return TableSummary(definition, now, now, run.ended_at or run.started_at)
    versions = catalog.versions(definition.name)
    return TableSummary(definition, now, catalog.last_step(definition.name), versions[0].at if versions else None)


def _aside(lake: Lake, name: str) -> QuarantineSummary | None:
    found = lake.quarantine(name).version()
    if found is None or not found.rows:
        return None
    query = found.scan().query()
    with connect(filesystem=lake.storage.filesystem()) as con:
        reasons = con.sql(f"select reasons, count(*) from ({query}) group by all order by 2 desc, 1").fetchall()
        # first one row of each kind, then the others, so that a rare reason is seen beside a frequent one
        samples = con.sql(
            f"select reasons, _source, _position, row from ({query}) "
            "order by row_number() over (partition by reasons order by _source, _position, row), reasons "
            f"limit {SAMPLES}"
        ).to_arrow_table()
    shown = tuple({**row, "file": PurePosixPath(row["_source"] or "").name} for row in samples.to_pylist())
    return QuarantineSummary(name, found.rows, {str(reason): int(rows) for reason, rows in reasons}, shown)


def _drawn(lake: Lake, table: Table) -> ChartData:
    chart, found = table.chart, _in(lake, table).version()
    if chart is None or found is None:
        return ChartData(table, notes=("The table is not made yet.",))
    for column in (chart.x, chart.y, chart.by):
        if column is not None and column not in found.schema.names:
            hint = did_you_mean(column, found.schema.names)
            return ChartData(
                table, notes=(f"The chart names a column {column!r} that the table does not have; {hint}",)
            )
    with connect(filesystem=lake.storage.filesystem()) as con:
        con.execute(f"create temp table points as {_points(chart, found.scan().query())}")
        points = con.sql(f"from (from points order by x desc, series limit {POINTS}) order by x, series").fetchall()
        used, shared, total = one(
            con, "select coalesce(sum(rows), 0), count(*) filter (where rows > 1), count(*) from points"
        )
    notes = {
        f"Not drawn: {quantity(found.rows - used, 'row')} without {chart.x} or {chart.y}.": found.rows > used,
        f"Several rows share one {chart.x}: the highest {chart.y} of each is drawn.": shared > 0,
        f"The last {POINTS:,} of {total:,} points are drawn.": total > POINTS,
    }
    told = tuple(note for note, holds in notes.items() if holds)
    return ChartData(table, tuple((x, float(y), str(series)) for x, y, series, _ in points), told)


def _points(chart: Chart, query: str) -> str:
    """Return the SELECT of a chart's points, one for each x and series, with the number of rows at each."""
    series = literal("") if chart.by is None else f"coalesce({quoted(chart.by)}::varchar, '(none)')"
    return (
        f"select * from (select {quoted(chart.x)} as x, max(try_cast({quoted(chart.y)}::varchar as double)) as y, "
        f"{series} as series, count(*) as rows from ({query}) group by all) where x is not null and isfinite(y)"
    )


def _in(lake: Lake, table: StoredDefinition) -> LakeTable:
    return lake.table(table.layer, table.name)
