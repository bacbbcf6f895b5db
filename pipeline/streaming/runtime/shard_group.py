"""The state tasks of a stream, one per shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipeline.core.epochs import BEGINNING, Epoch, StateFile
from pipeline.streaming.operators.operator import WatermarkAdvance
from pipeline.streaming.operators.snapshots import required_files
from pipeline.streaming.runtime.restart_policy import is_loss
from pipeline.streaming.runtime.source_task import SourceBatch
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask, needs_base
from pipeline.streaming.runtime.workers import StartWorker, WorkerHandle, replace_lost, results


class ShardGroup:
    """The state tasks of a stream. Each row goes to the task of its key's shard."""

    def __init__(self, config: ShardConfig, *, start: StartWorker[StateTask], writes_bases: bool) -> None:
        """Start `config.shards` tasks, which restore their state; see `wait`.

        `writes_bases` makes the next snapshot contain all state, because the existing files belong to a different
        number of shards or a different definition.
        """
        self._config = config
        self._start = start
        self.tasks = [self._started(number) for number in range(config.shards)]
        self._writes_bases = writes_bases
        self._more: list[tuple[WorkerHandle[StateTask], Future[int]]] = []
        """Tasks without state, for additional shards."""

    def _started(self, number: int) -> WorkerHandle[StateTask]:
        return self._start(partial(StateTask, replace(self._config, number=number)), f"shard-{number}")

    def restore(self, epoch: Epoch | None, *, writes_bases: bool = False) -> Callable[[], int]:
        """Let all shards return to the state of a commit, in their processes, or to empty state without one.

        The result waits for that, starts shards anew that were lost, and counts them; then call `wait`.
        """
        self._config = replace(self._config, epoch=epoch)
        self._writes_bases = writes_bases or (epoch is not None and epoch.shards != len(self.tasks))
        calls = [task.submit(StateTask.restore, epoch, len(self.tasks)) for task in self.tasks]
        return lambda: len(replace_lost(self.tasks, calls, self._started, is_loss))

    def wait(self) -> None:
        """Wait until all state is restored; raise the error if that fails."""
        for task in self.tasks:
            task.wait_started()
        results([task.submit(StateTask.rows) for task in self.tasks])

    def prepare(self, shards: int) -> bool:
        """Start the tasks that are missing for a number of shards, and return whether they run. Does not wait."""
        while len(self._more) > max(0, shards - len(self.tasks)):
            self._more.pop()[0].close()
        while len(self._more) < shards - len(self.tasks):
            number = len(self.tasks) + len(self._more)
            config = replace(self._config, number=number, shards=shards, epoch=None)
            task = self._start(partial(StateTask, config), f"shard-{number}")
            self._more.append((task, task.submit(StateTask.rows)))
        return all(started.done() for _, started in self._more)

    def rescale(self, shards: int, epoch: Epoch | None) -> None:
        """Distribute the state of a commit over another number of shards, in the running tasks and the prepared ones.

        After an error, `restore` and `wait` complete it.
        """
        surplus = self.tasks[shards:]
        self.tasks = [*self.tasks[:shards], *(task for task, _ in self._more)]
        self._more = []
        self._config = replace(self._config, shards=len(self.tasks))
        end = self.restore(epoch, writes_bases=True)
        for task in surplus:
            task.close()
        end()
        self.wait()

    def close(self) -> None:
        """Close all tasks."""
        for task in (*self.tasks, *(task for task, _ in self._more)):
            task.close()

    def advance(self, batches: Sequence[SourceBatch], progress: WatermarkAdvance) -> list[pa.Table]:
        """Let each shard process the rows of its keys, and return the emitted rows by shard."""
        shares: list[dict[str, list[pa.Table]]] = [{} for _ in self.tasks]
        for batch in batches:
            for share, rows in zip(shares, batch.ready, strict=True):
                share.setdefault(batch.name, []).append(rows)
        return self.process(shares, progress)

    def process(self, shares: Sequence[Mapping[str, Sequence[pa.Table]]], progress: WatermarkAdvance) -> list[pa.Table]:
        """Process rows that are given by shard and input, and return the emitted rows by shard."""
        started = [
            task.submit(StateTask.advance, share, progress) for task, share in zip(self.tasks, shares, strict=True)
        ]
        return results(started)

    def snapshot(self, name: str, before: tuple[StateFile, ...]) -> tuple[StateFile, ...]:
        """Write the changes of each shard since the files in `before`, and return the files that contain all state."""
        started = [
            task.submit(StateTask.snapshot, name, base=self._writes_bases or needs_base(before, number))
            for number, task in enumerate(self.tasks)
        ]
        files = [file for file in results(started) if file is not None]
        if self._writes_bases:
            before, self._writes_bases = (), False
        return required_files((*before, *files))

    def horizon(self) -> int:
        """Return the watermark at which all waiting rows of all shards are emitted; `BEGINNING` if none wait."""
        return max([BEGINNING, *results([task.submit(StateTask.horizon) for task in self.tasks])])

    def tables(self, name: str | None = None) -> dict[str, pa.Table]:
        """Return the state tables of all shards by name, or only the table `name`."""
        by_shard = results([task.submit(StateTask.tables, name) for task in self.tasks])
        return {table: pa.concat_tables([shard[table] for shard in by_shard]) for table in by_shard[0]}
