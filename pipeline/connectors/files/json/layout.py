"""JSON that is one array, or objects that span lines, written again as one object a line.

How a file is laid out is told by its first bytes. Objects are copied as they stand, but for the ends of lines between
their tokens; the position of each is its number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import duckdb

from pipeline.connectors.files.record_index import BOM
from pipeline.core import scratch
from pipeline.core.errors import Place, SourceError
from pipeline.kernel.engine import connect, first_line
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import literal

LONGEST_BYTES = 32 << 20
"""The longest object that is read; the reader takes twice as much memory, whatever the file's size."""
_HEAD_BYTES = 1 << 16
Layout = Literal["newline_delimited", "array", "unstructured"]


def layout(path: str) -> Layout:
    """Return how the objects of a file are laid out, in DuckDB's words."""
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(BOM).lstrip()
    lines = [line.strip() for line in head.split(b"\n") if line.strip()]
    if head.startswith(b"["):
        rest = lines[1] if len(lines) > 1 else b""
        # a line that is an array by itself is one line of several, and none of them an array that spans the file
        return "newline_delimited" if rest.startswith(b"{") and _is_whole(lines[0]) else "array"
    is_cut = head.startswith(b"{") and len(lines) > 1 and not _is_whole(lines[0])
    return "unstructured" if is_cut and not lines[1].startswith(b"{") else "newline_delimited"


@contextmanager
def in_lines(path: str, place: Place) -> Iterator[str]:
    """Yield a path with the same objects, one a line: the file itself where it is written so.

    Raises `SourceError` when the file is laid out in one way at its beginning and in another one later.
    """
    file_layout = layout(path)
    if file_layout == "newline_delimited":
        yield path
        return
    with scratch.folder("piece") as folder, connect(Limits(threads=1)) as con:
        lines = str(Path(folder) / "piece")
        objects = f"read_json_objects({literal(path)}, format = '{file_layout}', maximum_object_size = {LONGEST_BYTES})"
        try:
            _require_closed(path, file_layout)
            con.execute(
                f"copy (select translate(json, e'\\n\\r', '  ') from {objects}) to {literal(lines)} "
                "(format csv, header false, quote '', escape '', delimiter '\x01')"
            )
        except (duckdb.Error, ValueError) as error:
            kind = "one array" if file_layout == "array" else "objects that span lines"
            where = re.search(r"at byte \d+ .*", first_line(error))
            raise SourceError(
                f"the file begins as {kind} of JSON and does not go on so",
                got=where[0] if where else first_line(error),
                do="write one array, or one object a line",
                place=place,
            ) from error
        if not Path(lines).stat().st_size:
            Path(lines).write_bytes(b"\n")  # a blank line is no row
        yield lines


def _require_closed(path: str, file_layout: Layout) -> None:
    with Path(path).open("rb") as file:
        file.seek(max(Path(path).stat().st_size - _HEAD_BYTES, 0))
        if file_layout == "array" and not file.read().rstrip().endswith(b"]"):
            raise ValueError("no bracket at its end")


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
