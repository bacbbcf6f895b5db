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
    """The lines of the original text, with the line ends of the file."""
    broken: Numbers
    """The numbers of the lines that contain a carriage return outside quotes. In the file it is an invalid byte."""


@contextmanager
def uniform(path: str, lines: RecordIndex, delimiter: str) -> Iterator[UniformText]:
    """Yield the file itself, or a copy if line ends are mixed or a line contains a carriage return outside quotes.

    In the copy all records end with line feeds, or all as before; line ends inside quoted fields are unchanged.
    """
    returns, lone = lines.returns(), lines.lone_returns()
    is_mixed = returns.any() and not returns.all()
    if not (is_mixed or len(lone)):
        yield UniformText(path, lines, lone)
        return
    ends = record_ends(lines, delimiter)
    broken = lone[_outside_quotes(lines, ends, lone)]
    if not (is_mixed or len(broken)):
        yield UniformText(path, lines, broken)
        return
    kept = np.ones(len(lines.data), np.bool_)
    if is_mixed:
        kept[lines.bounds[1:][returns & ends] - 2] = False
    with scratch.folder("source") as folder:
        copy = str(Path(folder) / "source")
        data = np.array(lines.data)
        data[broken] = _INVALID
        data[kept].tofile(copy)
        moved = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])[lines.bounds] if is_mixed else lines.bounds
        yield UniformText(copy, RecordIndex(lines.data[kept], moved), np.unique(lines.numbers_at(broken)))


def _outside_quotes(lines: RecordIndex, ends: Flags, offsets: Numbers) -> Flags:
    """Return which bytes are outside quotes; those of the first line, the header, count as inside."""
    numbers = lines.numbers_at(offsets)
    opened = np.append(False, ~ends[:-1])[numbers - 1]
    quotes = lines.quotes_before(offsets) - lines.quotes_before(lines.bounds[numbers - 1])
    outside: Flags = (numbers > 1) & ((quotes + opened) % 2 == 0)
    return outside
