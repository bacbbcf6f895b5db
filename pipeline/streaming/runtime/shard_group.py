"""The state tasks of a stream, one per shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import pyarrow as pa

from pipeline.core.epochs import BEGINNING, StateFile
from pipeline.streaming.operators.operator import WatermarkAdvance
from pipeline.streaming.operators.snapshots import required_files
from pipeline.streaming.runtime.source_task import SourceBatch
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask, needs_base
from pipeline.streaming.runtime.workers import WorkerHandle, results

StartStateTask = Callable[[Callable[[], StateTask], str], WorkerHandle[StateTask]]


class ShardGroup:
    """The state tasks of a stream. Each row goes to the task of its key's shard."""

    def __init__(self, config: ShardConfig, *, start: StartStateTask, writes_bases: bool) -> None:
        """Start `config.shards` tasks, which restore their state; see `wait`.

        `writes_bases` makes the next snapshot contain all state, because the existing files belong to a different
        number of shards or a different definition.
        """
        self.tasks = [
            start(partial(StateTask, replace(config, number=number)), f"headwater-state-{number}")
            for number in range(config.shards)
        ]
        self._writes_bases = writes_bases

    def wait(self) -> None:
        """Wait until all state is restored; raise the error if that fails."""
        results([task.submit(StateTask.rows) for task in self.tasks])

    def close(self) -> None:
        """Close all tasks."""
        for task in self.tasks:
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
