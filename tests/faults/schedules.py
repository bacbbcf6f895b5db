"""Random schedules of the epoch protocol, the invariants after each one, and the mutants that they must detect."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.core.epochs import Epoch
from tests.faults.simulator import SIZE, Conflict, Coordinator, Damaged, Dice, Refused, S, World, Wrong

DAMAGED = "damaged/"
"""The folder with the original content of damaged files."""
MUTANTS = {
    "no conflict check": "a commit does not check whether the table has changed",
    "by URI": "a commit uses a newly opened table",
    "offsets first": "offsets are stored separately and before the rows",
    "uncommitted state": "state files are used that no commit refers to",
    "no fsync": "files are not synced before the commit that refers to them",
    "no checksum": "the checksum of a state file is not verified",
    "base forgotten": "only the last state file of a shard is kept",
    "no base after resharding": "with another number of shards, incremental files follow the old ones",
    "pending kept": "committed rows stay pending",
    "watermark decreases": "the watermark may decrease",
    "late by one": "a row for a window that is just closing is accepted",
    "no post-commit at start": "a restarted stream does not run post-commit of the last commit",
    "late post-commit": "a resumed coordinator quarantines rows again",
    "no response is no commit": "a commit without a response is repeated",
}


@dataclass
class Schedule:
    """The running coordinators of a world, and its faults."""

    world: World
    running: list[Coordinator] = field(default_factory=list)

    def go(self) -> None:
        """Run until a coordinator reaches the end of the log. After a number of steps, there are no more faults."""
        dice = self.world.dice
        most = 60 * self.world.length
        for step in range(3 * most):
            if step > most and dice.most is None:
                dice.most = dice.taken
            self._inject_faults()
            if not self.running or (len(self.running) < 3 and dice.happens(60)):
                self._start()
            if self._step(self._chosen()):
                return
        raise Wrong("it does not end")

    def _start(self) -> None:
        self.running.append(Coordinator(self.world, 1 + self.world.dice.pick(3)))

    def _chosen(self) -> Coordinator:
        """Return the next coordinator to run. Occasionally, one is suspended and another is started."""
        dice, running = self.world.dice, self.running
        chosen = running[dice.pick(len(running))]
        if dice.happens(40):
            chosen.asleep = dice.pick(60)
            if len(running) < 3:
                self._start()
        awake = [process for process in running if not process.asleep]
        if chosen.asleep and awake and not dice.is_calm:
            chosen.asleep -= 1
            return awake[0]
        return chosen

    def _step(self, chosen: Coordinator) -> bool:
        """Run one step of a coordinator; return whether it has reached the end of the log."""
        try:
            next(chosen.steps, None)
        except (Conflict, Refused):
            self.running.remove(chosen)
        except Damaged as error:
            self.running.remove(chosen)
            self._repair(str(error))
        return chosen.ended

    def _inject_faults(self) -> None:
        world, dice = self.world, self.world.dice
        world.now += dice.pick(3) * S // 2 + 1
        world.arrived += 1 if dice.is_calm else dice.pick(2)
        if dice.happens(40) and self.running:
            self.running.pop(dice.pick(len(self.running)))  # killed
        if dice.happens(300):
            self.running.clear()
            world.lose_power()
        if dice.happens(80):
            world.now += (dice.pick(200) - 100) * S
        files = [name for name in world.files if name.startswith("state/")] if dice.happens(300) else []
        if files:
            name = files[dice.pick(len(files))]
            world.files.setdefault(DAMAGED + name, world.files[name])
            world.files[name] = world.files[name].replace(b"1", b"2", 1)

    def _repair(self, name: str) -> None:
        """Restore a file that a fault damaged; raise `Wrong` if it is missing for another reason."""
        files = self.world.files
        if DAMAGED + name not in files:
            raise Wrong(f"{name} is referred to by a commit but does not exist")
        files[name] = files.pop(DAMAGED + name)


def simulate(seed: int, mutant: str = "", most: int | None = None, length: int = 24) -> World:
    """Run a schedule to its end and check all invariants; raise `Wrong` with the seed."""
    world = World(Dice(seed, most), mutant, length=length)
    try:
        Schedule(world).go()
        hold(world)
    except Exception as error:
        message = str(error) if isinstance(error, Wrong) else repr(error)
        raise Wrong(f"seed {seed}: {message}", world.dice.taken) from error
    return world


def hold(world: World) -> None:
    """Check the oracle: each epoch once, each row in one place, no window twice, and none closed too early or late."""
    epochs = [epoch for v in world.table if (epoch := world.manifest(v.manifest_id).epoch) is not None]
    _in_order(epochs)
    for version, epoch in zip(world.table, epochs, strict=True):
        _require(
            [row for row in version.rows if row.window + SIZE > epoch.watermark], f"closed early in {epoch.number}"
        )
    row_by_id = {row.id: row for rows in world.rows.values() for row in rows}
    out = [row for version in world.table for row in version.rows]
    late = {row: watermark for _, rows in world.quarantined for row, watermark in rows}
    windows = Counter((row.window, row.key) for row in out)
    _require([window for window, count in windows.items() if count > 1], "were emitted twice")
    ids = Counter([i for row in out for i in row.ids] + [i for _, rows in world.quarantined for i, _ in rows])
    _require([row for row, count in ids.items() if count > 1], "count twice")
    _require(sorted(row_by_id.keys() - ids.keys()), "are lost")
    _require([row for row, watermark in late.items() if row_by_id[row].window + SIZE > watermark], "were not late")
    batch: dict[tuple[int, int], set[int]] = {}
    for row in row_by_id.values():
        if row.id not in late:
            batch.setdefault((row.window, row.key), set()).add(row.id)
    if {(row.window, row.key): set(row.ids) for row in out} != batch:
        raise Wrong("the table differs from the batch result")


def _in_order(epochs: list[Epoch]) -> None:
    if [epoch.number for epoch in epochs] != list(range(1, len(epochs) + 1)):
        raise Wrong(f"epochs {[epoch.number for epoch in epochs]}")
    for earlier, later in itertools.pairwise(epochs):
        back = [uri for uri, offset in earlier.offsets.items() if later.offsets[uri] < offset]
        _require(back, f"go back in epoch {later.number}")
        if later.watermark < earlier.watermark:
            raise Wrong(f"the watermark decreases in epoch {later.number}")
        if len(later.state) > 25 * max(earlier.shards, later.shards):
            raise Wrong(f"{len(later.state)} state files")


def _require(violations: Sequence[object], what: str) -> None:
    if violations:
        raise Wrong(f"{', '.join(map(str, violations[:3]))} {what}")


def shrunk(seed: int, mutant: str = "") -> int:
    """Return the smallest number of random choices with which a failing schedule still fails."""
    try:
        simulate(seed, mutant)
    except Wrong as error:
        most = error.choices
    else:
        raise AssertionError(f"seed {seed} does not fail")
    for fewer in range(0, most, max(most // 100, 1)):
        try:
            simulate(seed, mutant, fewer)
        except Wrong:
            return fewer
    return most
