"""The source tasks of a stream: each reads some of the partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pipeline.core.sources import ReadyOffsets
from pipeline.kernel.scan import Scan
from pipeline.streaming.runtime.restart_policy import is_loss
from pipeline.streaming.runtime.source_task import SourceBatch, SourceRequest, SourceTask, SourceTaskConfig
from pipeline.streaming.runtime.workers import StartWorker, WorkerHandle, replace_lost, results


class SourceGroup:
    """The source tasks of a stream, and the assignment of partitions to them."""

    def __init__(
        self,
        config: SourceTaskConfig,
        offsets: Mapping[str, Mapping[str, int]],
        *,
        tasks: int,
        start: StartWorker[SourceTask],
    ) -> None:
        """Start at most `tasks` tasks, which share the partitions. `offsets` are by input and partition."""
        self._config = config
        self._start = start
        count = max(1, min(tasks, sum(map(len, offsets.values()))))
        self._task_of = assigned(offsets, count)
        self.tasks = [self._started(number, offsets) for number in range(count)]

    def _started(self, number: int, offsets: Mapping[str, Mapping[str, int]]) -> WorkerHandle[SourceTask]:
        return self._start(partial(SourceTask, self._config, self._share(number, offsets)), f"source-{number}")

    def _share(self, number: int, offsets: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
        """Return the offsets of the partitions of a task, by input; only inputs of which it has partitions."""
        return {
            name: mine
            for name, partition_offsets in offsets.items()
            if (mine := {uri: o for uri, o in partition_offsets.items() if self._task_of[name, uri] == number})
        }

    def read_from(self, offsets: Mapping[str, Mapping[str, int]]) -> Callable[[], int]:
        """Let all tasks read from other offsets. The result waits for that, starts tasks anew that were lost, and counts them."""
        self._task_of = assigned(offsets, len(self.tasks))
        calls = [
            task.submit(SourceTask.read_from, self._share(number, offsets)) for number, task in enumerate(self.tasks)
        ]
        return lambda: len(replace_lost(self.tasks, calls, lambda number: self._started(number, offsets), is_loss))

    def wait(self) -> None:
        """Wait until all tasks have a place; raise `UnavailableError` if there is none for one of them."""
        for task in self.tasks:
            task.wait_started()

    def close(self) -> None:
        """Close all tasks."""
        for task in self.tasks:
            task.close()

    def ready(self, timeout_s: float) -> list[dict[str, ReadyOffsets]]:
        """Return the ready offsets of each task by input; a task without ready records waits for some."""
        return results([task.submit(SourceTask.ready, timeout_s) for task in self.tasks])

    def take(self, requests: Sequence[SourceRequest]) -> list[SourceBatch]:
        """Let all tasks read the requested splits concurrently."""
        started = [
            task.submit(SourceTask.take, request)
            for task, request in zip(self.tasks, requests, strict=True)
            if any(request.source_splits.values())
        ]
        return [batch for batches in results(started) for batch in batches]

    def has(self, name: str, uri: str) -> bool:
        """Return whether a partition of an input is assigned."""
        return (name, uri) in self._task_of

    def add(self, name: str, offsets: Mapping[str, int]) -> None:
        """Assign additional partitions of an input."""
        for uri, offset in sorted(offsets.items()):
            number = len(self._task_of) % len(self.tasks)
            self.tasks[number].submit(SourceTask.add, {name: {uri: offset}}).result()
            self._task_of[name, uri] = number

    def update_lookups(self, scans: Mapping[str, Scan]) -> None:
        """Use other versions of the looked-up tables."""
        self._config = replace(self._config, lookups={**self._config.lookups, **scans})
        results([task.submit(SourceTask.update_lookups, scans) for task in self.tasks])


def assigned(offsets: Mapping[str, Mapping[str, int]], tasks: int) -> dict[tuple[str, str], int]:
    """Return the number of the task that reads each partition, by input and partition; tasks have equally many."""
    partitions = [(name, uri) for name, partition_offsets in offsets.items() for uri in sorted(partition_offsets)]
    return {partition: number % tasks for number, partition in enumerate(partitions)}
