"""Where a stream remembers: a shard in an engine of its own, brought back from a snapshot and written to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.core.epochs import Epoch, StateFile
from pipeline.kernel.engine import arrow, connect, one, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import as_stored
from pipeline.lake import Storage
from pipeline.streaming.operators.operator import BEGINNING, HASH, Evolving, Operator, Progress, arrived
from pipeline.streaming.operators.shard import Shard
from pipeline.streaming.operators.snapshots import RestorePlan, restore_shard, snapshot_file
from pipeline.streaming.operators.state_tables import ID, SINCE, StateTables

FOLDER = "_headwater/state"
"""Where state files are, below the table."""
_BASE_AFTER = 20
"""So many files of changes, and a shard writes all it remembers again."""


@dataclass(frozen=True)
class ShardConfig:
    """What a shard is made of: its number of how many, the operator, and where its files are."""

    operator: Operator
    samples: Mapping[str, pa.Table]
    number: int
    shards: int
    storage: Storage
    """The table's folder."""
    limits: Limits = field(default_factory=lambda: Limits(threads=1))
    epoch: Epoch | None = None
    """The commit from which its memory is brought back."""


class StateTask:
    """A worker with one shard."""

    def __init__(self, config: ShardConfig) -> None:
        """Make the memory, or bring it back; raise `StorageError` for a state file that is damaged or gone."""
        self._config = config
        self._stack = ExitStack()
        with ExitStack() as opening:
            con = opening.enter_context(connect(config.limits, keep=False))
            for name in config.operator.inputs:
                con.register(arrived(name), config.samples[name])
            state = StateTables(con)
            same = config.epoch is not None and config.epoch.shards == config.shards
            as_then = config.operator.evolving if same and isinstance(config.operator, Evolving) else frozenset()
            state.create({n: select for n, select in config.operator.state.items() if n not in as_then})
            if config.epoch is not None:
                plan = RestorePlan(config.epoch, config.storage.read_bytes, self._evolve)
                restore_shard(plan, state, config.number, config.shards)
            state.create({n: select for n, select in config.operator.state.items() if n not in state.tables})
            self._shard = Shard(config.operator, state)
            self._stack = opening.pop_all()

    def _evolve(self, state: StateTables) -> None:
        """Bring a state that was declared otherwise to its columns of today."""
        operator = self._config.operator
        if not isinstance(operator, Evolving):
            return
        for table in operator.evolving & set(state.tables):
            before = schema_of(state.con, f"select * exclude ({ID}, {SINCE}) from {quoted(table)}")
            state.reshape(table, operator.evolved(before))

    def horizon(self) -> int:
        """Return the watermark at which all that is held now is out; `BEGINNING` when nothing waits for one."""
        select = self._config.operator.horizon
        watermark = None if select is None else one(self._shard.state.con, select)[0]
        return BEGINNING if watermark is None else int(watermark)

    def close(self) -> None:
        """Forget all."""
        self._stack.close()

    def advance(self, blocks: Mapping[str, Sequence[pa.Table]], progress: Progress) -> pa.Table:
        """Take rows that were dealt to the shard and return those that are out now."""
        arrived_blocks = {
            name: [*blocks.get(name, ()), self._config.samples[name]] for name in self._config.operator.inputs
        }
        con = self._shard.state.con
        return arrow(con, as_stored(con, self._shard.advance(arrived_blocks, progress)))

    def snapshot(self, name: str, *, base: bool) -> StateFile | None:
        """Write what changed since the last snapshot, or all; `None` when there is nothing to write.

        The file is there for good once this returns, and nothing refers to it before the epoch is committed.
        """
        state = self._shard.state
        state_file = snapshot_file(
            state, f"{FOLDER}/{name}-{self._config.number:04d}.arrows", self._config.number, base=base
        )
        state.mark_snapshot()
        if state_file is None:
            return None
        file, content = state_file
        self._config.storage.write_bytes(file.path, content)
        return file

    def tables(self, table: str | None = None) -> dict[str, pa.Table]:
        """Return what the shard remembers, by table."""
        state = self._shard.state
        hidden = f"exclude ({ID}, {SINCE}, {HASH})"
        names = state.tables if table is None else (table,)
        return {name: arrow(state.con, f"select * {hidden} from {quoted(name)}") for name in names}

    def rows(self) -> int:
        """Return how many rows it remembers."""
        return sum(self._shard.state.rows(table) for table in self._shard.state.tables)


def needs_base(files: Sequence[StateFile], shard: int) -> bool:
    """Return whether a shard's next file should be a base: too many changes since the last, or more than it."""
    ours = [file for file in files if file.shard == shard]
    changes = [file for file in ours if not file.is_base]
    if len(changes) >= _BASE_AFTER:
        return True
    bases = [file.size_bytes for file in ours if file.is_base]
    return bool(changes) and sum(f.size_bytes for f in changes) > max(bases[-1] if bases else 0, 4 << 20)
