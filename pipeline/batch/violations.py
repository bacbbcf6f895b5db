"""Rows that violate expectations, set aside while a statement streams the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.batch.work import STOP
from pipeline.core.definitions import Action, Expectation
from pipeline.kernel.checks import bits_of, mask_of, origin_of, reasons_of, row_as_json
from pipeline.kernel.row_callback import row_callback
from pipeline.kernel.sql_text import unused_name

MOST_BYTES = 64 << 20
"""The maximum size of the quarantined rows of a split in memory; with more, the validating pass is required."""
_TYPES = ("BIGINT", "VARCHAR", "BIGINT", "VARCHAR")
_ROWS = pa.schema([("bits", pa.int64()), ("_source", pa.string()), ("_position", pa.int64()), ("row", pa.string())])


@dataclass
class Violations:
    """The violations of a statement's rows: counts of each expectation, and the rows to quarantine."""

    expectations: tuple[Expectation, ...]
    columns: Mapping[str, str] = field(default_factory=dict)
    """SQL by name for columns that are computed one after the other; the last one is whether the table keeps a row."""
    checks: dict[str, int] = field(default_factory=dict)
    quarantined: int = 0
    dropped: int = 0
    _batches: list[pa.RecordBatch] = field(default_factory=list)
    _size_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Set all counts to zero."""
        self.checks = {e.name: 0 for e in self.expectations}

    def receive(self, bits: pa.Array, source: pa.Array, position: pa.Array, row: pa.Array) -> pa.Array:
        """Count rows by their violated expectations, keep those to quarantine, and return which rows the table keeps."""
        violated = bits.to_numpy()
        if (violated & mask_of(self.expectations, Action.FAIL)).any():
            raise ValueError(STOP)
        is_quarantined = violated & mask_of(self.expectations, Action.QUARANTINE) != 0
        is_dropped = ~is_quarantined & (violated & mask_of(self.expectations, Action.DROP) != 0)
        with self._lock:
            for number, expectation in enumerate(self.expectations):
                self.checks[expectation.name] += int(np.count_nonzero(violated & (1 << number)))
            self.quarantined += int(np.count_nonzero(is_quarantined))
            self.dropped += int(np.count_nonzero(is_dropped))
            if is_quarantined.any():
                rows = pa.RecordBatch.from_arrays([bits, source, position, row], schema=_ROWS)
                self._batches.append(rows.filter(pa.array(is_quarantined)))
                self._size_bytes += self._batches[-1].nbytes
                if self._size_bytes > MOST_BYTES:
                    raise ValueError(STOP)
        return pa.array(~(is_quarantined | is_dropped))

    def kept(self, query: str) -> str:
        """Return a FROM item of the rows of a query that the table keeps; it has more columns.

        The function is in a projection, because DuckDB moves filters with a function below joins and set operations.
        """
        rows, name = f"({query}\n) as _headwater_made", ""
        for name, column in self.columns.items():
            rows = f"(select *, {column} as {name} from {rows})"
        return f"(select * from {rows} where {name})" if name else rows

    def rows(self) -> pa.Table:
        """Return the quarantined rows, with `reasons`, `_source`, `_position` and `row`."""
        rows = pa.Table.from_batches(self._batches, _ROWS)
        reasons = {bits: reasons_of(self.expectations, bits) for bits in pc.unique(rows["bits"]).to_pylist()}
        named = pa.array([reasons[bits] for bits in rows["bits"].to_pylist()], pa.string())
        return rows.set_column(0, "reasons", named)


@contextmanager
def violations_set_aside(
    con: duckdb.DuckDBPyConnection, expectations: Sequence[Expectation], columns: Sequence[str], hidden: Sequence[str]
) -> Iterator[Violations]:
    """Collect the violations of the statements in the context that read from `kept`; `hidden` columns are not stored."""
    violations = Violations(tuple(expectations))
    if all(e.condition == "true" for e in expectations):
        yield violations
        return
    with row_callback(con, violations.receive, _TYPES) as function:
        bits, keep = (unused_name(name, columns) for name in ("_bits", "_is_kept"))
        quarantined = f"{bits} & {mask_of(expectations, Action.QUARANTINE)} != 0"
        row = f"case when {quarantined} then {row_as_json(name for name in columns if name not in hidden)} end"
        arguments = ", ".join((bits, *origin_of(columns), row))
        keeps = f"case when {bits} = 0 then true else {function}({arguments}) end"
        violations.columns = {bits: bits_of(expectations), keep: keeps}
        yield violations
