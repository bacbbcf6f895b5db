"""Execution of a step: tasks on the splits of its input, local or on Ray, with one combined outcome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pipeline.batch.exchange import run_exchange
from pipeline.batch.executor import combined_split, executor_of, splits_of
from pipeline.batch.job import StepExecution
from pipeline.batch.partial_aggregation import run_partial
from pipeline.batch.planning import exchanged
from pipeline.batch.retries import OnProgress
from pipeline.batch.row_producers import ArrowProducer
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
    on_progress: OnProgress = lambda _: None,
    memory_bytes: int | None = None,
) -> Outcome:
    """Execute a step and return the staged files; nothing is committed.

    `on_progress` receives the completed fraction. `memory_bytes` is the memory that the step may use in this process; the
    default is that of the settings.
    """
    work = task_spec_of(spec, lake, settings, memory_bytes=memory_bytes)
    job = StepExecution(spec, work, executor_of(spec, settings, memory_bytes), on_progress)
    if spec.is_dataset:
        return _dataset(job)
    if spec.execution_plan.exchange is not None:
        return run_exchange(job, spec.execution_plan.exchange, lake)
    try:
        return _in_splits(job, splits_of(spec, job.executor), lake)
    except SplitError:  # a file cannot be divided because of its quoting: read all files completely
        return _in_splits(job, splits_of(spec, job.executor, whole_files=True), lake)


def _in_splits(job: StepExecution, splits: Sequence[Split], lake: Lake) -> Outcome:
    if len(splits) == 1:
        return job.run_alone(splits[0])
    if job.spec.execution_plan.strategy != "partial":
        return job.run_all(splits)
    outcome = run_partial(job, splits)
    if outcome is not None:
        return outcome
    chosen = None if job.spec.feed is not None else exchanged(job.spec.definition, job.spec.scans)
    if isinstance(chosen, Exchange) and not job.executor.is_one_machine and not chosen.merges:
        return run_exchange(job, chosen, lake)
    return job.run_alone(combined_split(job.spec, splits))


def _dataset(job: StepExecution) -> Outcome:
    from pipeline.batch.ray_datasets import dataset_rows  # noqa: PLC0415 - importing Ray takes seconds

    spec = job.spec
    transform = cast("FunctionTransform", cast("Table", spec.definition).transform)
    readers = dataset_rows(transform.function, {name: spec.scans[name] for name in transform.inputs})
    for reader in readers:
        return job.run_here(Split(0), ArrowProducer(reader, spec.execution_plan.rows, spec.execution_plan.size_bytes))
    raise AssertionError("dataset_rows yields exactly one reader")
