"""Rows that begin without a value that the database did not send: they are rejected, not stored with a null."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.databases.changes.columns import COMMITTED_AT, INSERT, OP, OPERATIONS, UNAVAILABLE
from pipeline.connectors.databases.columns import REJECTED_ROW, SEPARATOR


def lacks_values(rows: pa.Table) -> pa.ChunkedArray:
    """Return which changes are new rows of which a value was not sent: no earlier change of their key has it."""
    return pc.and_(pc.equal(rows[OP], OPERATIONS[INSERT]), pc.is_valid(rows[UNAVAILABLE]))


def rejecting(rows: pa.Table, logged: pa.Table, setting: str) -> pa.Table:
    """Return typed rows with the column `REJECTED_ROW` if some of them, as they are logged, lack values.

    `setting` is that of the database with which it sends all values.
    """
    at = np.flatnonzero(lacks_values(logged).to_numpy(zero_copy_only=False))
    if not len(at):
        return rows
    marks = np.full(rows.num_rows, None, object)
    lacking = logged.take(pa.array(at)).drop_columns([COMMITTED_AT]).to_pylist()
    marks[at] = [f"{json.dumps(row)}{SEPARATOR}{_reason(row[UNAVAILABLE][0], setting)}" for row in lacking]
    return rows.append_column(REJECTED_ROW, pa.array(marks, pa.string()))


def _reason(name: str, setting: str) -> str:
    return f"column {name!r} was not sent with a new row, or one with a new key, which is gone: the database needs {setting}"
