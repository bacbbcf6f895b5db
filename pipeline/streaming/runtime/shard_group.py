"""The state tasks of a stream, one for each shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipeline.core.epochs import BEGINNING, StateFile
from pipeline.streaming.operators.operator import Progress
from pipeline.streaming.operators.snapshots import required_files
from pipeline.streaming.runtime.source_task import SourceBatch
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask, needs_base
from pipeline.streaming.runtime.workers import WorkerHandle, results

StartStateTask = Callable[[Callable[[], StateTask], str], WorkerHandle[StateTask]]


class ShardGroup:
    """State tasks. Every row goes to the task of its key's shard."""

    def __init__(self, config: ShardConfig, *, start: StartStateTask, writes_bases: bool) -> None:
        """Start `config.shards` tasks; raise what restoring their state raises.

        `writes_bases` says that the next snapshot holds all state: files of before belong to another number of shards or
        another definition.
        """
        self.tasks = [
            start(partial(StateTask, replace(config, number=number)), f"headwater-state-{number}")
            for number in range(config.shards)
        ]
        self._writes_bases = writes_bases

    def wait(self) -> None:
        """Wait until all state is restored; a state that cannot be is reported now, not when rows come."""
        results([task.submit(StateTask.rows) for task in self.tasks])

    def close(self) -> None:
        """Close all tasks."""
        for task in self.tasks:
            task.close()

    def advance(self, batches: Sequence[SourceBatch], progress: Progress) -> list[pa.Table]:
        """Let each shard process the rows of its keys and return the rows that come out, by shard."""
        shares: list[dict[str, list[pa.Table]]] = [{} for _ in self.tasks]
        for batch in batches:
            for share, rows in zip(shares, batch.ready, strict=True):
                share.setdefault(batch.name, []).append(rows)
        return self.process(shares, progress)

    def process(self, shares: Sequence[Mapping[str, Sequence[pa.Table]]], progress: Progress) -> list[pa.Table]:
        """Do the same for rows that are given by shard and input."""
        started = [
            task.submit(StateTask.advance, share, progress) for task, share in zip(self.tasks, shares, strict=True)
        ]
        return results(started)

    def snapshot(self, name: str, before: tuple[StateFile, ...]) -> tuple[StateFile, ...]:
        """Write what changed in each shard since the files of `before`, and return the files that hold all state now."""
        started = [
            task.submit(StateTask.snapshot, name, base=self._writes_bases or needs_base(before, number))
            for number, task in enumerate(self.tasks)
        ]
        files = [file for file in results(started) if file is not None]
        if self._writes_bases:
            before, self._writes_bases = (), False
        return required_files((*before, *files))

    def horizon(self) -> int:
        """Return the watermark at which no shard holds a row back; `BEGINNING` when none waits for one."""
        return max([BEGINNING, *results([task.submit(StateTask.horizon) for task in self.tasks])])

    def tables(self, name: str | None = None) -> dict[str, pa.Table]:
        """Return the state tables of all shards, or one of them, by name."""
        by_shard = results([task.submit(StateTask.tables, name) for task in self.tasks])
        return {table: pa.concat_tables([shard[table] for shard in by_shard]) for table in by_shard[0]}
