"""Distribution of rows to shards, and a shard: an operator with its share of the state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import listed
from pipeline.streaming.operators.operator import HASH, Operator, Prepared, WatermarkAdvance, arrived
from pipeline.streaming.operators.state_tables import StateTables


def with_hash(prepared: Prepared) -> str:
    """Return the SELECT of prepared rows with the hash that determines their shard."""
    by = f"hash({listed(prepared.by)})" if prepared.by else "0::ubigint"
    return f"select *, {by} as {HASH} from ({prepared.select}\n) as _prepared"


def rows_by_shard(con: duckdb.DuckDBPyConnection, prepared: Prepared, shards: int) -> list[pa.Table]:
    """Return the prepared rows for each shard. The input must be a table of `con`."""
    rows = arrow(con, with_hash(prepared))
    if shards == 1:
        return [rows]
    con.register("_to_deal", rows)
    try:
        return [arrow(con, f"select * from _to_deal where {HASH} % {shards} = {number}") for number in range(shards)]
    finally:
        con.unregister("_to_deal")


@dataclass
class Shard:
    """An operator with the state of its share of the keys."""

    operator: Operator
    state: StateTables

    def advance(self, blocks: Mapping[str, Sequence[pa.Table]], progress: WatermarkAdvance) -> str:
        """Process the shard's rows, by input, and return the SELECT of the rows to emit."""
        con = self.state.con
        for name in self.operator.inputs:
            con.register(arrived(name), pa.concat_tables(blocks[name]))
        return self.operator.advance(self.state, progress)


@contextmanager
def open_shard(operator: Operator, samples: Mapping[str, pa.Table], limits: Limits | None = None) -> Iterator[Shard]:
    """Open a shard with empty state. `samples` are prepared rows of each input; only their columns are used."""
    with connect(limits) as con:
        for name in operator.inputs:
            con.register(arrived(name), samples[name].slice(0, 0))
        state = StateTables(con)
        state.create(operator.state)
        yield Shard(operator, state)
