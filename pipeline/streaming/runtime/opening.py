"""Determines where a stream begins, from its last commit, the extents of its logs, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import duckdb

from pipeline.commit.commit_plan import schema_of_rows
from pipeline.commit.post_commit import update_quarantine
from pipeline.core.epochs import Epoch
from pipeline.core.processes import cores
from pipeline.core.sources import Extent
from pipeline.core.staging import Manifest
from pipeline.lake import TableHead, Version
from pipeline.project.workspace import Workspace
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.runtime.autoscaling import ShardRange
from pipeline.streaming.runtime.options import StreamOptions
from pipeline.streaming.runtime.progress import Extents, StreamProgress
from pipeline.streaming.runtime.start import (
    StartDecision,
    StreamIdentity,
    decide_start,
    first_offsets,
    gaps_in,
    require_same_partitions,
    stamps_of,
)


@dataclass(frozen=True)
class Opening:
    """The initial state of a stream."""

    progress: StreamProgress
    extents: Extents
    epoch: Epoch | None
    """The commit from which it resumes."""
    shards: int
    replaces_table: bool
    """Whether its first commit replaces all rows of the table."""
    writes_bases: bool
    """Whether its first snapshot must contain all state, because the existing files do not fit."""
    has_progress: bool
    """Whether there is something to commit before rows are read: initial offsets, gaps, or different state."""


def open_at(workspace: Workspace, plan: StreamPlan, options: StreamOptions, head: TableHead) -> Opening:
    """Determine where a stream begins, and run post-commit of its last commit, whose writer may have been killed.

    Raises `StorageError` if it cannot resume from that commit, `RequestError` for a start that would lose rows, and
    `SourceError` for partitions that were deleted or recreated.
    """
    starts_over = options.begin != "committed" and (options.anew or isinstance(options.begin, str))
    version = None if head.number is None else workspace.table(plan.name).version(head.number, lenient=starts_over)
    manifest = None if version is None else version.manifest
    start = _decided(plan, options, version, manifest)
    epoch = start.epoch
    if version is not None and manifest is not None and epoch is not None:
        update_quarantine(workspace, plan.definition, manifest, version.manifest_id)
    number = max(head.epoch or 0, 0 if epoch is None else epoch.number)
    progress = StreamProgress.at(epoch, [each.name for each in plan.inputs], number)
    if epoch is not None and manifest is not None:
        progress = replace(progress, gaps=tuple(manifest.gaps))
    known_gaps = progress.gaps
    extents = {each.name: each.log.extents() for each in plan.inputs}
    progress = positioned(progress, plan, options, extents)
    shards = 1 if plan.operator is None else first_shards(options.shards, epoch)
    is_redefined = manifest is not None and manifest.fingerprint != plan.definition.fingerprint
    has_other_state = epoch is not None and plan.operator is not None and options.state != "restore"
    begins_elsewhere = epoch is None and options.begin != "committed"
    return Opening(
        progress=progress,
        extents=extents,
        epoch=epoch,
        shards=shards,
        replaces_table=start.anew,
        writes_bases=epoch is not None and (epoch.shards != shards or is_redefined or options.state == "rebuild"),
        has_progress=has_other_state or begins_elsewhere or progress.gaps != known_gaps,
    )


def first_shards(wanted: int | ShardRange | None, epoch: Epoch | None) -> int:
    """Return the number of shards with which a stream starts: that of its last commit, if it scales itself."""
    if isinstance(wanted, ShardRange):
        return wanted.least if epoch is None else wanted.clamp(epoch.shards)
    return wanted or cores()


def _decided(
    plan: StreamPlan, options: StreamOptions, version: Version | None, manifest: Manifest | None
) -> StartDecision:
    identity = StreamIdentity(
        name=plan.name,
        state=plan.identity,
        engine=duckdb.__version__,
        schema=schema_of_rows(plan.definition, plan.schema),
        table=None if version is None else version.schema,
        place=plan.definition.place,
        may_grow=plan.may_grow,
        first_fingerprint=plan.first_fingerprint,
    )
    return decide_start(manifest, options.begin, identity, anew=options.anew, state=options.state)


def positioned(progress: StreamProgress, plan: StreamPlan, options: StreamOptions, extents: Extents) -> StreamProgress:
    """Return the progress with an offset for every partition of the logs.

    Raises `SourceError` for a partition that was read before and was deleted or recreated. With `accept_gaps`, rows
    that the logs no longer contain are recorded as gaps and skipped.
    """
    gaps, inputs = progress.gaps, dict(progress.inputs)
    for each in plan.inputs:
        log_extents, known = extents[each.name], progress.inputs[each.name]
        offsets = {**first_offsets(log_extents, options.begin), **known.offsets}
        if options.accept_gaps:
            behind = gaps_in(offsets, log_extents)
            offsets |= {gap.uri: gap.end for gap in behind}
            gaps += behind
        require_same_partitions(known, log_extents, may_lose=each.log.traits.may_vanish)
        if each.log.traits.may_vanish:
            offsets = _kept_partitions(offsets, log_extents)
        inputs[each.name] = known.beginning(offsets, stamps_of(log_extents))
    return replace(progress, inputs=inputs, gaps=gaps)


def _kept_partitions(offsets: Mapping[str, int], extents: Mapping[str, Extent]) -> dict[str, int]:
    return {uri: offset for uri, offset in offsets.items() if uri in extents}
