"""An operator driven by hand: blocks and watermarks in, rows out, with any number of shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from pipeline.kernel.engine import arrow, connect
from pipeline.streams.operator import BEGINNING, HASH, Operator, Progress
from pipeline.streams.shard import dealt, opened


@dataclass
class Driven:
    """What an operator gave, epoch by epoch."""

    epochs: list[pa.Table] = field(default_factory=list)
    late: list[dict[str, object]] = field(default_factory=list)
    remembered: int = 0
    """The rows that all shards remember in the end."""

    @property
    def rows(self) -> list[dict[str, object]]:
        """All rows that came out, in order."""
        return [row for epoch in self.epochs for row in epoch.to_pylist()]


def drive(operator: Operator, epochs: Sequence[tuple[Mapping[str, pa.Table], int]], shards: int = 1) -> Driven:
    """Give an operator the blocks of each epoch and the watermark that it ends with, in microseconds."""
    driven, before = Driven(), BEGINNING
    with ExitStack() as stack:
        con = stack.enter_context(connect())
        first = epochs[0][0]
        samples = {}
        for name in operator.inputs:
            con.register(name, first[name].slice(0, 0))
            samples[name] = dealt(con, operator.prepare(name, BEGINNING), 1)[0]
        parts = [stack.enter_context(opened(operator, samples)) for _ in range(shards)]
        for blocks, watermark in epochs:
            arriving: list[dict[str, list[pa.Table]]] = [{} for _ in range(shards)]
            for name in operator.inputs:
                prepared = operator.prepare(name, before)
                con.register("_all", blocks[name])
                late = prepared.late or "false"
                driven.late += arrow(con, f"select * from _all where {late}").to_pylist()
                con.register(name, arrow(con, f"select * from _all where not coalesce({late}, false)"))
                for number, rows in enumerate(dealt(con, prepared, shards)):
                    arriving[number].setdefault(name, []).append(rows)
            outs = [
                arrow(shard.memory.con, shard.advance(arriving[number], Progress(before, watermark)))
                for number, shard in enumerate(parts)
            ]
            assert all(HASH not in out.column_names for out in outs)
            driven.epochs.append(pa.concat_tables(outs))
            before = watermark
        driven.remembered = sum(shard.memory.rows(table) for shard in parts for table in shard.memory.tables)
    return driven


@pytest.fixture(name="drive")
def _drive():
    return drive
