"""What a change of the definitions does to the tables: which are computed again, their columns, and what it breaks.

Nothing is computed and nothing is written. Columns are those that DuckDB derives from a statement over empty inputs, so
that a column that is missing is found wherever a statement names it, also in a filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import duckdb

from pipeline.commit.column_changes import as_in_lake, reached
from pipeline.commit.commit_plan import schema_of_rows
from pipeline.core.definitions import Definition, Feed, Source, StoredDefinition, Table
from pipeline.core.errors import DefinitionError, SourceError
from pipeline.core.partition_fields import fields_of
from pipeline.core.schema import Column, Schema, SchemaChange, compare
from pipeline.core.sources import INGESTED_AT, POSITION, SOURCE
from pipeline.kernel.engine import connect, first_line, schema_of
from pipeline.kernel.option_expressions import column_expressions, condition_expressions, require_fitting
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql import SqlTransform
from pipeline.kernel.types import stored
from pipeline.lake import Version
from pipeline.project.contracts import own_columns, with_declared
from pipeline.project.forgotten import forgotten_tables
from pipeline.project.workspace import Workspace
from pipeline.runner.context import PlannedStep
from pipeline.runner.decide import RunOptions
from pipeline.runner.dry_run import plan_run
from pipeline.runner.facts import is_computed_by
from pipeline.runner.layout_changes import layout_change
from pipeline.warehouse.modelling.dimension import DimensionTransform

Cause = Literal["added", "changed", "affected", "layout", "new data", "unreadable", "failed", "removed"]
"""Why a table changes: its definition is new or differs, that of an input differs, only its files are divided or ordered
otherwise, or there is only new data; or its source cannot be read, or what a run does with it cannot be determined otherwise."""
_NO_CAUSE: frozenset[Cause] = frozenset({"new data", "layout", "unreadable", "failed"})
"""The causes that do not affect the tables that read it."""
_NO_CHANGE = SchemaChange((), (), ())
_ORIGIN = Schema((Column(SOURCE, "VARCHAR"), Column(POSITION, "BIGINT"), Column(INGESTED_AT, "TIMESTAMPTZ")))


@dataclass(frozen=True)
class StepEstimate:
    """What a step reads, and how long it takes."""

    rows: int = 0
    """The rows of stored inputs, as far as they are known."""
    size_bytes: int = 0
    """The bytes of stored inputs and of the source, as far as they are known."""
    is_all: bool = True
    """Whether this is all that it reads; otherwise a run also reads rows that it computes first."""
    seconds: float | None = 0.0
    """An estimate from the last time; `None` if the table was never computed."""


@dataclass(frozen=True)
class PlannedChange:
    """What happens to one table."""

    name: str
    kind: str
    cause: Cause
    decision: str
    """What a run does with it; empty for a removed definition."""
    reason: str
    columns: SchemaChange = _NO_CHANGE
    used_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each removed and each retyped column: the definitions whose results depend on it, upstream first."""
    error: str = ""
    """Why the table cannot be computed from the planned columns of its inputs."""
    work: StepEstimate = StepEstimate()


def plan_changes(workspace: Workspace) -> tuple[PlannedChange, ...]:
    """Return what changes, in the order of computation, with removed definitions at the end.

    Raises the errors of reading the catalog and the lake.
    """
    steps = {step.definition.name: step for step in plan_run(workspace, RunOptions())}
    columns = _Columns(workspace)
    found: dict[str, PlannedChange] = {}
    for definition in workspace.project.graph.definitions:
        version = workspace.version(definition.name) if isinstance(definition, StoredDefinition) else None
        after, error = columns.of(definition, version)
        if not isinstance(definition, Source | Table):
            continue
        step = steps[definition.name]
        steps_above = {name for name in found if steps[name].decision.kind.is_work}
        cause = _cause(workspace, definition, version, step, found)
        moved = (
            "" if version is None or cause not in {None, "new data"} else layout_change(workspace, definition, version)
        )
        cause = "layout" if moved else cause
        if cause is None and not error:
            continue
        change = (
            _NO_CHANGE if version is None or after is None else compare(as_in_lake(version.schema), as_in_lake(after))
        )
        gone = (*change.removed, *(name for name, _, _ in change.retyped))
        found[definition.name] = PlannedChange(
            name=definition.name,
            kind=definition.kind,
            cause=cause or "affected",
            decision=str(step.decision.kind),
            reason="; ".join(filter(None, (moved, step.decision.reason))),
            columns=change,
            used_by={name: reached(workspace.project.graph, definition.name, name) for name in gone},
            error=step.decision.reason if step.error is not None else error,
            work=_work(workspace, definition, step, is_all=steps_above.isdisjoint(definition.inputs)),
        )
    removed = (
        PlannedChange(each.name, "table", "removed", "", f"its rows stay until: headwater lake forget {each.name}")
        for each in forgotten_tables(workspace)
        if each.layer != "quarantine"
    )
    return (*found.values(), *{change.name: change for change in removed}.values())


def _cause(
    workspace: Workspace,
    definition: Source | Table,
    version: Version | None,
    step: PlannedStep,
    found: Mapping[str, PlannedChange],
) -> Cause | None:
    if step.error is not None:
        return "unreadable" if isinstance(step.error, SourceError) else "failed"
    if version is None:
        return "added"
    manifest = version.manifest
    if manifest is None or not is_computed_by(workspace, definition, version, manifest.fingerprint):
        return "changed"
    above = [found[name].cause for name in definition.inputs if name in found]
    if any(cause not in _NO_CAUSE for cause in above):
        return "affected"
    return "new data" if step.decision.kind.is_work else None


def _work(workspace: Workspace, definition: Source | Table, step: PlannedStep, *, is_all: bool) -> StepEstimate:
    decision = step.decision
    if not decision.kind.is_work:
        return StepEstimate()
    files = decision.added
    if decision.takes_all:
        versions = (
            workspace.version(name, lenient=True) for name in definition.inputs if name in workspace.table_names
        )
        files = tuple(file for version in versions if version is not None for file in version.files)
    rows = sum(file.rows for file in files)
    size = sum(file.size_bytes for file in files) + sum(split.size_bytes for split in decision.source_splits)
    last = workspace.catalog.last_step(definition.name)
    if last is None:
        return StepEstimate(rows, size, is_all, None)
    before = last.flow.bytes_in
    return StepEstimate(rows, size, is_all, last.seconds * (size / before if before and size else 1.0))


def _misfit(con: duckdb.DuckDBPyConnection, definition: Source | Table, rows: Schema) -> str:
    """Return which option of a table does not fit its rows, or an empty text."""
    expressions = (
        *column_expressions("key", definition.key),
        *column_expressions("partition_by", (field.column for field in fields_of(definition.partition_by))),
        *condition_expressions(definition.expect, definition.merge),
    )
    try:
        require_fitting(con, rows, expressions)
    except DefinitionError as error:
        return str(error)
    return ""


class _Columns:
    """The columns of all tables after the change, upstream first."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._known: dict[str, Schema | None] = {}

    def of(self, definition: Definition, version: Version | None) -> tuple[Schema | None, str]:
        """Return the columns of a definition, `None` if they are not known, and why they cannot be derived."""
        after, error = self._derived(definition, version)
        self._known[definition.name] = after
        return after, error

    def _derived(self, definition: Definition, version: Version | None) -> tuple[Schema | None, str]:
        if isinstance(definition, Source | Feed):
            after = self._of_source(definition, version)
            if after is None or isinstance(definition, Feed):
                return after, ""
            with connect() as con:
                return after, _misfit(con, definition, after)
        if not isinstance(definition, Table):
            return None, ""
        inputs = {name: self._known.get(name) for name in definition.inputs}
        known = {name: schema for name, schema in inputs.items() if schema is not None}
        transform = definition.transform
        if len(known) < len(inputs) or not isinstance(transform, SqlTransform):
            return (None if version is None else version.schema), ""
        if isinstance(transform, DimensionTransform):
            transform = transform.first()
        with connect() as con:
            try:
                register(con, {name: Scan(schema) for name, schema in known.items()})
                tree = transform.tree_over({name: schema.names for name, schema in known.items()})
                text = tree.sql("duckdb", comments=False)
                rows = stored(schema_of(con, text))
            except duckdb.Error as error:
                return None, first_line(error)
            misfit = _misfit(con, definition, rows)
        return (None if misfit else schema_of_rows(definition, rows)), misfit

    def _of_source(self, definition: Source | Feed, version: Version | None) -> Schema | None:
        declared = definition.schema
        if declared is None or not declared.columns:
            return None if version is None else version.schema
        if isinstance(definition, Source) and version is not None:
            declared = with_declared(definition, own_columns(version.schema).inferred())
        return stored(Schema((*declared.columns, *_ORIGIN.columns)))
