"""Replay: validates a table's quarantined rows again by its current definition.

A run recomputes all rows whenever a definition changes. Replay processes only the quarantined rows, which is fast for a
large table, and possible for a source whose files no longer exist. Rows that pass are appended; the others stay
quarantined, with the current reasons. It is one commit, like a step of a run.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.batch.planning import ExecutionPlan, execution_plan, source_execution_plan, tree_of
from pipeline.batch.row_producers import ArrowProducer, SourceProducer
from pipeline.batch.step import StepSpec, task_spec_of
from pipeline.batch.task import run_task
from pipeline.batch.work import RowProducer, Split
from pipeline.commit.commit_plan import StagedRows, definition_to_validate, plan_commit, schema_of_rows
from pipeline.commit.post_commit import post_commit
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import Source, StoredDefinition, Table
from pipeline.core.epochs import Epoch
from pipeline.core.errors import RequestError
from pipeline.core.functions import FunctionTransform
from pipeline.core.schema import Schema
from pipeline.core.sources import POSITION, SOURCE, ReadResult, Reparsable
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.core.staging import RowCounts
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.planner.provenance import with_provenance
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql_text import literal
from pipeline.lake import QUARANTINE
from pipeline.project.contracts import own_columns, with_declared
from pipeline.project.workspace import Workspace
from pipeline.runner.contracts import require_same
from pipeline.runner.decide import Decision, DecisionKind
from pipeline.runner.facts import feed_of


def quarantined_rows(workspace: Workspace, name: str) -> pa.Table:
    """Return a table's quarantined rows: `reasons`, `_source`, `_position`, `row`, `_run`, `_quarantined_at`."""
    quarantined = workspace.lake.quarantine(workspace.stored(name).name).version()
    scan = Scan(QUARANTINE) if quarantined is None else quarantined.scan()
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        return arrow(con, f"select * from ({scan.query()}) order by {SOURCE}, {POSITION}")


def replay(workspace: Workspace, name: str, *, clock: Clock = now) -> RowCounts:
    """Replay a table's quarantined rows and return the row counts.

    Raises `RequestError` if no rows of the table are quarantined, and the errors of a run.
    """
    definition, rows = workspace.stored(name), quarantined_rows(workspace, name)
    version = workspace.require(name)
    post_commit(workspace, definition, version)
    if not rows.num_rows:
        raise RequestError(f"no rows of {name!r} are quarantined", do="see `headwater quarantine ls`")
    if version.manifest is None:
        raise RequestError(f"table {name!r} was not computed by a run", do="run the project first")
    begun, run_id, at = time.perf_counter(), f"{clock():%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", clock().isoformat()
    judged = definition_to_validate(definition)
    spec, producer = _prepare(
        workspace, definition, rows, StepSpec(judged, _INLINE_PLAN, {}, run_id, at, existing=version)
    )
    work = task_spec_of(spec, workspace.lake, workspace.settings, producer)
    outcome = run_task(work, Split(0, source_splits=spec.source_splits))
    require_same(
        definition, Decision(DecisionKind.APPEND, "replay"), version, schema_of_rows(definition, outcome.schema)
    )
    if not outcome.flow.rows_out and not outcome.flow.dropped and outcome.flow.quarantined == rows.num_rows:
        return outcome.flow  # nothing has changed: a version would only make readers compute again
    commit = plan_commit(workspace, StagedRows(definition, outcome, run_id, version))
    manifest = replace(
        version.manifest,
        run_id=run_id,
        fingerprint=definition.fingerprint,
        mode="append" if definition.merge is None else "merge",
        flow=commit.flow,
        checks=dict(outcome.checks),
        quarantined=commit.quarantined,
        quarantine_mode="overwrite",
        tombstones=commit.tombstones,
        epoch=None if version.manifest.epoch is None else with_replayed_rows(version.manifest.epoch, commit.flow),
        seconds=time.perf_counter() - begun,
        at=at,
    )
    committed = workspace.table(name).commit(
        manifest, commit.files, commit.schema or outcome.schema, version, commit.removed
    )
    post_commit(workspace, definition, committed)
    return commit.flow


def with_replayed_rows(epoch: Epoch, flow: RowCounts) -> Epoch:
    """Return a stream's epoch after a replay of rejected rows; its offsets and watermark do not change."""
    totals = dict(epoch.totals)
    totals["rows_out"] = totals.get("rows_out", 0) + flow.rows_out
    totals["dropped"] = totals.get("dropped", 0) + flow.dropped
    totals["quarantined"] = totals.get("quarantined", 0) - flow.rows_in + flow.quarantined
    return replace(epoch, totals=totals)


_INLINE_PLAN = ExecutionPlan("blockwise", "", "quarantined rows", "inline", "replayed in this process")


def _prepare(
    workspace: Workspace, definition: StoredDefinition, rows: pa.Table, spec: StepSpec
) -> tuple[StepSpec, RowProducer]:
    if isinstance(definition, Source):
        return _from_text(definition, rows, spec)
    if not isinstance(definition, Table):
        raise RequestError(f"{definition.name!r} is not a table")
    if feed_of(workspace, definition) is not None:
        raise RequestError(
            f"{definition.name!r} reads a source that is not stored, so its rows cannot be validated individually",
            do=f"fix the files or the definition and run `headwater run --select {definition.name}`",
        )
    scans = {n: workspace.require(n, definition.name).scan() for n in definition.inputs}
    plan = execution_plan(definition, scans)
    positions = rows.select([SOURCE, POSITION])
    known = not isinstance(definition.transform, FunctionTransform) and not positions[POSITION].null_count
    if known and plan.splits_alone and {SOURCE, POSITION} <= set(scans[plan.driving].schema.names):
        return spec, _from_inputs(workspace, definition, plan, scans, positions)
    return spec, _from_json(workspace, rows, spec)


def _from_inputs(
    workspace: Workspace, definition: Table, plan: ExecutionPlan, scans: dict[str, Scan], positions: pa.Table
) -> RowProducer:
    """Run the definition on the input rows from which the quarantined rows were computed."""
    driving = scans[plan.driving]
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        con.register("_positions", positions)
        input_rows = arrow(
            con, f"select i.* from ({driving.query()}) as i semi join _positions using ({SOURCE}, {POSITION})"
        )
    text, hidden = with_provenance(tree_of(definition.transform), plan.driving, driving.schema.names)
    others = {name: scan for name, scan in scans.items() if name != plan.driving}
    return ArrowProducer(
        input_rows, positions.num_rows, views={**others, plan.driving: input_rows}, query=text, hidden=hidden
    )


def _from_json(workspace: Workspace, rows: pa.Table, spec: StepSpec) -> RowProducer:
    """Validate the stored rows; their inputs are not known, so a changed statement is not run again."""
    schema = spec.existing.schema if spec.existing is not None else Schema(())
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        register(con, {"_rows": rows})
        types = ", ".join(f'"{c.name}": "{c.type}"' for c in schema.columns)
        provenance = [n for n in (SOURCE, POSITION) if n not in schema.names]
        hidden = "".join(f", {name}" for name in provenance)
        parsed = arrow(con, f"select unnest(from_json(row, {literal('{' + types + '}')})){hidden} from _rows")
    return ArrowProducer(parsed, rows.num_rows, hidden=tuple(provenance))


def _from_text(definition: Source, rows: pa.Table, spec: StepSpec) -> tuple[StepSpec, RowProducer]:
    """Read the text of a source's rejected rows again, and validate it against the current contract."""
    by_source: dict[str, list[tuple[int, str]]] = {}
    for uri, position, text in zip(*(rows[n].to_pylist() for n in (SOURCE, POSITION, "row")), strict=True):
        by_source.setdefault(uri, []).append((position, text))
    source_splits = tuple(SourceSplit(SourceObject(uri, 0, "")) for uri in by_source)
    before = Schema(()) if spec.existing is None else own_columns(spec.existing.schema).inferred()
    schema = with_declared(definition, before)
    reader = _StoredTextReader(_reparsable(definition), {uri: tuple(kept) for uri, kept in by_source.items()})
    plan = source_execution_plan(definition, source_splits)
    return replace(spec, execution_plan=plan, source_splits=source_splits, schema=schema), SourceProducer(
        reader, schema, spec.at, event_time=definition.event_time
    )


def _reparsable(definition: Source) -> Reparsable:
    if isinstance(definition.reader, Reparsable):
        return definition.reader
    raise RequestError(
        f"rows of {definition.name!r} cannot be read again from the quarantine",
        do=f"fix the source and run `headwater run --full --select {definition.name}`",
    )


@dataclass(frozen=True)
class _StoredTextReader:
    """Reads rows that were stored as text, with their original positions."""

    reader: Reparsable
    rows: dict[str, tuple[tuple[int, str], ...]]

    def read(self, source_split: SourceSplit, schema: Schema) -> ReadResult:
        kept = self.rows[source_split.source_object.uri]
        reading = self.reader.parse([text for _, text in kept], schema)
        old = pa.array([position for position, _ in kept], pa.int64())
        return ReadResult(_restore_positions(reading.rows, old), _restore_positions(reading.rejected, old))


def _restore_positions(rows: pa.Table, old: pa.Array) -> pa.Table:
    """Replace positions in a list of rows with their original positions in the file."""
    at = rows.schema.get_field_index(POSITION)
    where = pc.subtract(rows.column(POSITION), 1)
    return rows.set_column(at, POSITION, old.take(where.combine_chunks()))
