"""Estimates of the computation of a table (splits, memory and rows), and a trial that measures it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from pipeline.batch.exchange import buckets_for
from pipeline.batch.execute import execute
from pipeline.batch.executor import Executor, executor_of, splits_of
from pipeline.batch.retries import OnStage
from pipeline.batch.step import StepSpec
from pipeline.batch.work import Outcome
from pipeline.commit.commit_plan import CommitPlan, StagedRows, definition_to_validate, plan_commit
from pipeline.core.definitions import StoredDefinition
from pipeline.kernel.engine import connect
from pipeline.kernel.scan import register
from pipeline.kernel.sql import statement_of
from pipeline.project.workspace import Workspace
from pipeline.runner.handlers import handler_of


@dataclass(frozen=True)
class Estimate:
    """The estimate for computing a table from all of its inputs; `rows_out` is DuckDB's estimate, if it has one."""

    rows_in: int
    rows_out: int | None
    bytes_in: int
    files: int
    """The number of files to open, out of `files_in_all`."""
    files_in_all: int
    splits: int
    at_once: int
    task_bytes: int
    """The memory limit of one task; the limit of all tasks is `memory_bytes`."""
    memory_bytes: int
    buckets: int = 0


def full_spec(workspace: Workspace, definition: StoredDefinition) -> StepSpec:
    """Return the step that computes a table from all of its inputs, as with `--full`, under a separate run name."""
    spec = handler_of(definition).spec(workspace, definition)
    if spec is None:
        raise TypeError(type(definition).__name__)
    return spec


def estimate(workspace: Workspace, spec: StepSpec) -> Estimate:
    """Return the estimate for a step; only the log and the files' metadata are read."""
    executor = executor_of(spec, workspace.settings)
    splits, buckets = _splits(spec, executor)
    tasks = max(splits, buckets)
    limits = executor.whole(spec.size_bytes) if tasks == 1 else executor.part(tasks)
    versions = [workspace.require(name) for name in spec.scans]
    return Estimate(
        rows_in=spec.execution_plan.rows,
        rows_out=_estimated_rows(workspace, spec),
        bytes_in=spec.execution_plan.size_bytes,
        files=len(spec.source_splits) + sum(len(scan.files) for scan in spec.scans.values()),
        files_in_all=len(spec.source_splits) + sum(len(version.files) for version in versions),
        splits=splits,
        at_once=min(tasks, executor.slots),
        task_bytes=limits.memory_bytes or executor.memory_bytes,
        memory_bytes=executor.memory_bytes,
        buckets=buckets,
    )


def trial(workspace: Workspace, spec: StepSpec, on_stage: OnStage = lambda _, __: None) -> tuple[Outcome, CommitPlan]:
    """Compute a table, merge its rows if it is merged, and remove the staged files; nothing is committed.

    Raises the errors of a run.
    """
    definition = spec.definition
    table = workspace.table(definition.name).storage
    quarantined = workspace.lake.quarantine(definition.name).storage
    before, before_aside = table.folders(), quarantined.folders()
    outcome = execute(
        replace(spec, definition=definition_to_validate(definition)), workspace.lake, workspace.settings, on_stage
    )
    commit = plan_commit(workspace, StagedRows(definition, outcome, spec.run_id, None))
    table.remove([file.path for file in (*commit.files, *commit.tombstones)])
    table.prune(before)
    quarantined.remove([file.path for file in commit.quarantined])
    quarantined.prune(before_aside)
    return outcome, commit


def _splits(spec: StepSpec, executor: Executor) -> tuple[int, int]:
    """Return the number of splits, and of buckets if there is an exchange."""
    if spec.is_dataset:
        return 1, 0
    if spec.execution_plan.exchange is None:
        return len(splits_of(spec, executor)), 0
    cut = (spec.scans[name].size_bytes for name in spec.execution_plan.exchange.keys)
    return len(splits_of(spec, executor)), buckets_for(sum(cut), executor)


def _estimated_rows(workspace: Workspace, spec: StepSpec) -> int | None:
    """Return DuckDB's estimate of the rows of a statement, from the statistics in the files."""
    transform = statement_of(spec.definition)
    if transform is None or spec.feed is not None:
        return None
    with connect(filesystem=workspace.lake.storage.filesystem()) as con:
        try:
            register(con, spec.scans)
            plan = json.loads(con.execute(f"explain (format json) {transform.sql}").fetchall()[0][1])
        except duckdb.Error:  # a run reports the error
            return None
    guesses = (node.get("extra_info", {}).get("Estimated Cardinality") for node in _walk(plan[0]))
    return next((int(guess) for guess in guesses if guess is not None), None)


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("children", ()):
        yield from _walk(child)
