"""The executors of a step's tasks: threads of this process, or a Ray cluster; and the splits of its input."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from pipeline.batch.demand import ALL_AT_ONCE, ClusterRequest
from pipeline.batch.local_executor import run_local
from pipeline.batch.planning import EXPANSION
from pipeline.batch.ray_cluster import free_nodes, possible_nodes
from pipeline.batch.retries import OnProgress, Repeats, SplitTask
from pipeline.batch.splits import (
    LEAST_TASK_BYTES,
    LEAST_TASK_BYTES_HERE,
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
from pipeline.core.execution import NodeResources
from pipeline.core.settings import Settings
from pipeline.kernel.budget import LEAST_BYTES, Budget, budget_here
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan

CPU_BYTES = 16 << 20
"""The input per core of a task that runs alone on a cluster: with less, more cores do not make it faster."""


@dataclass(frozen=True)
class StepLimits:
    """The limits of a step."""

    memory_bytes: int | None = None
    """The memory that it may use in this process; by default, that of the settings."""
    deadline: float | None = None
    """When it should end, in seconds since 1970. On a cluster, it asks for the cores that it needs for that."""


NO_LIMITS = StepLimits()


class Executor(Protocol):
    """Runs tasks with the resources of this process or of a cluster."""

    @property
    def slots(self) -> int:
        """The number of tasks with one thread each that run concurrently."""

    @property
    def memory_bytes(self) -> int:
        """The memory of all concurrent tasks together."""

    @property
    def is_one_machine(self) -> bool:
        """Whether a task that runs alone can use all slots."""

    @property
    def least_bytes(self) -> int:
        """The minimum input of a task."""

    def part(self, tasks: int) -> Limits:
        """Return the limits of each of several concurrent tasks, which have one thread each."""

    def whole(self, size_bytes: int) -> Limits:
        """Return the limits of a task with this input that runs alone."""

    def within(self, share: float) -> Executor:
        """Return the executor of a stage that may take this share of the time until the deadline."""

    def run(self, tasks: Sequence[SplitTask], limits: Limits, on_progress: OnProgress) -> Iterator[tuple[Split, Any]]:
        """Run tasks concurrently, each with these limits, and yield each split with its result as it finishes."""


@dataclass(frozen=True)
class LocalExecutor:
    """Runs tasks in this process; DuckDB works out of core if its input does not fit in memory."""

    budget: Budget
    is_one_machine = True
    least_bytes = LEAST_TASK_BYTES_HERE

    @property
    def slots(self) -> int:
        """See `Executor`."""
        return self.budget.slots

    @property
    def memory_bytes(self) -> int:
        """See `Executor`."""
        return self.budget.memory_bytes

    def part(self, tasks: int) -> Limits:
        """See `Executor`."""
        return self.budget.part(tasks)

    def whole(self, size_bytes: int) -> Limits:
        """See `Executor`; a single task gets the entire budget."""
        del size_bytes
        return self.budget.whole()

    def within(self, share: float) -> LocalExecutor:
        """See `Executor`; it uses all of its slots in any case."""
        del share
        return self

    def run(self, tasks: Sequence[SplitTask], limits: Limits, on_progress: OnProgress) -> Iterator[tuple[Split, Any]]:
        """See `Executor`."""
        del limits  # the tasks themselves apply them
        return run_local(tasks, self.slots, on_progress)


@dataclass(frozen=True)
class RayExecutor:
    """Runs tasks on the nodes of a cluster."""

    name: str
    """The project and the table, shown in the Ray dashboard."""
    nodes: tuple[NodeResources, ...]
    """The nodes that the cluster has, or can have."""
    free: tuple[NodeResources, ...] | None = None
    """What other work leaves free on the nodes; `None` if the cluster can add nodes."""
    request: ClusterRequest = ALL_AT_ONCE
    task_memory_bytes: int | None = None
    """The memory of a task with one core; by default, its share of the node."""
    repeats: Repeats = field(default_factory=Repeats)

    @property
    def slots(self) -> int:
        """See `Executor`."""
        cores = sum(node.cpus for node in self.nodes)
        return cores if self.request.max_cpus is None else min(cores, self.request.max_cpus)

    @property
    def memory_bytes(self) -> int:
        """See `Executor`."""
        return sum(node.memory_bytes for node in self.nodes)

    @property
    def least_bytes(self) -> int:
        """See `Executor`."""
        return LEAST_TASK_BYTES

    @property
    def is_one_machine(self) -> bool:
        """See `Executor`."""
        return len(self.nodes) == 1

    def part(self, tasks: int) -> Limits:
        """See `Executor`; the memory is the same on every node."""
        del tasks
        share = min(node.memory_bytes // node.cpus for node in self.nodes)
        return Limits(max(LEAST_BYTES, self.task_memory_bytes or share), 1)

    def whole(self, size_bytes: int) -> Limits:
        """See `Executor`; a larger input gets more cores of the largest node, and their share of its memory.

        It gets no more than what is free, because work that never ends, such as a stream, may use the rest.
        """
        node = max(self.nodes)
        share = -(-size_bytes * EXPANSION * node.cpus // max(node.memory_bytes, 1))
        cpus = min(node.cpus, self.slots, max(1, -(-size_bytes // CPU_BYTES), share))
        if self.free is not None:
            cpus = min(cpus, max(self.free).cpus if self.free else 1)
        return Limits(max(LEAST_BYTES, node.memory_bytes * cpus // node.cpus), cpus)

    def within(self, share: float) -> RayExecutor:
        """See `Executor`."""
        return replace(self, request=self.request.within(share, time.time()))

    def run(self, tasks: Sequence[SplitTask], limits: Limits, on_progress: OnProgress) -> Iterator[tuple[Split, Any]]:
        """See `Executor`; a task that crashed its workers is not yielded."""
        from pipeline.batch.ray_tasks import run_tasks  # noqa: PLC0415 - importing Ray takes seconds

        done_bytes, every = 0, sum(task.split.size_bytes for task in tasks)
        for split, answer in run_tasks(self.name, tasks, limits, self.request, self.repeats):
            done_bytes += split.size_bytes
            on_progress(done_bytes / max(every, 1))
            yield split, answer


def executor_of(spec: StepSpec, settings: Settings, limits: StepLimits = NO_LIMITS) -> Executor:
    """Return the executor of a step according to its plan."""
    if spec.execution_plan.executor != "ray":
        return LocalExecutor(budget_here(limits.memory_bytes or settings.memory_bytes))
    asked = settings.cluster
    most = sys.maxsize if settings.memory_bytes is None else settings.memory_bytes
    known = tuple(NodeResources(node.cpus, min(node.memory_bytes, most)) for node in possible_nodes(asked))
    request = ClusterRequest(limits.deadline, asked.min_cpus, asked.max_cpus, asked.resources)
    return RayExecutor(
        f"{settings.name}.{spec.definition.name}",
        known,
        free_nodes(asked, len(known)),
        request,
        asked.task_memory_bytes,
    )


def splits_of(spec: StepSpec, executor: Executor, *, whole_files: bool = False) -> tuple[Split, ...]:
    """Divide a step's driving input into splits; with `whole_files`, files of a source are not divided."""
    strategy = spec.execution_plan.strategy
    is_alone = strategy == "gather" or (strategy == "partial" and executor.is_one_machine and not spec.source_splits)
    most = MOST_BYTES_PARTITIONED if spec.definition.partition_by else MOST_BYTES
    slots = Slots(1, sys.maxsize) if is_alone else Slots(executor.slots, most, executor.least_bytes)
    if spec.reader is not None:
        source_splits = (
            spec.shared.source_splits
            if spec.shared is not None and not whole_files
            else divided(spec.reader, spec.source_splits, sys.maxsize if whole_files else SPLIT_BYTES)
        )
        return splits_of_source(source_splits, slots)
    driving = spec.scans.get(spec.execution_plan.driving)
    return (Split(0),) if driving is None else splits_of_scan(driving, slots)


def cut_splits(scan: Scan, executor: Executor) -> tuple[Split, ...]:
    """Divide any input into splits."""
    return splits_of_scan(scan, Slots(executor.slots, least_bytes=executor.least_bytes))


def combined_split(spec: StepSpec, splits: Sequence[Split]) -> Split:
    """Return all splits as a single split."""
    return Split(
        0,
        spec.scans.get(spec.execution_plan.driving),
        tuple(source_split for split in splits for source_split in split.source_splits),
    )
