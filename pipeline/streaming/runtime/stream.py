"""One stream: turns that read, remember and make rows, and epochs that commit what they gave, once.

    turn      ready ─▶ takers read ranges ─▶ watermark ─▶ keepers advance ─▶ rows, rows set aside
    epoch     rows judged and staged, memory written ─▶ one commit of the table ─▶ what follows from it

Nothing of an epoch is durable before its commit but files that nothing refers to. A stream that is killed goes on from its
last commit: it reads the offsets that stand there, with the memory that stands there. Of two that run at once one commits
first; the other finds a mark that is not its own, and ends.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial

import duckdb
import pyarrow as pa

from pipeline.core.clock import Clock, now
from pipeline.core.cursors import Gap
from pipeline.core.epochs import BEGINNING, END, Epoch, InputProgress, StateFile
from pipeline.core.errors import StorageError
from pipeline.core.processes import cores
from pipeline.core.sources import Extent, ReadyOffsets, SourceSplit
from pipeline.core.staging import Manifest, Mode, RowCounts
from pipeline.kernel.budget import budget_here
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.runner.post_commit import follow_up, set_aside
from pipeline.streaming.operators.operator import Progress
from pipeline.streaming.operators.snapshots import kept
from pipeline.streaming.operators.watermarks import InputArrivals, advanced, holding_back, of_all
from pipeline.streaming.planning.inputs import OffsetRanges, StreamInput
from pipeline.streaming.planning.plan import StreamPlan
from pipeline.streaming.planning.table_log import TableInput
from pipeline.streaming.runtime.commit import TIDY_EVERY, PreparedEpoch, commit_epoch
from pipeline.streaming.runtime.metrics import StreamMetrics
from pipeline.streaming.runtime.source_task import SourceBatch, SourceRequest, SourceTask, SourceTaskConfig
from pipeline.streaming.runtime.start import (
    StartPosition,
    StateMode,
    StreamIdentity,
    decide_start,
    first_offsets,
    gaps_in,
    require_same,
    stamps_of,
)
from pipeline.streaming.runtime.state_rebuild import RebuildSource, rebuild
from pipeline.streaming.runtime.state_task import ShardConfig, StateTask, needs_base
from pipeline.streaming.runtime.validate_and_stage import EpochStager, PendingRows
from pipeline.streaming.runtime.workers import ActorWorker, ThreadWorker, WorkerHandle

LOOK_EVERY_S = 1.0
"""How often a stream looks for new partitions, and for how far it is behind."""
RECORD_EVERY_S = 20.0
"""How often the catalog and, for a gold table, the warehouse are brought to the last commit."""


@dataclass(frozen=True)
class Intervals:
    """How often a stream does what."""

    turn_s: float = 0.1
    """How long it waits for rows at most before it takes what there is."""
    commit_s: float = 0.5
    """How long rows that came out wait at most for their commit to begin."""
    save_s: float = 5.0
    """How long it goes on without a commit while no rows come out."""
    turn_offsets: int = 1 << 18
    """The most offsets of a partition that a turn takes, where offsets count records."""


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is asked to do."""

    begin: StartPosition = "committed"
    pace: Intervals = field(default_factory=Intervals)
    shards: int | None = None
    takers: int | None = None
    anew: bool = False
    """Whether offsets to begin at may make the table of a stream anew that has committed."""
    state: StateMode = "restore"
    """How it comes to its state, where it goes on from a commit."""
    accept_gaps: bool = False
    """Whether to go on behind what the log deleted before it was read."""


class Stream:
    """A stream that was opened. Its methods are called by one thread.

    Raises what its source, its definition and the lake raise; nothing that was committed is harmed by that. After an
    error it can only be closed; a new one goes on from the last commit.
    """

    def __init__(
        self,
        workspace: Workspace,
        plan: StreamPlan,
        asked: StreamOptions | None = None,
        *,
        clock: Clock = now,
        reached: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Open a stream where it was, or where it is asked to begin. `reached` hears each step of a commit."""
        self.plan = plan
        self.asked = StreamOptions() if asked is None else asked
        self.session = f"stream-{secrets.token_hex(4)}"
        self._workspace = workspace
        self._clock = clock
        self._reached = reached
        self._stack = ExitStack()
        self._table = workspace.table(plan.name)
        self.meter = StreamMetrics()
        """Counts its turns; who hears the steps of its commits tells it of these. Another may be put in its place."""
        self._head = self._table.head()
        with ExitStack() as opening:
            self._open(opening)
            if self._moved and self.asked.begin != "earliest":  # where it begins could not be found again
                self.save()
            self._stack = opening.pop_all()

    def close(self) -> None:
        """End the workers. What was not committed is read again by the next one."""
        self._stack.close()

    # -- opening

    def _open(self, stack: ExitStack) -> None:
        plan, asked, head = self.plan, self.asked, self._head
        begins_anew = asked.begin != "committed" and (asked.anew or isinstance(asked.begin, str))
        seen = None if head.number is None else self._table.version(head.number, lenient=begins_anew)
        me = StreamIdentity(
            name=plan.name,
            state=plan.identity,
            engine=duckdb.__version__,
            schema=plan.schema,
            table=None if seen is None else seen.schema,
            place=plan.definition.place,
            may_grow=plan.may_grow,
            first_fingerprint=plan.first_fingerprint,
        )
        manifest = None if seen is None else seen.manifest
        start = decide_start(manifest, asked.begin, me, anew=asked.anew, state=asked.state)
        self._anew = start.anew
        epoch = start.epoch
        self.committed = epoch
        """The last epoch that is known to be committed."""
        if seen is not None and manifest is not None and epoch is not None:
            # whoever committed it may have been killed before that
            set_aside(self._workspace, plan.definition, manifest, seen.mark)
        self.number = max(head.epoch or 0, 0 if epoch is None else epoch.number)
        self.totals = dict.fromkeys(("rows_in", "rows_out", "late", "quarantined", "dropped"), 0)
        self.totals |= {} if epoch is None else dict(epoch.totals)
        self.inputs = {i.name: InputProgress() if epoch is None else epoch.inputs[i.name] for i in plan.intakes}
        self.watermark = BEGINNING if epoch is None else epoch.watermark
        self.shards = (asked.shards or cores()) if plan.operator is not None else 1
        self._state: tuple[StateFile, ...] = () if epoch is None else tuple(epoch.state)
        changed = manifest is not None and manifest.fingerprint != plan.definition.fingerprint
        self._must_base = epoch is not None and (epoch.shards != self.shards or changed or asked.state == "rebuild")
        self._engine, self._identity = me.engine, me.state
        self._drained = epoch is not None and epoch.drained
        self._extents: dict[str, Mapping[str, Extent]] = {}
        self._looked = 0.0
        self._others = {name: workspace_version(self._workspace, name) for name in plan.others}
        self._manifest = None if epoch is None else manifest
        has_other_state = epoch is not None and plan.operator is not None and asked.state != "restore"
        self._moved = has_other_state or (epoch is None and asked.begin != "committed")
        """Whether there is something to commit, although no rows came out: how far it is, or another state."""
        self._crew(stack, epoch)
        self._judge = EpochStager(self._workspace, plan, anew=self._anew)
        stack.callback(self._judge.close)
        self._committer = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="headwater-commit"))
        self._tidying = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="headwater-tidy"))
        self._committing: Future[Manifest] | None = None
        self._pending = PendingRows()
        self._since_commit = time.monotonic()
        self._since_record = time.monotonic()
        self._is_cut = False
        """Whether a turn left some of what was ready for the next one."""
        self.ended = False
        self.unanswered: tuple[str, ...] = ()
        """The inputs whose system did not answer at the last turn."""

    def _crew(self, stack: ExitStack, epoch: Epoch | None) -> None:
        """Make the workers: those that read, each with some of the partitions, and one for each shard."""
        plan, settings = self.plan, self._workspace.settings
        on_ray = bool(settings.ray_address) and settings.execution != "inline"
        hire: Callable[..., WorkerHandle] = ActorWorker if on_ray else ThreadWorker
        budget = budget_here(settings.memory_bytes)
        extents = self._look()
        offsets = {
            i.name: {**first_offsets(extents[i.name], self.asked.begin), **self.inputs[i.name].offsets}
            for i in plan.intakes
        }
        self.gaps: tuple[Gap, ...] = () if self._manifest is None else tuple(self._manifest.gaps)
        """What the logs lost before it was read, as was accepted."""
        if self.asked.accept_gaps:
            for name, held in extents.items():
                behind = gaps_in(offsets[name], held)
                offsets[name] |= {gap.uri: gap.end for gap in behind}
                self.gaps += behind
                self._moved = self._moved or bool(behind)
        for intake in plan.intakes:
            require_same(self.inputs[intake.name], extents[intake.name], may_lose=intake.log.traits.may_vanish)
            if intake.log.traits.may_vanish:
                offsets[intake.name] = {u: o for u, o in offsets[intake.name].items() if u in extents[intake.name]}
        everything = [(name, uri) for name, given in offsets.items() for uri in sorted(given)]
        count = max(1, min(self.asked.takers or cores(), len(everything)))
        self._owner = {(name, uri): number % count for number, (name, uri) in enumerate(everything)}
        self.inputs = {n: self.inputs[n].beginning(given, stamps_of(extents[n])) for n, given in offsets.items()}
        others = {name: version.scan() for name, version in self._others.items()}
        limits = replace(budget.part(2 * cores()), threads=1)
        crop = SourceTaskConfig(
            plan.intakes, others, limits, self._workspace.lake.storage.filesystem(), plan.operator is not None
        )
        crop = replace(crop, function=plan.function, place=plan.definition.place)
        self._takers: list[WorkerHandle] = []
        for number in range(count):
            share = {
                name: {uri: o for uri, o in given.items() if self._owner[name, uri] == number}
                for name, given in offsets.items()
            }
            hand = hire(partial(SourceTask, crop, {n: s for n, s in share.items() if s}), f"headwater-read-{number}")
            stack.callback(hand.close)
            self._takers.append(hand)
        self._keepers: list[WorkerHandle] = []
        if plan.operator is None:
            return
        samples = plan.samples({name: version.schema for name, version in self._others.items()})
        rebuilding = (
            None
            if epoch is None or self.asked.state != "rebuild"
            else RebuildSource(epoch, extents, self.asked.accept_gaps)
        )
        kept_from = epoch if rebuilding is None else None
        plot = ShardConfig(plan.operator, samples, 0, self.shards, self._table.storage, limits, kept_from)
        for number in range(self.shards):
            hand = hire(partial(StateTask, replace(plot, number=number)), f"headwater-keep-{number}")
            stack.callback(hand.close)
            self._keepers.append(hand)
        for begun in [hand.call("rows") for hand in self._keepers]:
            begun.result()  # a memory that cannot be brought back is said now, not when rows come
        if rebuilding is not None:
            rebuild(self._workspace, plan, rebuilding, self._keepers)

    def _look(self) -> dict[str, Mapping[str, Extent]]:
        """Return what the logs hold; asked of them now and then."""
        if time.monotonic() - self._looked > LOOK_EVERY_S or not self._extents:
            self._extents = {intake.name: intake.log.extents() for intake in self.plan.intakes}
            self._looked = time.monotonic()
        return self._extents

    # -- turns

    def turn(self) -> int:
        """Take what is ready, waiting a little for it, and return how many rows were read; commit when it is time."""
        self.meter.begin()
        found = [hand.call("ready", self.asked.pace.turn_s) for hand in self._takers]
        ready = [future.result() for future in found]
        self.unanswered = tuple(n for n in self.inputs if any(g[n].is_unanswered for g in ready if n in g))
        if not self.unanswered:  # a system that does not answer is not asked for more
            self._follow()
        self.meter.lap("wait")
        self._is_cut = False
        takes = [self._parts(given) for given in ready]
        instant = int(self._clock().timestamp() * 1e6)
        prepared = self.plan.prepared(self.watermark)
        begun = [
            hand.call("take", SourceRequest(parts, prepared, self.shards, instant))
            for hand, parts in zip(self._takers, takes, strict=True)
            if any(parts.values())
        ]
        taken = [one for future in begun for one in future.result()]
        self.meter.lap("read")
        for each in taken:
            self._pending.note(each)
            self.meter.took(each.rows_in, each.bytes_in)
        given = {name: [each[name] for each in ready if name in each] for name in self.inputs}
        ended = {n: not self._is_cut and bool(g) and all(each.has_ended for each in g) for n, g in given.items()}
        self._advance(taken, takes, ended, instant)
        self.meter.lap("advance")
        self._moved = self._moved or any(any(parts.values()) for parts in takes)
        self._commit_if_due()
        return sum(int(each.rows_in) for each in taken)

    def _follow(self) -> None:
        """Take partitions that are new, and newer versions of the tables that are looked into."""
        if time.monotonic() - self._looked <= LOOK_EVERY_S:
            return
        extents = self._look()
        for name, held in extents.items():
            new = {uri: extent.begin for uri, extent in held.items() if (name, uri) not in self._owner}
            for number, (uri, offset) in enumerate(sorted(new.items())):
                owner = (len(self._owner) + number) % len(self._takers)
                self._takers[owner].call("add", {name: {uri: offset}}).result()
                self._owner[name, uri] = owner
            known = self.inputs[name]
            self.inputs[name] = known.beginning({**new, **known.offsets}, stamps_of(held))
        versions = {name: workspace_version(self._workspace, name) for name in self._others}
        changed = {name: v.scan() for name, v in versions.items() if v.mark != self._others[name].mark}
        if changed:
            for begun in [hand.call("look_into", changed) for hand in self._takers]:
                begun.result()
            self._others = versions

    def _parts(self, ready: Mapping[str, ReadyOffsets]) -> dict[str, tuple[SourceSplit, ...]]:
        """Return what a worker is to take: from where each of its partitions is, to what it has ready, or a part of it."""
        found = {}
        for intake in self.plan.intakes:
            if intake.name not in ready:
                continue
            reached, most = self.inputs[intake.name], self.asked.pace.turn_offsets
            whole = intake.log.traits.has_whole_partitions
            ends = ready[intake.name].offsets
            ranges = {
                uri: (reached.offsets[uri], end if whole else min(end, reached.offsets[uri] + most))
                for uri, end in ends.items()
            }
            self._is_cut = self._is_cut or any(ranges[uri][1] < end for uri, end in ends.items())
            found[intake.name] = OffsetRanges(ranges).parts(reached.stamps)
        return found

    def _advance(
        self,
        taken: list[SourceBatch],
        takes: list[dict[str, tuple[SourceSplit, ...]]],
        ended: Mapping[str, bool],
        instant: int,
    ) -> None:
        """Move event time on, and let each shard take what came to it."""
        for intake in self.plan.intakes:
            offsets = dict(self.inputs[intake.name].offsets)
            offsets |= {p.piece.uri: p.end or 0 for parts in takes for p in parts.get(intake.name, ())}
            latest = {u: t for each in taken if each.name == intake.name for u, t in each.latest.items()}
            held = self._extents[intake.name]
            behind = frozenset(uri for uri, offset in offsets.items() if uri in held and held[uri].end > offset)
            known = self.inputs[intake.name]
            if intake.time is None:
                self.inputs[intake.name] = replace(known, offsets=offsets)
                continue
            made = intake.made_by(offsets, known)
            has_ended = ended.get(intake.name, False) or (made is not None and made.watermark >= END)
            stands = offsets == known.offsets
            if isinstance(intake, TableInput) and intake.follows and not has_ended and (stands or made is not None):
                watermark = known.watermark if made is None else max(known.watermark, made.watermark - intake.slack_us)
                self.inputs[intake.name] = replace(known, offsets=offsets, watermark=watermark)
                continue
            arrived = InputArrivals(offsets, latest, behind, has_ended, is_one=intake.log.traits.is_in_sequence)
            self.inputs[intake.name] = advanced(known, arrived, intake.time, instant)
        before = self.watermark
        timed = [self.inputs[i.name] for i in self.plan.intakes if i.time is not None]
        self.watermark = max(before, of_all(timed)) if timed else before
        self.ended = all(ended.values()) and bool(ended)
        if self.plan.operator is None:
            for each in taken:
                self._pending.add(each.ready[0])
            return
        if not taken and self.watermark == before:
            return
        progress = Progress(before, self.watermark)
        begun = []
        for number, hand in enumerate(self._keepers):
            blocks: dict[str, list[pa.Table]] = {}
            for each in taken:
                blocks.setdefault(each.name, []).append(each.ready[number])
            begun.append(hand.call("advance", blocks, progress))
        for future in begun:
            self._pending.add(future.result())  # without rows, time that went on need not be kept: it will again

    # -- epochs

    def _commit_if_due(self) -> None:
        waited = time.monotonic() - self._since_commit
        pace = self.asked.pace
        due = pace.save_s if self._pending.is_empty else pace.commit_s
        if waited >= due and (self._moved or not self._pending.is_empty):
            self.commit()

    def commit(self, *, drained: bool = False) -> None:
        """Stage what is pending and begin its commit, once the one before is done."""
        self.number += 1
        run_id = f"{self.session}-{self.number:09d}"
        at = self._clock().isoformat()
        outcome = self._judge.stage(self._pending, run_id, at)
        self._reached("staged")
        state = self._snapshots(run_id)
        self._reached("saved")
        self.flow = outcome.flow
        self._count(outcome.flow)
        self._drained = drained
        epoch = Epoch(
            number=self.number,
            inputs=dict(self.inputs),
            identity=self._identity,
            watermark=self.watermark,
            shards=self.shards,
            state=state,
            totals=dict(self.totals),
            engine=self._engine,
            drained=drained,
        )
        mode: Mode = "overwrite" if self._anew else "append"
        lakes = [intake.consumed(self.inputs[intake.name].offsets) for intake in self.plan.intakes]
        manifest = Manifest(
            table=self.plan.name,
            run_id=run_id,
            fingerprint=self.plan.definition.fingerprint,
            mode=mode,
            inputs={
                **{name: v.number for name, v in self._others.items()},
                **{name: version for consumed in lakes for name, version in consumed.items()},
            },
            marks={name: v.mark for name, v in self._others.items()},
            gaps=self.gaps,
            flow=outcome.flow,
            checks=dict(outcome.checks),
            aside=outcome.aside,
            aside_mode=mode,
            epoch=epoch,
            at=at,
        )
        self.settled()
        self._anew, self._state = False, state
        made = PreparedEpoch(manifest, outcome)
        self._committing = self._committer.submit(
            commit_epoch, self._workspace, self.plan, self._head, made, self._reached
        )
        self._pending = PendingRows()
        self._since_commit = time.monotonic()
        self._moved = False

    def save(self) -> None:
        """Commit what there is to commit, and wait until it is."""
        if self._moved or not self._pending.is_empty:
            self.commit()
        self.settled()
        self._record()

    def settled(self) -> None:
        """Wait for the commit that was begun; raise what became of it."""
        if self._committing is not None:
            self.committed = self._committing.result().epoch
            self._committing = None
            if self._head.number and self._head.number % TIDY_EVERY == 0:
                self._tidying.submit(self._tidy)
            if time.monotonic() - self._since_record > RECORD_EVERY_S:
                with suppress(StorageError):  # next time, or in the end
                    self._record()

    def _record(self) -> None:
        """Bring the catalog and the warehouse to the last commit: not at each one, but now and then, and in the end."""
        self._since_record = time.monotonic()
        version = self._table.version()
        if version is not None:
            follow_up(self._workspace, self.plan.definition, version)

    def _tidy(self) -> None:
        """Keep the log of the table short, beside the stream."""
        with suppress(Exception):  # the next time will do; the stream finds out by itself what is wrong with the store
            self._table.tidy()
            self._workspace.lake.quarantine(self.plan.name).tidy()

    def _snapshots(self, run_id: str) -> tuple[StateFile, ...]:
        begun = [
            hand.call("snapshot", run_id, base=self._must_base or needs_base(self._state, number))
            for number, hand in enumerate(self._keepers)
        ]
        files = [file for future in begun if (file := future.result()) is not None]
        before = () if self._must_base else self._state
        self._must_base = False
        return kept((*before, *files))

    def _count(self, flow: RowCounts) -> None:
        for name in self.totals:
            self.totals[name] += getattr(flow, name)

    def lag(self) -> dict[str, int]:
        """Return how many offsets each partition holds beyond what was read."""
        found: dict[str, int] = {}
        for name, held in self._extents.items():
            offsets = self.inputs[name].offsets
            found |= {uri: max(extent.end - offsets.get(uri, extent.begin), 0) for uri, extent in held.items()}
        return found

    def drain(self) -> None:
        """Close what is open now and commit what comes out of it.

        The watermark moves just so far as that takes: rows that come later for what was closed are late, all others in time.
        """
        horizons = [future.result() for future in [hand.call("horizon") for hand in self._keepers]]
        before, self.watermark = self.watermark, max([self.watermark, *horizons])
        if self.watermark > before:
            progress = Progress(before, self.watermark)
            for future in [hand.call("advance", {}, progress) for hand in self._keepers]:
                self._pending.add(future.result())
            self._moved = True
        if self._moved or not self._pending.is_empty or not self._drained:
            self.commit(drained=True)
        self.settled()
        self._record()

    def waits_for(self) -> tuple[str, ...]:
        """Return, where something is held, the partitions for which event time waits."""
        instant = int(self._clock().timestamp() * 1e6)
        timed = [i for i in self.plan.intakes if i.time is not None and not self.inputs[i.name].is_idle]
        least = min((self.inputs[i.name].watermark for i in timed), default=END)
        slowest = [i for i in timed if self.inputs[i.name].watermark == least < END]
        return tuple(
            intake.name if intake.log.traits.is_in_sequence else uri
            for intake in slowest
            if intake.time is not None
            for uri in holding_back(self.inputs[intake.name], self._behind(intake), intake.time, instant)
            or [intake.name]
        )

    def _behind(self, intake: StreamInput) -> frozenset[str]:
        offsets, held = self.inputs[intake.name].offsets, self._extents[intake.name]
        return frozenset(uri for uri, offset in offsets.items() if uri in held and held[uri].end > offset)

    def look(self, table: str | None = None) -> dict[str, pa.Table]:
        """Return what the stream remembers now, as yet uncommitted: the tables of all shards."""
        begun = [hand.call("look", table) for hand in self._keepers]
        found = [future.result() for future in begun]
        return {name: pa.concat_tables([each[name] for each in found]) for name in (found[0] if found else {})}


def workspace_version(workspace: Workspace, name: str) -> Version:
    """Return the newest version of a table that is looked into."""
    return workspace.require(name)
