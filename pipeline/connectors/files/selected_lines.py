"""Selected lines of a text file, in a file of their own, to read single rows of a large file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.files.record_index import Numbers, RecordIndex, lines_of
from pipeline.core.errors import Place, SourceError
from pipeline.core.sources import POSITION, ReadResult


@dataclass(frozen=True)
class SelectedLines:
    """Some lines of a file, preceded by its first lines, which decide how a header is understood."""

    lines: RecordIndex
    numbers: Numbers
    """The numbers of all lines of the new file."""
    selected: Numbers

    @classmethod
    def of(cls, path: str, numbers: Sequence[int], first: int) -> SelectedLines:
        """Select lines by their numbers, from 1, and the `first` lines; raise `SourceError` for another number."""
        lines, selected = lines_of(path), np.asarray(numbers, np.int64)
        if not 0 < selected.min() <= selected.max() <= lines.count:
            raise SourceError(
                "a row is not a line of the file", got=f"a file of {lines.count:,} lines", place=Place(path)
            )
        every = np.union1d(np.arange(1, min(first, lines.count) + 1), selected)
        return cls(lines, every.astype(np.int64), selected)

    def write(self, path: str) -> None:
        """Write the lines to a new file, without a byte order mark."""
        texts = self.lines.texts().take(pa.array(self.numbers - 1)).to_pylist()
        Path(path).write_bytes(b"".join(text if text.endswith(b"\n") else text + b"\n" for text in texts))

    def renumbered(self, reading: ReadResult) -> ReadResult:
        """Return the rows of the selected lines, with the numbers of the lines in the original file as positions."""
        return ReadResult(self._renumbered(reading.rows), self._renumbered(reading.rejected))

    def _renumbered(self, rows: pa.Table) -> pa.Table:
        at = rows.schema.get_field_index(POSITION)
        numbers = self.numbers[rows.column(POSITION).to_numpy() - 1]
        moved = rows.set_column(at, POSITION, pa.array(numbers, pa.int64()))
        return moved.filter(pc.is_in(moved.column(POSITION), pa.array(self.selected)))
