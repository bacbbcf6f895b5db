"""Makes the line ends of delimited text uniform: DuckDB fails if only some lines have a carriage return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pipeline.connectors.files.record_index import RecordIndex, lines_of, record_ends
from pipeline.core import scratch


@contextmanager
def uniform(path: str, lines: RecordIndex, delimiter: str) -> Iterator[tuple[str, RecordIndex]]:
    """Yield the same records on the same lines: the file itself, or a copy if its line ends are mixed.

    In the copy all records end with line feeds; line ends inside quoted fields are unchanged.
    """
    returns = lines.returns()
    if not returns.any() or returns.all():
        yield path, lines
        return
    with scratch.folder("source") as folder:
        copy = str(Path(folder) / "source")
        kept = np.ones(len(lines.data), np.bool_)
        kept[lines.bounds[1:][returns & record_ends(lines, delimiter)] - 2] = False
        lines.data[kept].tofile(copy)
        yield copy, lines_of(copy)
