"""The contents of a report, read from the catalog and the lake; nothing is formatted here.

A table that the newest run did not compute is shown with the last step that computed it, so the report is complete
even if the run had nothing to do. A table of a stream is shown in its newest version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pipeline.core.definitions import Definition, StoredDefinition, Table, layer_of
from pipeline.core.errors import StorageError, did_you_mean
from pipeline.core.logs import logger
from pipeline.core.staging import RowCounts
from pipeline.governance import Catalog, RunRecord, StepRecord
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, LakeTable, Storage
from pipeline.project.project import Project
from pipeline.report.points import ChartPoints, points_of, points_query
from pipeline.runner.decide import DecisionKind
from pipeline.runner.handlers import handler_of

_log = logger(__name__)

SAMPLES = 5
"""Maximum number of quarantined rows shown per table."""


@dataclass(frozen=True)
class TableSummary:
    """A definition, its step in the newest run, and the step that last computed it."""

    definition: Definition
    step: StepRecord | None = None
    """The step in the newest run."""
    built: StepRecord | None = None
    """The step in the newest run that computed it; for a table of a stream, its row counts since the stream started."""
    built_at: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether the definition has a table in the lake; models, sinks and feeds do not."""
        return isinstance(self.definition, StoredDefinition)

    @property
    def band(self) -> str:
        """The band of the row flow that shows it: a layer, `model` or `sink`."""
        return handler_of(self.definition).band(self.definition)

    @property
    def is_stored(self) -> bool:
        """Whether a run has a step for it; a feed has none."""
        return handler_of(self.definition).is_step

    @property
    def is_streamed(self) -> bool:
        """Whether a stream writes it."""
        return DecisionKind.STREAMED in {step.decision for step in (self.step, self.built) if step is not None}

    @property
    def rows(self) -> int | None:
        """The current rows of the table; `None` if it is not computed yet, or is not a table."""
        if not self.is_table:
            return None
        known = self.built if self.step is None or self.step.has_failed or self.is_streamed else self.step
        return None if known is None else known.total_rows


@dataclass(frozen=True)
class QuarantineSummary:
    """The quarantine of a table: row counts per reason, and a sample."""

    table: str
    rows: int
    reasons: Mapping[str, int]
    samples: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ChartData:
    """A mart with its chart's points, and notes on rows that are not drawn."""

    table: Table
    drawn: ChartPoints = field(default_factory=ChartPoints)


@dataclass(frozen=True)
class ReportData:
    """The entire contents of a report."""

    project: Project
    run: RunRecord | None
    """The newest run; `None` if only streams have run."""
    tables: tuple[TableSummary, ...]
    quarantines: tuple[QuarantineSummary, ...] = ()
    charts: tuple[ChartData, ...] = ()


def read(project: Project, catalog: Catalog) -> ReportData:
    """Read the contents of the report; raise `StorageError` if there was neither a run nor a stream."""
    run = catalog.run()
    lake = Lake(Storage(project.settings.lake, project.settings.storage))
    tables = tuple(_table_summary(definition, run, catalog, lake) for definition in project.graph.definitions)
    if run is None and not any(table.is_streamed for table in tables):
        raise StorageError(
            f"there is no run of {project.settings.name!r} to report", do="run the project first: headwater run"
        )
    stored = [t.definition for t in tables if isinstance(t.definition, StoredDefinition)]
    quarantines = [_quarantine(lake, definition.name) for definition in stored]
    charts = [d for d in stored if isinstance(d, Table) and d.chart is not None]
    return ReportData(
        project,
        run,
        tables,
        tuple(quarantine for quarantine in quarantines if quarantine is not None),
        tuple(_chart(lake, table) for table in charts),
    )


def _table_summary(definition: Definition, run: RunRecord | None, catalog: Catalog, lake: Lake) -> TableSummary:
    step = None if run is None else next((step for step in run.steps if step.name == definition.name), None)
    if run is not None and step is not None and step.is_done:
        return TableSummary(definition, step, step, run.ended_at or run.started_at)
    last = catalog.last_step(definition.name)
    if last is None or (step is not None and step.decision == DecisionKind.STREAMED):  # otherwise no table is opened
        streamed = _streamed(definition, step, lake)
        if streamed is not None:
            return streamed
    versions = catalog.versions(definition.name)
    return TableSummary(definition, step, last, versions[0].at if versions else None)


def _streamed(definition: Definition, step: StepRecord | None, lake: Lake) -> TableSummary | None:
    """Return the summary of a table whose newest version was written by a stream; `None` for any other table."""
    try:
        version = _in(lake, definition).version() if isinstance(definition, StoredDefinition) else None
    except StorageError as error:
        _log.warning("a table cannot be read and is missing from the report", table=definition.name, error=str(error))
        return None
    manifest = None if version is None else version.manifest
    if version is None or manifest is None or manifest.epoch is None:
        return None
    totals = manifest.epoch.totals
    rows_made = sum(totals.get(name, 0) for name in ("rows_out", "quarantined", "dropped"))
    built = StepRecord(
        name=definition.name,
        number=0,
        kind=definition.kind,
        layer=layer_of(definition),
        decision=DecisionKind.STREAMED,
        reason=f"epoch {manifest.epoch.number:,}",
        version=version.number,
        total_rows=version.rows,
        flow=RowCounts(**totals, rows_made=rows_made),
    )
    return TableSummary(definition, step, built, manifest.at)


def _quarantine(lake: Lake, name: str) -> QuarantineSummary | None:
    version = lake.quarantine(name).version()
    if version is None or not version.rows:
        return None
    query = version.scan().query()
    with connect(filesystem=lake.storage.filesystem()) as con:
        reasons = con.sql(f"select reasons, count(*) from ({query}) group by all order by 2 desc, 1").fetchall()
        # first one row of each combination of reasons, so that rare reasons are shown
        samples = con.sql(
            f"select reasons, _source, _position, row from ({query}) "
            "order by row_number() over (partition by reasons order by _source, _position, row), reasons "
            f"limit {SAMPLES}"
        ).to_arrow_table()
    shown = tuple({**row, "file": PurePosixPath(row["_source"] or "").name} for row in samples.to_pylist())
    return QuarantineSummary(name, version.rows, {str(reason): int(rows) for reason, rows in reasons}, shown)


def _chart(lake: Lake, table: Table) -> ChartData:
    chart, version = table.chart, _in(lake, table).version()
    if chart is None or version is None:
        return ChartData(table, ChartPoints(notes=("The table does not exist yet.",)))
    known = {name.lower() for name in version.schema.names}
    for column in (chart.x, chart.y, chart.by):
        if column is not None and column.lower() not in known:
            hint = did_you_mean(column, version.schema.names)
            note = f"The chart uses a column {column!r} that the table does not have; {hint}"
            return ChartData(table, ChartPoints(notes=(note,)))
    with connect(filesystem=lake.storage.filesystem()) as con:
        fetched = con.sql(points_query(chart, version.scan().query())).fetchall()
    return ChartData(table, points_of(chart, fetched, version.rows))


def _in(lake: Lake, table: StoredDefinition) -> LakeTable:
    return lake.table(table.layer, table.name)
