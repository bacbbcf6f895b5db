"""Rejected rows as text: writes them to a file to be read again, and numbers them in their given order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.contract import REJECTED
from pipeline.core.sources import POSITION, ReadResult

REPLACEMENT_CHARACTER = "\ufffd"
"""The replacement for bytes that are not UTF-8."""


@dataclass(frozen=True)
class RejectedTexts:
    """Texts to read again, and the reasons why some of them cannot be read."""

    rows: pa.StringArray
    reasons: pa.StringArray
    """Null for texts that can be read again."""

    @classmethod
    def of(cls, rows: Sequence[str], *, quotes: bool) -> RejectedTexts:
        """Separate texts that can be read again from others; with `quotes`, a text with an open quote cannot."""
        texts = pa.array(rows, pa.string())
        lost = pc.match_substring(texts, REPLACEMENT_CHARACTER)
        is_open = pc.equal(pc.bit_wise_and(pc.count_substring(texts, '"'), 1), 1) if quotes else pa.scalar(value=False)
        why = pc.case_when(
            pc.make_struct(lost, is_open), "not UTF-8", "a quote is not closed", pa.scalar(None, pa.string())
        )
        return cls(texts, why)

    def write(self, path: str, head: str) -> None:
        """Write the readable texts to a file, after a first line if there is one."""
        lines = [head, *self._kept().to_pylist()] if head else self._kept().to_pylist()
        Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")

    def renumbered(self, reading: ReadResult, head: str) -> ReadResult:
        """Return the rows with the number of their text, together with the unreadable texts."""
        first = 1 + (1 + head.count("\n") if head else 0)
        spans = pc.add(pc.count_substring(self._kept(), "\n"), 1).to_numpy(zero_copy_only=False)
        begins = first + np.cumsum(spans) - spans
        numbers = np.flatnonzero(pc.is_null(self.reasons).to_numpy(zero_copy_only=False)) + 1
        rejected = pa.concat_tables([_renumbered(reading.rejected, begins, numbers), self._lost()])
        return ReadResult(_renumbered(reading.rows, begins, numbers), rejected.sort_by(POSITION))

    def _kept(self) -> pa.StringArray:
        return self.rows.filter(pc.is_null(self.reasons))

    def _lost(self) -> pa.Table:
        numbers = pa.array(np.arange(1, len(self.rows) + 1, dtype=np.int64))
        every = pa.table([numbers, self.reasons, self.rows], schema=REJECTED)
        return every.filter(pc.is_valid(self.reasons))


def _renumbered(rows: pa.Table, begins: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]) -> pa.Table:
    at = rows.schema.get_field_index(POSITION)
    positions = numbers[np.searchsorted(begins, rows.column(POSITION).to_numpy())] if rows.num_rows else numbers[:0]
    return rows.set_column(at, POSITION, pa.array(positions, pa.int64()))
