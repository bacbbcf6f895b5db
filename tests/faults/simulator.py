"""A simulator of the epoch protocol: thousands of random schedules per minute, each reproducible by its seed.

A coordinator is a generator that yields after every step, so that the schedule can run another one, kill it, suspend
it, cut the power, lose a response or change the clock. The decisions are made by the real code: `advanced` computes
watermarks, `decide_start` and `first_offsets` determine the start, `needs_base` and `required_files` which state files
are written and kept, `Manifest` and its id represent a commit. Modelled are a log, a store that loses unsynced files, a
table's log with one commit per version, and the state of windows. A mutant is a wrong step of the protocol.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta

from pipeline.core.epochs import BEGINNING, Epoch, InputProgress, StateFile, StateSegment
from pipeline.core.event_time import EventTime
from pipeline.core.schema import Schema
from pipeline.core.sources import Extent
from pipeline.core.staging import Manifest, manifest_id_of
from pipeline.core.state_identity import StateIdentity
from pipeline.streaming.operators.snapshots import required_files
from pipeline.streaming.operators.watermarks import InputArrivals, advanced
from pipeline.streaming.runtime.start import StreamIdentity, decide_start, first_offsets
from pipeline.streaming.runtime.state_task import needs_base

S = 1_000_000
SIZE = 10 * S
"""The size of a window."""
TIME = EventTime("t", lateness=timedelta(seconds=4), idle_after=timedelta(seconds=5))
SCHEMA = Schema.of({"id": "bigint"})
STATE = StateIdentity("tumble", 1, {"window": "10 seconds"}, {})
ME = StreamIdentity("t", STATE, "e", schema=SCHEMA, table=None)


class Conflict(Exception):  # noqa: N818 - as the real one
    """Another coordinator has committed."""


class Refused(Exception):  # noqa: N818
    """The store rejected a request or did not respond; the coordinator must restart."""


class Damaged(Exception):  # noqa: N818
    """A file differs from the committed one."""


class Wrong(AssertionError):  # noqa: N818
    """An invariant is violated; `choices` is the number of random choices that led to it."""

    def __init__(self, problem: str, choices: int = 0) -> None:
        super().__init__(problem)
        self.choices = choices


@dataclass
class Dice:
    """Random choices from a seed. After `most` choices, every choice is 0, which means to continue without a fault."""

    seed: int
    most: int | None = None
    """The number of random choices."""
    taken: int = 0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a seed for faults

    def pick(self, of: int) -> int:
        """Return a number below `of`."""
        self.taken += 1
        return 0 if self.is_calm else self._random.randrange(of)

    def happens(self, one_in: int) -> bool:
        """Return whether a fault happens, with a probability of 1 in `one_in`."""
        return self.pick(one_in) == one_in - 1

    @property
    def is_calm(self) -> bool:
        return self.most is not None and self.taken > self.most


@dataclass(frozen=True)
class Row:
    id: int
    time: int
    key: int

    @property
    def window(self) -> int:
        return self.time // SIZE * SIZE


@dataclass(frozen=True)
class Out:
    """A row of the table: a window of a key, with the rows in it."""

    window: int
    key: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Version:
    manifest_id: int
    rows: tuple[Out, ...]


@dataclass
class World:
    """The log, the store, the table and its quarantine."""

    dice: Dice
    mutant: str = ""
    partitions: int = 2
    length: int = 24
    """The final number of rows of each partition."""
    now: int = 1000 * S
    files: dict[str, bytes] = field(default_factory=dict)
    unsynced: set[str] = field(default_factory=set)
    table: list[Version] = field(default_factory=list)
    quarantined: list[tuple[int, tuple[tuple[int, int], ...]]] = field(default_factory=list)
    """For each commit of the quarantine: the manifest id, and the late rows with the watermark at their arrival."""
    arrived: int = 4
    sessions: int = 0
    silent: bool = False
    """Whether the first partition delivers no rows."""
    rows: dict[str, list[Row]] = field(init=False)

    def __post_init__(self) -> None:
        user_dice = random.Random(self.dice.seed + 1)  # noqa: S311 - likewise
        self.rows = {
            f"log/{p}": [
                Row(
                    p * 10_000 + i,
                    (1000 + i * 2 - user_dice.choice((0, 0, 0, 1, 2, 3, 6, 9, 14))) * S,
                    user_dice.randrange(3),
                )
                for i in range(self.length)
            ]
            for p in range(self.partitions)
        }

    def extents(self) -> dict[str, Extent]:
        return {uri: Extent(0, min(self.arrived, self.length)) for uri in self.rows}

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        self.files[name] = content
        if not sync or self.mutant == "no fsync":
            self.unsynced.add(name)

    def lose_power(self) -> None:
        """Lose or truncate unsynced files."""
        for name in sorted(self.unsynced):
            if self.dice.pick(2):
                del self.files[name]
            else:
                self.files[name] = self.files[name][: len(self.files[name]) // 2]
        self.unsynced.clear()

    def manifest(self, manifest_id: int) -> Manifest:
        text = self.files.get(f"{manifest_id:x}", b"").decode()
        if manifest_id_of(text) != manifest_id:
            raise Damaged(f"manifest {manifest_id:x}")
        return Manifest.from_json(text)

    def put(self, number: int, version: Version) -> None:
        """Accept a commit as version `number` if it does not exist; the store may reject it, or lose the response."""
        fate = self.dice.pick(12)
        if fate == 11:
            raise Refused("503")
        if len(self.table) != number:
            raise Conflict
        self.table.append(version)
        if fate == 10:
            raise Refused("no answer")


@dataclass
class ShardState:
    """The windows of a shard: rows are added and deleted, as in the real state tables."""

    rows: dict[int, Out] = field(default_factory=dict)
    next: int = 0
    added: dict[int, Out] = field(default_factory=dict)
    removed: list[int] = field(default_factory=list)

    def add(self, row: Out) -> None:
        self.rows[self.next] = self.added[self.next] = row
        self.next += 1

    def forget(self, number: int) -> None:
        del self.rows[number]
        if self.added.pop(number, None) is None:
            self.removed.append(number)

    def file(self, *, base: bool) -> bytes | None:
        rows = self.rows if base else self.added
        if not base and not rows and not self.removed:
            return None
        return json.dumps(
            [[(n, o.window, o.key, o.ids) for n, o in rows.items()], [] if base else self.removed]
        ).encode()

    def mark_snapshot(self) -> None:
        self.added, self.removed = {}, []

    def replay(self, content: bytes, *, base: bool) -> None:
        if base:
            self.rows = {}
        added, removed = json.loads(content)
        for number in removed:
            self.rows.pop(number, None)
        self.rows |= {n: Out(w, k, tuple(ids)) for n, w, k, ids in added}
        self.next = max(self.rows, default=-1) + 1


class Coordinator:
    """A process that runs the stream. The schedule iterates over `steps`; an error ends the process."""

    def __init__(self, world: World, shards: int) -> None:
        self.world, self.shards = world, shards
        world.sessions += 1
        self.session = world.sessions
        self.ended = False
        self.asleep = 0
        """The number of steps for which it is suspended."""
        self.steps = self._run()

    # -- opening: like Stream._open

    def _run(self) -> Iterator[str]:
        world, mutant = self.world, self.world.mutant
        self.seen = len(world.table), (world.table[-1].manifest_id if world.table else None)
        yield "looked"
        manifest = None if self.seen[1] is None else world.manifest(self.seen[1])
        start = decide_start(manifest, "committed", ME)
        epoch = start.epoch
        if manifest is not None and mutant != "no post-commit at start":
            yield from self._post_commit(manifest, self.seen[1])
        self.number = 0 if epoch is None else epoch.number
        self.state = () if epoch is None else tuple(epoch.state)
        self.writes_bases = epoch is not None and epoch.shards != self.shards and mutant != "no base after resharding"
        self.reached = InputProgress() if epoch is None else epoch.inputs["log"]
        offsets = {**first_offsets(world.extents(), "committed"), **self.reached.offsets}
        if mutant == "offsets first" and "offsets" in world.files:
            offsets = json.loads(world.files["offsets"])
        self.reached = self.reached.beginning(offsets, {})
        self.watermark = BEGINNING if epoch is None else epoch.watermark
        self.shard_states = self._restored(epoch)
        yield "restored"
        self.out: list[Out] = []
        self.late: list[tuple[int, int]] = []
        committing: Iterator[str] | None = None
        while True:
            yield from self._run_micro_batch()
            due = self.world.dice.pick(3) == 0
            finished = self._is_finished()
            if due or finished:
                staged = yield from self._stage()
                while committing is not None:  # wait for the previous commit
                    committing = yield from self._advance_commit(committing)
                committing = self._commit(*staged)
            while committing is not None and (finished or self.world.dice.pick(2)):
                committing = yield from self._advance_commit(committing)
            if finished:
                self.ended = True
                return

    @staticmethod
    def _advance_commit(committing: Iterator[str]) -> Iterator[str]:
        """Run one step of the commit; return the commit, or `None` when it has ended."""
        step = next(committing, None)
        if step is None:
            return None
        yield step
        return committing

    def _restored(self, epoch: Epoch | None) -> list[ShardState]:
        if epoch is None:
            return [ShardState() for _ in range(self.shards)]
        files = epoch.state
        if self.world.mutant == "uncommitted state":
            files = self._newest(epoch)
        old = [ShardState() for _ in range(epoch.shards)]
        for file in files:
            content = self.world.files.get(file.path)
            if content is None:
                raise Damaged(file.path)
            if hashlib.sha256(content).hexdigest() != file.sha256 and self.world.mutant != "no checksum":
                raise Damaged(file.path)
            try:
                old[file.shard].replay(content, base=file.is_base)
            except ValueError:
                continue
        if self.shards == epoch.shards:
            return old
        new = [ShardState() for _ in range(self.shards)]
        for shard_state in old:
            for row in shard_state.rows.values():
                new[row.key % self.shards].add(row)
        return new

    def _newest(self, epoch: Epoch) -> tuple[StateFile, ...]:
        """Return the committed files and those written later."""
        known = {file.path for file in epoch.state}
        more = []
        for path, content in self.world.files.items():
            if path.startswith("state/") and path not in known:
                _, _, number, shard = path.split("/")
                if int(number) > epoch.number and int(shard) < epoch.shards:
                    more.append(StateFile(path, int(shard), is_base=False, sha256=hashlib.sha256(content).hexdigest()))
        return (*epoch.state, *more)

    # -- a micro-batch: like Stream.run_micro_batch

    def _run_micro_batch(self) -> Iterator[str]:
        world, mutant = self.world, self.world.mutant
        extents = world.extents()
        begin = self.reached.offsets
        ends = {uri: min(extent.end, begin[uri] + world.dice.pick(6) + 1) for uri, extent in extents.items()}
        if world.dice.happens(8):
            world.silent = not world.silent
        if world.silent and not world.dice.is_calm:
            ends[min(ends)] = begin[min(ends)]  # a silent partition
            extents[min(ends)] = Extent(0, begin[min(ends)])
        rows = [row for uri, end in ends.items() for row in world.rows[uri][begin[uri] : end]]
        yield "taken"
        before = self.watermark
        latest = {
            uri: max(row.time for row in world.rows[uri][begin[uri] : end])
            for uri, end in ends.items()
            if end > begin[uri]
        }
        behind = frozenset(uri for uri, end in ends.items() if extents[uri].end > end)
        has_ended = all(end >= world.length for end in ends.values())
        then = self.reached
        if mutant == "watermark decreases":
            then = replace(then, watermark=BEGINNING)
        self.reached = advanced(
            then, InputArrivals({**begin, **ends}, latest, behind, has_ended=has_ended), TIME, world.now
        )
        self.watermark = (
            self.reached.watermark if mutant == "watermark decreases" else max(before, self.reached.watermark)
        )
        for row in rows:
            closed = row.window + SIZE
            if closed < before if mutant == "late by one" else closed <= before:
                self.late.append((row.id, before))
            else:
                self._add_to_state(row)
        self.out += self._closed()
        yield "advanced"

    def _add_to_state(self, row: Row) -> None:
        shard_state = self.shard_states[row.key % self.shards]
        known = next((n for n, o in shard_state.rows.items() if (o.window, o.key) == (row.window, row.key)), None)
        ids = () if known is None else shard_state.rows[known].ids
        if known is not None:
            shard_state.forget(known)
        shard_state.add(Out(row.window, row.key, (*ids, row.id)))

    def _closed(self) -> list[Out]:
        closed = []
        for shard_state in self.shard_states:
            for number, row in list(shard_state.rows.items()):
                if row.window + SIZE <= self.watermark:
                    closed.append(row)
                    shard_state.forget(number)
        return closed

    def _is_finished(self) -> bool:
        return all(offset >= self.world.length for offset in self.reached.offsets.values())

    # -- an epoch: like Stream.commit and commit_epoch

    def _stage(self) -> Iterator[str]:
        world, mutant = self.world, self.world.mutant
        self.number += 1
        name = f"{self.session}/{self.number}"
        rows, late = tuple(self.out), tuple(self.late)
        world.write(f"rows/{name}", repr(rows).encode())
        yield "staged"
        files = []
        for shard, shard_state in enumerate(self.shard_states):
            base = self.writes_bases or needs_base(self.state, shard)
            content = shard_state.file(base=base)
            shard_state.mark_snapshot()
            if content is None:
                continue
            path = f"state/{name}/{shard}"
            world.write(path, content)
            segments = (StateSegment("t", "came", 0, len(content), 1),)
            files.append(StateFile(path, shard, base, hashlib.sha256(content).hexdigest(), segments))
            yield "saved"
        before = () if self.writes_bases else self.state
        self.writes_bases = False
        self.state = required_files((*before, *files))
        if mutant == "base forgotten":
            self.state = tuple({file.shard: file for file in (*before, *files)}.values())
        epoch = Epoch(self.number, {"log": self.reached}, STATE, self.watermark, self.shards, self.state, {}, "e")
        quarantined = hashlib.sha256(repr(late).encode()).hexdigest() if late else ""
        manifest = Manifest("t", name, quarantined, "append", epoch=epoch)
        if mutant != "pending kept":
            self.out, self.late = [], []
        if mutant == "offsets first":
            world.write("offsets", json.dumps(dict(self.reached.offsets)).encode())
            yield "offsets"
        return manifest, rows, late

    def _commit(self, manifest: Manifest, rows: tuple[Out, ...], late: tuple[tuple[int, int], ...]) -> Iterator[str]:
        world, mutant = self.world, self.world.mutant
        world.write(f"aside/{manifest.run_id}", json.dumps(late).encode())
        text = manifest.to_json()
        manifest_id = manifest_id_of(text)
        world.write(f"{manifest_id:x}", text.encode())
        yield "manifest"
        attempts = 2 if mutant == "no response is no commit" else 1
        for attempt in range(attempts):
            number = len(world.table)
            current = world.table[-1].manifest_id if world.table else None
            if current != self.seen[1] and mutant not in {"no conflict check", "by URI"} and not attempt:
                raise Conflict
            yield "checked"
            if mutant == "by URI":
                number = len(world.table)
            try:
                world.put(number, Version(manifest_id, rows))
                break
            except Refused:
                if attempt + 1 < attempts:
                    continue
                if not world.table or world.table[-1].manifest_id != manifest_id:
                    raise Conflict from None
                break
        self.seen = len(world.table), manifest_id
        yield "committed"
        yield from self._post_commit(manifest, manifest_id)
        yield "settled"

    def _post_commit(self, manifest: Manifest, manifest_id: int | None) -> Iterator[str]:
        world = self.world
        late = tuple((i, w) for i, w in json.loads(world.files.get(f"aside/{manifest.run_id}", b"[]")))
        before = len(world.quarantined)
        yield "quarantine"
        if not late or (world.quarantined and world.quarantined[-1][0] == manifest_id):
            return
        if world.table[-1].manifest_id != manifest_id and world.mutant != "late post-commit":
            return
        yield "quarantine checked"
        if len(world.quarantined) != before:
            raise Conflict
        world.quarantined.append((manifest_id or 0, late))
