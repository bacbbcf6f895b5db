"""Makes the line ends of delimited text uniform, because DuckDB fails on mixed ones and on a lone carriage return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.connectors.files.record_index import Flags, Numbers, RecordIndex, record_ends
from pipeline.core import scratch

_INVALID = 0xFF
"""A byte that occurs in no UTF-8 text, so that DuckDB rejects its record."""


@dataclass(frozen=True)
class UniformText:
    """A file that DuckDB can read: the original, or a copy with the same records on the same lines."""

    path: str
    lines: RecordIndex
    """The lines of the file, with the original carriage returns."""
    broken: Numbers
    """The numbers of the lines with a carriage return outside quotes, which is an invalid byte in the file."""


@contextmanager
def uniform(path: str, lines: RecordIndex, delimiter: str, head: int) -> Iterator[UniformText]:
    """Yield the file itself, or a copy if line ends are mixed or a record contains a carriage return outside quotes.

    In the copy all records end as before, or all with line feeds; line ends inside quoted fields are unchanged. `head` is
    the number of lines before the first record.
    """
    returns, lone = lines.returns(), lines.lone_returns()
    is_mixed = returns.any() and not returns.all()
    ends = record_ends(lines, delimiter) if is_mixed or len(lone) else returns
    broken = lone[_is_outside_quotes(lines, ends, lone) & (lone >= lines.bounds[head])]
    if not (is_mixed or len(broken)):
        yield UniformText(path, lines, broken)
        return
    removed = lines.bounds[1:][returns & ends] - 2 if is_mixed else broken[:0]
    text = RecordIndex(np.delete(lines.data, removed), lines.bounds - np.searchsorted(removed, lines.bounds))
    with scratch.folder("source") as folder:
        copy = str(Path(folder) / "source")
        invalid = text.data.copy()
        invalid[broken - np.searchsorted(removed, broken)] = _INVALID
        invalid.tofile(copy)
        del invalid
        yield UniformText(copy, text, np.unique(lines.numbers_at(broken)))


def _is_outside_quotes(lines: RecordIndex, ends: Flags, offsets: Numbers) -> Flags:
    """Return which bytes are outside quotes; `ends` are the lines that end outside quotes."""
    indexes = lines.numbers_at(offsets) - 1
    is_open = ~ends[indexes - 1] & (indexes > 0)
    outside: Flags = (lines.quotes_between(lines.bounds[indexes], offsets) + is_open) % 2 == 0
    return outside
