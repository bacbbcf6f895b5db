"""Execution of a step: tasks on the splits of its input, local or on Ray, with one combined outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from pipeline.batch.exchange import run_exchange
from pipeline.batch.executor import NO_LIMITS, RayExecutor, StepLimits, combined_split, executor_of, splits_of
from pipeline.batch.job import StepExecution
from pipeline.batch.kept_states import may_keep_states
from pipeline.batch.partial_aggregation import run_partial, run_refresh
from pipeline.batch.planning import exchanged
from pipeline.batch.retries import OnStage
from pipeline.batch.splits import SPLIT_BYTES, Slots, splits_of_scan
from pipeline.batch.step import StepSpec, task_spec_of
from pipeline.batch.work import Outcome, Split
from pipeline.core.definitions import Table
from pipeline.core.errors import SplitError
from pipeline.core.functions import FunctionTransform
from pipeline.core.settings import Settings
from pipeline.kernel.planner.exchange import Exchange
from pipeline.lake import Lake


def execute(
    spec: StepSpec,
    lake: Lake,
    settings: Settings,
    on_stage: OnStage = lambda _, __: None,
    limits: StepLimits = NO_LIMITS,
) -> Outcome:
    """Execute a step and return the staged files; nothing is committed.

    `on_stage` receives the completed fraction and the current stage.
    """
    work = task_spec_of(spec, lake, settings, memory_bytes=limits.memory_bytes)
    job = StepExecution(spec, work, executor_of(spec, settings, limits), on_stage)
    outcome = _executed(job, lake)
    if isinstance(job.executor, RayExecutor) and job.executor.repeats.any:
        lake.table(spec.definition.layer, spec.definition.name).stager(spec.run_id).keep_only(
            {file.path for file in outcome.files}
        )
        lake.quarantine(spec.definition.name).stager(spec.run_id).keep_only({file.path for file in outcome.quarantined})
    return outcome


def _executed(job: StepExecution, lake: Lake) -> Outcome:
    spec = job.spec
    if spec.refresh is not None:
        return run_refresh(job, spec.refresh)
    if spec.is_dataset:
        return _dataset(job, lake)
    if spec.execution_plan.exchange is not None:
        return run_exchange(job, spec.execution_plan.exchange, lake)
    try:
        return _in_splits(job, splits_of(spec, job.executor), lake)
    except SplitError:  # a file cannot be divided because of its quoting: read all files completely
        return _in_splits(job, splits_of(spec, job.executor, whole_files=True), lake)


def _in_splits(job: StepExecution, splits: Sequence[Split], lake: Lake) -> Outcome:
    keep = may_keep_states(job.spec)
    if len(splits) == 1 and not keep:
        return job.run_alone(splits[0])
    if job.spec.execution_plan.strategy != "partial":
        return job.run_all(splits)
    outcome = run_partial(job, splits, keep=keep) if job.spec.states_fit else None
    return replace(_without_states(job, splits, lake), states_fit=False) if outcome is None else outcome


def _without_states(job: StepExecution, splits: Sequence[Split], lake: Lake) -> Outcome:
    """Compute a grouped table with so many groups that their states exceed the limit."""
    chosen = None if job.spec.feed is not None else exchanged(job.spec.definition, job.spec.scans)
    if isinstance(chosen, Exchange) and not job.executor.is_one_machine and not chosen.merges:
        return run_exchange(job, chosen, lake)
    return job.run_alone(combined_split(job.spec, splits))


def _dataset(job: StepExecution, lake: Lake) -> Outcome:
    """Let workers write the blocks of a dataset, and then run the task on them; `rows_in` counts the rows of the inputs."""
    from pipeline.batch.dataset_blocks import BlockProducer, scan_of  # noqa: PLC0415 - importing Ray takes seconds
    from pipeline.batch.ray_datasets import write_dataset  # noqa: PLC0415 - likewise
    from pipeline.batch.scan_datasource import TableRead  # noqa: PLC0415 - likewise

    spec = job.spec
    transform = cast("FunctionTransform", cast("Table", spec.definition).transform)
    place = lake.scratch(spec.run_id, spec.definition.name)
    inputs = {name: TableRead(name, spec.scans[name], filesystem=job.work.filesystem) for name in transform.inputs}
    job.on_stage(0, "compute dataset")
    try:
        written = write_dataset(transform.function, inputs, place)
        work = replace(job.work, producer=BlockProducer(written.schema, place))
        scan = scan_of(written.blocks)
        stage = replace(job, spec=replace(spec, scans={spec.execution_plan.driving: scan}), work=work)
        splits = splits_of_scan(scan, Slots(job.executor.slots, SPLIT_BYTES))
        outcome = _in_splits(stage.in_stage("validate", 0.5, 1), splits, lake)
    finally:
        place.clear()
    execution_plan = spec.execution_plan
    return replace(outcome, flow=replace(outcome.flow, rows_in=execution_plan.rows, bytes_in=execution_plan.size_bytes))
