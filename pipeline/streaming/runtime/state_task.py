"""State tasks: a shard in its own DuckDB instance, restored from a snapshot and written to the next one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pyarrow as pa

from pipeline.core.epochs import Epoch, StateFile
from pipeline.kernel.engine import arrow, connect, one, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import as_stored
from pipeline.lake import Storage
from pipeline.streaming.operators.operator import BEGINNING, HASH, DeclaredState, Operator, WatermarkAdvance, arrived
from pipeline.streaming.operators.shard import Shard
from pipeline.streaming.operators.snapshots import RestorePlan, restore_shard, snapshot_file
from pipeline.streaming.operators.state_tables import ID, SINCE, StateTables

FOLDER = "_headwater/state"
"""The folder of state files, relative to the table."""
_BASE_AFTER = 20
"""The number of incremental files after which a shard writes a base file."""


@dataclass(frozen=True)
class ShardConfig:
    """The configuration of a shard: its number, the number of shards, the operator, and the location of its files."""

    operator: Operator
    samples: Mapping[str, pa.Table]
    number: int
    shards: int
    storage: Storage
    """The folder of the table."""
    limits: Limits = field(default_factory=lambda: Limits(threads=1))
    epoch: Epoch | None = None
    """The commit from which its state is restored."""


class StateTask:
    """A worker with one shard."""

    def __init__(self, config: ShardConfig) -> None:
        """Create or restore the state; raise `StorageError` for a state file that is damaged or missing."""
        self._config = config
        self._stack = ExitStack()
        with ExitStack() as opening:
            con = opening.enter_context(connect(config.limits, keep=False))
            for name in config.operator.inputs:
                con.register(arrived(name), config.samples[name])
            self._shard = Shard(config.operator, StateTables(con))
            self._fill()
            self._stack = opening.pop_all()

    def restore(self, epoch: Epoch | None, shards: int) -> None:
        """Replace the state by that of a commit, or by empty state, as a shard of `shards`.

        Raises `StorageError` for a state file that is damaged or missing.
        """
        self._config = replace(self._config, epoch=epoch, shards=shards)
        self._shard.state.drop()
        self._fill()

    def _fill(self) -> None:
        """Create the state tables, and restore their rows from the configured commit."""
        config, state = self._config, self._shard.state
        same = config.epoch is not None and config.epoch.shards == config.shards
        restored_tables = (
            config.operator.evolving if same and isinstance(config.operator, DeclaredState) else frozenset()
        )
        state.create({n: select for n, select in config.operator.state.items() if n not in restored_tables})
        if config.epoch is not None:
            plan = RestorePlan(config.epoch, config.storage.read_bytes, self._evolve)
            restore_shard(plan, state, config.number, config.shards)
        state.create({n: select for n, select in config.operator.state.items() if n not in state.tables})

    def _evolve(self, state: StateTables) -> None:
        """Convert user-declared state tables to their current columns."""
        operator = self._config.operator
        if not isinstance(operator, DeclaredState):
            return
        for table in operator.evolving & set(state.tables):
            before = schema_of(state.con, f"select * exclude ({ID}, {SINCE}) from {quoted(table)}")
            state.reshape(table, operator.evolved(before))

    def horizon(self) -> int:
        """Return the watermark at which all waiting rows are emitted; `BEGINNING` if none wait."""
        select = self._config.operator.horizon
        watermark = None if select is None else one(self._shard.state.con, select)[0]
        return BEGINNING if watermark is None else int(watermark)

    def close(self) -> None:
        """Close the DuckDB instance."""
        self._stack.close()

    def advance(self, blocks: Mapping[str, Sequence[pa.Table]], progress: WatermarkAdvance) -> pa.Table:
        """Process rows of the shard, by input, and return the emitted rows."""
        arrived_blocks = {
            name: [*blocks.get(name, ()), self._config.samples[name]] for name in self._config.operator.inputs
        }
        con = self._shard.state.con
        return arrow(con, as_stored(con, self._shard.advance(arrived_blocks, progress)))

    def snapshot(self, name: str, *, base: bool) -> StateFile | None:
        """Write the changes since the last snapshot, or all state (`base`); return `None` if nothing changed.

        The file is durable when this returns. Nothing refers to it before the epoch is committed.
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
        """Return the state tables of the shard by name, or only one, without internal columns."""
        state = self._shard.state
        hidden = f"exclude ({ID}, {SINCE}, {HASH})"
        names = state.tables if table is None else (table,)
        return {name: arrow(state.con, f"select * {hidden} from {quoted(name)}") for name in names}

    def rows(self) -> int:
        """Return the number of rows of state."""
        return sum(self._shard.state.rows(table) for table in self._shard.state.tables)


def needs_base(files: Sequence[StateFile], shard: int) -> bool:
    """Return whether a shard's next file should be a base, because its incremental files are too many or too large."""
    shard_files = [file for file in files if file.shard == shard]
    changes = [file for file in shard_files if not file.is_base]
    if len(changes) >= _BASE_AFTER:
        return True
    bases = [file.size_bytes for file in shard_files if file.is_base]
    return bool(changes) and sum(f.size_bytes for f in changes) > max(bases[-1] if bases else 0, 4 << 20)
