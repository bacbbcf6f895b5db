"""The columns that every change has beside those of its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.schema import Column

OP, SEQUENCE, COMMITTED_AT, UNAVAILABLE = "_op", "_sequence", "_committed_at", "_unavailable"
INSERT, UPDATE, DELETE, TRUNCATE, READ = range(5)
OPERATIONS = pa.array(["insert", "update", "delete", "truncate", "read"], pa.string())
"""What happened to a row; `read` is a row of the snapshot."""
CHANGE_COLUMNS = (
    Column(OP, "VARCHAR"),
    Column(SEQUENCE, "VARCHAR"),
    Column(COMMITTED_AT, "TIMESTAMPTZ"),
    Column(UNAVAILABLE, "VARCHAR[]"),
)
CHANGE_FIELDS = (
    pa.field(OP, pa.string()),
    pa.field(SEQUENCE, pa.string()),
    pa.field(COMMITTED_AT, pa.timestamp("us", "UTC")),
    pa.field(UNAVAILABLE, pa.list_(pa.string())),
)
_LSN_DIGITS, _INDEX_DIGITS = 16, 10
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)


@dataclass(frozen=True)
class ChangeFacts:
    """For each of several changes: what happened, in which transaction, and where in it."""

    op: npt.NDArray[np.int8]
    commit: npt.NDArray[np.uint64]
    """The position of the transaction in the log of the database."""
    index: npt.NDArray[np.int64]
    """The number of the change in its transaction; 0 for rows of a snapshot."""
    committed_us: npt.NDArray[np.int64]
    """When the transaction was committed, in microseconds since 1970."""

    def arrays(self) -> list[pa.Array]:
        """Return the columns `_op`, `_sequence` and `_committed_at`."""
        return [
            OPERATIONS.take(pa.array(self.op)),
            sequences(self.commit, self.index),
            pa.array(self.committed_us).cast(pa.timestamp("us", "UTC")),
        ]


def sequences(commit: npt.NDArray[np.uint64], index: npt.NDArray[np.int64]) -> pa.StringArray:
    """Return the texts by which changes are ordered in the whole database: hexadecimal, of fixed width."""
    width = _LSN_DIGITS + 1 + _INDEX_DIGITS
    text = np.empty((len(commit), width), np.uint8)
    text[:, _LSN_DIGITS] = ord("-")
    _write_hex(text[:, :_LSN_DIGITS], commit)
    _write_hex(text[:, _LSN_DIGITS + 1 :], index.astype(np.uint64))
    offsets = np.arange(0, width * (len(commit) + 1), width, dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(text.tobytes())]
    return pa.StringArray.from_buffers(len(commit), buffers[1], buffers[2])


def _write_hex(into: npt.NDArray[np.uint8], numbers: npt.NDArray[np.uint64]) -> None:
    digits = into.shape[1]
    for place in range(digits):
        shift = np.uint64(4 * (digits - 1 - place))
        into[:, place] = _HEX[((numbers >> shift) & np.uint64(15)).astype(np.intp)]


def unavailable(names: Sequence[str], is_missing: Sequence[npt.NDArray[np.bool_]], rows: int) -> pa.Array:
    """Return for each row the names of the columns whose values the database did not send; null if it sent all."""
    kind = pa.list_(pa.string())
    missing = np.zeros((rows, len(names)), bool)
    for at, each in enumerate(is_missing):
        missing[:, at] = each
    affected = np.flatnonzero(missing.any(axis=1))
    if not len(affected):
        return pa.nulls(rows, kind)
    patterns, which = np.unique(missing[affected], axis=0, return_inverse=True)
    lists = pa.array([[names[at] for at in np.flatnonzero(pattern).tolist()] for pattern in patterns], kind)
    index = np.zeros(rows, np.int64)
    index[affected] = which.ravel()
    return lists.take(pa.array(index, mask=~missing.any(axis=1)))
