"""Drives an operator directly: blocks and watermarks in, rows out, with any number of shards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline.kernel.engine import arrow, connect
from pipeline.streaming.operators.batch_form import with_log_position
from pipeline.streaming.operators.operator import BEGINNING, END, HASH, Operator, WatermarkAdvance
from pipeline.streaming.operators.shard import open_shard, rows_by_shard
from tests.rigs.proofs import examples


@dataclass
class Driven:
    """The output of an operator by epoch."""

    epochs: list[pa.Table] = field(default_factory=list)
    late: list[dict[str, object]] = field(default_factory=list)
    state_rows: int = 0
    """The number of rows of state of all shards at the end."""

    @property
    def rows(self) -> list[dict[str, object]]:
        """All emitted rows in order."""
        return [row for epoch in self.epochs for row in epoch.to_pylist()]


def drive(operator: Operator, epochs: Sequence[tuple[Mapping[str, pa.Table], int]], shards: int = 1) -> Driven:
    """Process the blocks of each epoch and the watermark at its end, in microseconds."""
    driven, before = Driven(), BEGINNING
    with ExitStack() as stack:
        con = stack.enter_context(connect())
        first = epochs[0][0]
        samples = {}
        for name in operator.inputs:
            con.register(name, with_log_position(first[name].slice(0, 0)))
            samples[name] = rows_by_shard(con, operator.prepare(name, BEGINNING), 1)[0]
        parts = [stack.enter_context(open_shard(operator, samples)) for _ in range(shards)]
        for blocks, watermark in epochs:
            arriving: list[dict[str, list[pa.Table]]] = [{} for _ in range(shards)]
            for name in operator.inputs:
                prepared = operator.prepare(name, before)
                con.register("_all", with_log_position(blocks[name]))
                late = prepared.late or "false"
                driven.late += arrow(con, f"select * from _all where {late}").to_pylist()
                con.register(name, arrow(con, f"select * from _all where not coalesce({late}, false)"))
                for number, rows in enumerate(rows_by_shard(con, prepared, shards)):
                    arriving[number].setdefault(name, []).append(rows)
            outs = [
                arrow(shard.state.con, shard.advance(arriving[number], WatermarkAdvance(before, watermark)))
                for number, shard in enumerate(parts)
            ]
            is_users = any(HASH in rows.column_names for rows in first.values())
            assert is_users or all(HASH not in out.column_names for out in outs)
            driven.epochs.append(pa.concat_tables(outs))
            before = watermark
        driven.state_rows = sum(shard.state.rows(table) for shard in parts for table in shard.state.tables)
    return driven


@pytest.fixture(name="drive")
def _drive():
    return drive


SECOND = 1_000_000
Row = tuple[object, ...]


@dataclass(frozen=True)
class Chopped:
    """Rows by input, and one possible arrival within the lateness: epochs of rows, each with its watermark."""

    rows: Mapping[str, list[Row]]
    epochs: list[tuple[dict[str, list[Row]], int]]
    shards: int

    def blocks(self, to_arrow: Callable[[str, list[Row]], pa.Table]) -> list[tuple[dict[str, pa.Table], int]]:
        """The epochs with each block as an Arrow table."""
        return [({n: to_arrow(n, rows) for n, rows in block.items()}, mark) for block, mark in self.epochs]


@st.composite
def chopped(draw, inputs: Mapping[str, st.SearchStrategy[Row]], most: int = 24, lateness: int = 6):
    """Draw rows whose first value is the event time in seconds, and that arrive up to `lateness` after it."""
    rows = {name: draw(st.lists(row, max_size=most)) for name, row in inputs.items()}
    arriving = [
        (row[0] + draw(st.integers(0, lateness)), name, row) for name, input_rows in rows.items() for row in input_rows
    ]
    arriving.sort(key=lambda arrival: arrival[0])
    cuts = draw(st.sets(st.integers(0, max(len(arriving) - 1, 0)), max_size=3))
    epochs: list[tuple[dict[str, list[Row]], int]] = []
    block: dict[str, list[Row]] = {name: [] for name in inputs}
    latest = -(1 << 30)
    for number, (_, name, row) in enumerate(arriving):
        block[name].append(row)
        latest = max(latest, row[0])
        if number in cuts:
            epochs.append((block, (latest - lateness) * SECOND))
            block = {name: [] for name in inputs}
    return Chopped(rows, [*epochs, (block, END)], draw(st.integers(1, 3)))


@pytest.fixture(name="chopped", scope="session")
def _chopped():
    return chopped


@pytest.fixture(name="proof", scope="session")
def _proof():
    """The number of cases of a property test: few with many rows each, unless all proofs are requested."""
    return settings(
        max_examples=examples(4, 60),
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
