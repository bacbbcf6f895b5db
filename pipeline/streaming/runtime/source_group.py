"""The source tasks of a stream: each reads some of the partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from pipeline.core.sources import ReadyOffsets
from pipeline.kernel.scan import Scan
from pipeline.streaming.runtime.source_task import SourceBatch, SourceRequest, SourceTask, SourceTaskConfig
from pipeline.streaming.runtime.workers import WorkerHandle, results

StartSourceTask = Callable[[Callable[[], SourceTask], str], WorkerHandle[SourceTask]]


class SourceGroup:
    """The source tasks of a stream, and the assignment of partitions to them."""

    def __init__(
        self,
        config: SourceTaskConfig,
        offsets: Mapping[str, Mapping[str, int]],
        *,
        tasks: int,
        start: StartSourceTask,
    ) -> None:
        """Start at most `tasks` tasks, which share the partitions. `offsets` are by input and partition."""
        partitions = [(name, uri) for name, partition_offsets in offsets.items() for uri in sorted(partition_offsets)]
        count = max(1, min(tasks, len(partitions)))
        self._task_of = {partition: number % count for number, partition in enumerate(partitions)}
        self.tasks: list[WorkerHandle[SourceTask]] = []
        for number in range(count):
            share = {
                name: mine
                for name, partition_offsets in offsets.items()
                if (mine := {uri: o for uri, o in partition_offsets.items() if self._task_of[name, uri] == number})
            }
            self.tasks.append(start(partial(SourceTask, config, share), f"headwater-read-{number}"))

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
        results([task.submit(SourceTask.update_lookups, scans) for task in self.tasks])
