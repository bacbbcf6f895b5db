"""The executor of a step's tasks, local threads or a Ray cluster, and the splits of its input."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.batch.local_executor import run_local
from pipeline.batch.splits import (
    MOST_BYTES,
    MOST_BYTES_PARTITIONED,
    SPLIT_BYTES,
    Slots,
    divided,
    splits_of_scan,
    splits_of_source,
)
from pipeline.batch.step import StepSpec
from pipeline.batch.work import Split
from pipeline.core.settings import Settings
from pipeline.kernel.budget import Budget, budget_here
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan

OnProgress = Callable[[float], None]


@dataclass(frozen=True)
class Executor:
    """An executor and its resources."""

    name: str
    """The name of the table, shown in the Ray dashboard."""
    budget: Budget
    here: Budget
    """The budget of this process, even if tasks run on a cluster."""
    on_ray: bool

    def limits(self, tasks: int) -> Limits:
        """Return the limits of each of this many tasks; a single local task gets the entire budget."""
        return self.budget.whole() if tasks == 1 and not self.on_ray else self.budget.part(tasks)

    def run(
        self, task: Callable[..., Any], splits: Sequence[Split], on_progress: OnProgress
    ) -> Iterator[tuple[Split, Any]]:
        """Run a task for every split concurrently, and yield each split with its result as it finishes."""
        if not self.on_ray:
            yield from run_local(task, splits, self.budget.slots, on_progress)
            return
        from pipeline.batch.ray_executor import run_tasks  # noqa: PLC0415 - importing Ray takes seconds

        done_bytes, every = 0, sum(split.size_bytes for split in splits)
        for split, answer in run_tasks(self.name, task, splits):
            done_bytes += split.size_bytes
            on_progress(done_bytes / max(every, 1))
            yield split, answer


def executor_of(spec: StepSpec, settings: Settings, *, starts: bool = True) -> Executor:
    """Return the executor of a step according to its plan, with its budget.

    With `starts=False`, no local cluster is started; the budget of this machine is returned instead.
    """
    here, name = budget_here(settings.memory_bytes), spec.definition.name
    on_ray = spec.execution_plan.executor == "ray" and spec.execution_plan.strategy != "gather" and not spec.is_dataset
    if not on_ray or not (starts or settings.ray_address):
        return Executor(name, here, here, on_ray)
    from pipeline.batch.ray_executor import cluster_budget  # noqa: PLC0415 - importing Ray takes seconds

    there = cluster_budget()
    if settings.memory_bytes is not None:
        there = replace(there, memory_bytes=settings.memory_bytes)
    return Executor(name, there, here, on_ray)


def splits_of(spec: StepSpec, executor: Executor, *, whole_files: bool = False) -> tuple[Split, ...]:
    """Divide a step's driving input into splits; with `whole_files`, files of a source are not divided."""
    strategy = spec.execution_plan.strategy
    alone = strategy == "gather" or (strategy == "partial" and not executor.on_ray and not spec.source_splits)
    most = MOST_BYTES_PARTITIONED if spec.definition.partition_by else MOST_BYTES
    slots = Slots(1, sys.maxsize) if alone else Slots(executor.budget.slots, most)
    if spec.reader is not None:
        return splits_of_source(
            divided(spec.reader, spec.source_splits, sys.maxsize if whole_files else SPLIT_BYTES), slots
        )
    driving = spec.scans.get(spec.execution_plan.driving)
    return (Split(0),) if driving is None else splits_of_scan(driving, slots)


def cut_splits(scan: Scan, executor: Executor) -> tuple[Split, ...]:
    """Divide any input into splits."""
    return splits_of_scan(scan, Slots(executor.budget.slots))


def combined_split(spec: StepSpec, splits: Sequence[Split]) -> Split:
    """Return all splits as a single split."""
    return Split(
        0,
        spec.scans.get(spec.execution_plan.driving),
        tuple(source_split for split in splits for source_split in split.source_splits),
    )
