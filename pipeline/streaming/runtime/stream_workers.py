"""The workers of a stream: its source tasks and state tasks, as threads of this process or as actors of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pipeline.core.epochs import Epoch
from pipeline.core.processes import cores
from pipeline.kernel.budget import budget_here
from pipeline.kernel.scan import Scan
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.opening import Opening
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.shard_group import ShardGroup
from pipeline.streaming.runtime.source_group import SourceGroup
from pipeline.streaming.runtime.source_task import SourceTaskConfig
from pipeline.streaming.runtime.state_rebuild import RebuildSource, rebuild
from pipeline.streaming.runtime.state_task import ShardConfig
from pipeline.streaming.runtime.workers import StartWorker, ThreadWorker


@dataclass(frozen=True)
class StreamWorkers:
    """The running workers of a stream."""

    sources: SourceGroup
    shards: ShardGroup | None
    """`None` for a stream without state."""

    def close(self) -> None:
        """Close all workers."""
        if self.shards is not None:
            self.shards.close()
        self.sources.close()

    def return_to(
        self, offsets: Mapping[str, Mapping[str, int]], epoch: Epoch | None, *, writes_bases: bool = False
    ) -> int:
        """Let all workers return to a commit, or to the start without one; return how many were lost and started anew.

        Workers that are not lost keep their processes. Raises an error of Ray if a new worker is lost as well.
        """
        ends = [self.sources.read_from(offsets)]
        if self.shards is not None:
            ends.append(self.shards.restore(epoch, writes_bases=writes_bases))
        lost = sum(end() for end in ends)
        self.wait()
        return lost

    def wait(self) -> None:
        """Wait until all workers have a place and all state is restored; raise the error if that fails."""
        self.sources.wait()
        if self.shards is not None:
            self.shards.wait()


def start_workers(
    workspace: Workspace, plan: StreamPlan, options: StreamOptions, opened: Opening, lookups: Mapping[str, Version]
) -> StreamWorkers:
    """Start the source tasks and a state task per shard, and wait until they have their state."""
    start = _starter(workspace, plan)
    limits = replace(budget_here(workspace.settings.memory_bytes).part(2 * cores()), threads=1)
    config = SourceTaskConfig(
        inputs=plan.inputs,
        lookups=_scans(lookups),
        limits=limits,
        filesystem=workspace.lake.storage.filesystem(),
        has_state=plan.operator is not None,
        function=plan.function,
        place=plan.definition.place,
    )
    offsets = {name: known.offsets for name, known in opened.progress.inputs.items()}
    sources = SourceGroup(config, offsets, tasks=options.source_tasks or cores(), start=start)
    is_rebuilt = opened.epoch is not None and options.state == "rebuild"
    shards = None
    if plan.operator is not None:
        shard = ShardConfig(
            operator=plan.operator,
            samples=plan.samples({name: version.schema for name, version in lookups.items()}),
            number=0,
            shards=opened.shards,
            storage=workspace.table(plan.name).storage,
            limits=limits,
            epoch=None if is_rebuilt else opened.epoch,
        )
        shards = ShardGroup(shard, start=start, writes_bases=opened.writes_bases)
    workers = StreamWorkers(sources, shards)
    try:
        workers.wait()
        if is_rebuilt and shards is not None and opened.epoch is not None:
            rebuild(workspace, plan, RebuildSource(opened.epoch, opened.extents, options.accept_gaps), shards)
    except BaseException:
        workers.close()
        raise
    return workers


def _scans(lookups: Mapping[str, Version]) -> dict[str, Scan]:
    return {name: version.scan() for name, version in lookups.items()}


def _starter(workspace: Workspace, plan: StreamPlan) -> StartWorker[Any]:
    """Return how workers are started: as actors of the configured cluster, or as threads."""
    settings = workspace.settings
    if not settings.ray_address or settings.execution == "inline":
        return ThreadWorker
    from pipeline.streaming.runtime.actor_workers import ActorStarter  # noqa: PLC0415 - importing Ray takes seconds

    return ActorStarter(f"{settings.name}.{plan.name}", settings.cluster.stream_worker_cpus)
