"""Rows of a source that do not match the contract, set aside while a scan streams the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pipeline.batch.validating_pass import REJECTED, REJECTED_COLUMNS
from pipeline.batch.work import STOP
from pipeline.core.errors import SchemaError, SourceError
from pipeline.core.sources import MISFIT, POSITION, RowReader
from pipeline.kernel.row_callback import row_callback
from pipeline.kernel.sql_text import literal

MOST = 10_000
"""The maximum number of such rows of a split; with more, the validating pass is required."""
_TYPES = ("BIGINT", "VARCHAR", "BIGINT")


@dataclass
class Misfits:
    """The rows that the scans of a split set aside, and the functions that read them."""

    function: str = ""
    _readers: dict[int, RowReader] = field(default_factory=dict)
    _positions: dict[tuple[int, str], set[int]] = field(default_factory=dict)
    """By the number of the scan, and the URI of the source object."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def receive(self, scan: pa.Array, source: pa.Array, position: pa.Array) -> pa.Array:
        """Note rows, and return for each that it does not match the contract."""
        with self._lock:
            for number, uri, at in zip(scan.to_pylist(), source.to_pylist(), position.to_pylist(), strict=True):
                self._positions.setdefault((number, uri), set()).add(at)
            if sum(map(len, self._positions.values())) > MOST:
                raise ValueError(STOP)
        return pa.repeat(pa.scalar(value=False), len(scan))

    def condition(self, source: str, reader: RowReader) -> str:
        """Add a scan, and return its filter: true for a row that matches the contract. `source` is SQL for its source."""
        number = len(self._readers)
        self._readers[number] = reader
        return f"case when {MISFIT} then {self.function}({number}, {source}, {POSITION}) else true end"

    def reject(self, con: duckdb.DuckDBPyConnection) -> int | None:
        """Read the rows that were set aside into `_rejected`, with reasons, and return their number.

        Returns `None` if one of them cannot be read on its own, or matches the contract after all.
        """
        if self._positions:
            con.execute(f"create or replace temp table {REJECTED} {REJECTED_COLUMNS}")
        for (number, uri), positions in sorted(self._positions.items()):
            if not _read(con, self._readers[number], uri, sorted(positions)):
                return None
        return sum(map(len, self._positions.values()))


def _read(con: duckdb.DuckDBPyConnection, reader: RowReader, uri: str, positions: Sequence[int]) -> bool:
    try:
        reading = reader(uri, positions)
    except (SourceError, SchemaError):
        return False
    if reading.rows.num_rows or reading.rejected[POSITION].to_pylist() != positions:
        return False
    con.register("_bad", reading.rejected)
    con.execute(f"insert into {REJECTED} select reason, {literal(uri)}, {POSITION}, row from _bad")
    con.unregister("_bad")
    return True


@contextmanager
def misfits_set_aside(con: duckdb.DuckDBPyConnection) -> Iterator[Misfits]:
    """Let the scans in the context that use `condition` set rows aside."""
    misfits = Misfits()
    with row_callback(con, misfits.receive, _TYPES) as function:
        misfits.function = function
        yield misfits
