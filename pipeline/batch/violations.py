"""Rows that violate expectations, set aside while a statement streams the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
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

MOST_BYTES = 64 << 20
"""The maximum size of the quarantined rows of a split in memory; with more, the validating pass is required."""
_TYPES = ("BIGINT", "VARCHAR", "BIGINT", "VARCHAR")
_ROWS = pa.schema([("bits", pa.int64()), ("_source", pa.string()), ("_position", pa.int64()), ("row", pa.string())])


@dataclass
class Violations:
    """The violations of a statement's rows: counts of each expectation, and the rows to quarantine."""

    expectations: tuple[Expectation, ...]
    condition: str = "true"
    """SQL that is true for the rows to keep; a violation of a `fail` expectation raises an error."""
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

    def rows(self) -> pa.Table:
        """Return the quarantined rows, with `reasons`, `_source`, `_position` and `row`."""
        rows = pa.Table.from_batches(self._batches, _ROWS)
        reasons = {bits: reasons_of(self.expectations, bits) for bits in pc.unique(rows["bits"]).to_pylist()}
        named = pa.array([reasons[bits] for bits in rows["bits"].to_pylist()], pa.string())
        return rows.set_column(0, "reasons", named)


@contextmanager
def collected(
    con: duckdb.DuckDBPyConnection, expectations: Sequence[Expectation], columns: Sequence[str], hidden: Sequence[str]
) -> Iterator[Violations]:
    """Collect the violations of the statements in the context that use the condition; `hidden` columns are not stored."""
    tested = tuple(expectations)
    holds = [f"({e.condition}\n)" for e in tested if e.condition != "true"]
    if not holds:
        yield Violations(tested)
        return
    violations = Violations(tested)
    with row_callback(con, violations.receive, _TYPES) as function:
        bits, kept = bits_of(tested), [name for name in columns if name not in hidden]
        row = f"case when ({bits}) & {mask_of(tested, Action.QUARANTINE)} != 0 then {row_as_json(kept)} end"
        arguments = ", ".join((bits, *origin_of(columns), row))
        violations.condition = f"case when {' and '.join(holds)} then true else {function}({arguments}) end"
        yield violations
