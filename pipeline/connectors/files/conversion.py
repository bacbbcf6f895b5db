"""Formats that are read by converting a file to JSON lines first: Excel, XML and fixed width.

Line n of the converted file is row n of the original one, after a fixed number of rows that are not data. A row that cannot
be converted becomes a JSON array of the reason and the row, which the reader of JSON rejects.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipeline.connectors.files.csv.reader import Dialect
from pipeline.core import scratch
from pipeline.core.errors import Place


class Conversion(Protocol):
    """The options of a format, and its conversion."""

    @property
    def decodes(self) -> bool:
        """Whether it decodes the text of a file itself, in the declared encoding."""

    @property
    def has_columns(self) -> bool:
        """Whether every row has all columns, so that a missing one is an error, and not null."""

    def rows_before(self, dialect: Dialect) -> int:
        """Return the number of rows of a file before the first one that is converted."""

    def convert(self, path: str, target: str, dialect: Dialect, place: Place) -> None:
        """Write the rows of a file as JSON lines; raise `SourceError` if it is damaged, or not of this format."""


@contextmanager
def converted(conversion: Conversion, path: str, dialect: Dialect, place: Place) -> Iterator[str]:
    """Yield a path with the rows of a file as JSON lines."""
    with scratch.folder("source") as folder:
        target = Path(folder) / "source"
        conversion.convert(path, str(target), dialect, place)
        if not target.stat().st_size:
            target.write_bytes(b"\n")  # a blank line is not a row
        yield str(target)


def columns_of(path: str) -> tuple[str, ...] | None:
    """Return the columns of a converted file whose rows all have them; `None` if it has no row."""
    with Path(path).open(encoding="utf-8") as lines:
        row = next((line for line in lines if line.startswith("{")), None)
    return None if row is None else tuple(json.loads(row))


def line_of(row: Mapping[str, Any], problems: list[str]) -> str:
    """Return the line of a row, which is rejected if it has problems; blank for a row without values."""
    if problems:
        return json.dumps(["; ".join(problems), row], ensure_ascii=False)
    return json.dumps(row, ensure_ascii=False) if any(value is not None for value in row.values()) else ""
