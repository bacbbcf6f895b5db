"""Dead letters: records that a stream rejected, with their partition and offset, and their replay.

Records that cannot be decoded, have no event time, are too far in the future, are late, or violate an expectation are
in the quarantine of the stream's table. A log returns the same record for an offset again, so records of a stateless
stream are read again from there and validated by the current definition.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast

import pyarrow as pa

from pipeline.commit.post_commit import update_quarantine
from pipeline.core.clock import Clock, now
from pipeline.core.errors import ConflictError, RequestError
from pipeline.core.sources import POSITION, SOURCE, Log, ReadyOffsets, SplitReader, Tail
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.core.staging import RowCounts
from pipeline.governance import Leases
from pipeline.kernel.budget import budget_here
from pipeline.kernel.engine import arrow, connect
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.reprocessing.quarantine import quarantined_rows, replay, with_replayed_rows
from pipeline.streaming.planning.inputs import StreamInput
from pipeline.streaming.planning.plan import Planner, StreamPlan
from pipeline.streaming.planning.table_log import TableInput
from pipeline.streaming.runtime.commit import PreparedEpoch, commit_epoch
from pipeline.streaming.runtime.lease_manager import LeaseManager
from pipeline.streaming.runtime.source_task import SourceRequest, SourceTask, SourceTaskConfig
from pipeline.streaming.runtime.validate_and_stage import EpochStager, PendingRows

_DEAD_LETTER_COLUMNS = ["reasons", SOURCE, POSITION, "row"]
_NEAR_OFFSETS = 1024
"""Maximum distance of offsets that are read as one range."""


@dataclass(frozen=True)
class DeadLetters:
    """The number of rows that a stream rejected for a reason, and the times of the first and the last."""

    stream: str
    reasons: str
    rows: int
    first_at: str
    last_at: str


def dead_letters(workspace: Workspace) -> tuple[DeadLetters, ...]:
    """Return the rejected rows of a project's streams, by stream and reason, the most frequent first."""
    dead_letters = []
    for name in Planner(workspace).streams:
        rows = quarantined_rows(workspace, name)
        with connect() as con:
            con.register("_letters", rows)
            counts = con.execute(
                "select reasons, count(*), min(_quarantined_at)::varchar, max(_quarantined_at)::varchar "
                "from _letters group by 1 order by 2 desc, 1"
            ).fetchall()
        dead_letters += [DeadLetters(name, str(reasons), int(count), *moments) for reasons, count, *moments in counts]
    return tuple(dead_letters)


def replay_letters(workspace: Workspace, name: str, *, clock: Clock = now) -> RowCounts:
    """Validate the rejected rows of a stream by its current definition; rows that pass are added to its table once.

    Rows that fail are kept with the current reasons, and so are rows whose record the log no longer has. Raises
    `ConflictError` if the stream is running, and `RequestError` for a stateful stream and if no rows were rejected.
    """
    plan = Planner(workspace).plan(name)
    if plan.operator is not None:
        raise RequestError(
            f"rows that stream {name!r} rejected cannot be replayed individually: their windows, groups or joins were "
            "emitted without them",
            do=f"fix the definition and recreate the table: headwater stream {name} --from earliest",
        )
    leases = LeaseManager(Leases(workspace.catalog), lambda _: {"status": "stopped"})
    try:
        leases.take(name)
        return _replayed(workspace, plan, clock)
    finally:
        leases.close()


def _replayed(workspace: Workspace, plan: StreamPlan, clock: Clock) -> RowCounts:
    version = workspace.require(plan.name)
    manifest = version.manifest
    if manifest is None or manifest.epoch is None:
        return replay(workspace, plan.name, clock=clock)
    update_quarantine(workspace, plan.definition, manifest, version.manifest_id)
    rows = quarantined_rows(workspace, plan.name)
    if not rows.num_rows:
        raise RequestError(f"stream {plan.name!r} has no rejected rows", do="see `headwater deadletter ls`")
    if isinstance(plan.inputs[0], TableInput):
        return replay(workspace, plan.name, clock=clock)
    return _validated(workspace, plan, version, rows, clock())


def _validated(workspace: Workspace, plan: StreamPlan, version: Version, rows: pa.Table, at: datetime) -> RowCounts:
    """Validate rejected rows, and commit those that pass as an epoch of their stream."""
    epoch = None if version.manifest is None else version.manifest.epoch
    if version.manifest is None or epoch is None:
        raise AssertionError(plan.name)
    head = workspace.table(plan.name).head()
    if head.manifest_id != version.manifest_id:
        raise ConflictError(f"stream {plan.name!r} is running", do="stop or pause it, and replay again")
    run_id = f"replay-{secrets.token_hex(4)}"
    pending = _read_again(workspace, plan, rows, int(at.timestamp() * 1e6))
    with closing(EpochStager(workspace, plan)) as stager:
        outcome = stager.stage(pending, run_id, at.isoformat())
    manifest = replace(
        version.manifest,
        run_id=run_id,
        mode="append",
        flow=outcome.flow,
        checks=dict(outcome.checks),
        quarantined=outcome.quarantined,
        quarantine_mode="overwrite",
        epoch=replace(with_replayed_rows(epoch, outcome.flow), number=max(head.epoch or 0, epoch.number) + 1),
        at=at.isoformat(),
    )
    commit_epoch(workspace, plan, head, PreparedEpoch(manifest, outcome), lambda _: None)
    return outcome.flow


def _read_again(workspace: Workspace, plan: StreamPlan, rows: pa.Table, instant: int) -> PendingRows:
    """Return the rows at the offsets of rejected rows; rows that are no longer available stay rejected."""
    (stream_input,) = plan.inputs
    extents = stream_input.log.extents()
    parts, kept = [], []
    near = 0 if plan.function is not None else _NEAR_OFFSETS
    for number, (uri, offset) in enumerate(zip(rows[SOURCE].to_pylist(), rows[POSITION].to_pylist(), strict=True)):
        has_whole_partitions = stream_input.log.traits.has_whole_partitions
        extent = extents.get(uri)
        if extent is None or offset is None or not (has_whole_partitions or extent.begin <= offset < extent.end):
            kept.append(number)
        else:
            parts.append((uri, 0, extent.end) if has_whole_partitions else (uri, offset, offset + 1))
    pending = PendingRows(rows_in=rows.num_rows)
    stay = rows.select(_DEAD_LETTER_COLUMNS).take(pa.array(kept, pa.int64()))
    if parts:
        positions = rows.select([SOURCE, POSITION])
        ranges = [
            SourceSplit(SourceObject(uri, end - begin, extents[uri].stamp), begin, end, begin)
            for uri, begin, end in _ranges(parts, near)
        ]
        for taken, quarantined in _read_batches(workspace, plan, stream_input, tuple(ranges), instant):
            input_query = taken if plan.function is not None else _at_positions(taken, positions)
            pending.add(input_query)
            stay = pa.concat_tables([stay, _at_positions(quarantined, positions).select(_DEAD_LETTER_COLUMNS)])
    pending.rejected = stay.num_rows
    if stay.num_rows:
        pending.quarantined.append(stay)
    return pending


def _read_batches(
    workspace: Workspace, plan: StreamPlan, stream_input: StreamInput, parts: tuple[SourceSplit, ...], instant: int
) -> Iterator[tuple[pa.Table, pa.Table]]:
    again = replace(stream_input, log=cast("Log", _UntailedLog(stream_input.log)))
    lookups = {name: workspace.require(name).scan() for name in plan.lookups}
    limits = budget_here(workspace.settings.memory_bytes).whole()
    config = SourceTaskConfig((again,), lookups, limits, workspace.lake.storage.filesystem(), has_state=False)
    config = replace(config, function=plan.function, place=plan.definition.place)
    request = SourceRequest({stream_input.name: parts}, plan.prepared(), 1, instant)
    nothing = pa.table({name: pa.array([], kind) for name, kind in zip(_DEAD_LETTER_COLUMNS, _KINDS, strict=True)})
    with closing(SourceTask(config, {stream_input.name: {}})) as task:
        for batch in task.take(request):
            yield batch.ready[0], nothing if batch.quarantined is None else batch.quarantined


_KINDS = (pa.string(), pa.string(), pa.int64(), pa.string())


def _ranges(parts: Sequence[tuple[str, int, int]], near: int) -> list[tuple[str, int, int]]:
    """Return ranges of offsets that cover all of the parts; parts that are close to each other are joined."""
    ranges: list[tuple[str, int, int]] = []
    for uri, begin, end in sorted(set(parts)):
        if ranges and ranges[-1][0] == uri and begin <= ranges[-1][2] + near:
            ranges[-1] = (uri, ranges[-1][1], max(end, ranges[-1][2]))
        else:
            ranges.append((uri, begin, end))
    return ranges


def _at_positions(rows: pa.Table, positions: pa.Table) -> pa.Table:
    """Return the rows with the origins in `wanted`."""
    with connect() as con:
        con.register("_rows", rows)
        con.register("_wanted", positions)
        return arrow(con, f"select * from _rows semi join _wanted using ({SOURCE}, {POSITION})")


@dataclass(frozen=True)
class _UntailedLog:
    """A log whose tail reads ranges directly."""

    log: Log

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        del offsets
        yield _UntailedReader(self.log)


@dataclass(frozen=True)
class _UntailedReader:
    log: Log

    def ready(self, timeout_s: float) -> ReadyOffsets:
        del timeout_s
        return ReadyOffsets({}, 0)

    def reader(self, parts: Sequence[SourceSplit]) -> SplitReader:
        del parts
        return cast("SplitReader", self.log)

    def add(self, offsets: Mapping[str, int]) -> None:
        del offsets
