"""Rewrites JSON that is one array, or objects that span lines, as one object per line.

The layout of a file is detected from its first bytes. Objects are copied unchanged, except for line ends between
tokens. The position of an object is its number.
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
"""Maximum size of an object; the reader needs twice as much memory, for any file size."""
_HEAD_BYTES = 1 << 16
Layout = Literal["newline_delimited", "array", "unstructured"]


def layout(path: str) -> Layout:
    """Return the layout of the objects of a file, as DuckDB's `format` option."""
    with Path(path).open("rb") as file:
        head = file.read(_HEAD_BYTES).removeprefix(BOM).lstrip()
    lines = [line.strip() for line in head.split(b"\n") if line.strip()]
    if head.startswith(b"["):
        rest = lines[1] if len(lines) > 1 else b""
        # a line that is a complete array is one of several lines, not an array that spans the file
        return "newline_delimited" if rest.startswith(b"{") and _is_whole(lines[0]) else "array"
    is_cut = head.startswith(b"{") and len(lines) > 1 and _is_cut(lines[0])
    return "unstructured" if is_cut and not lines[1].startswith(b"{") else "newline_delimited"


@contextmanager
def in_lines(path: str, place: Place) -> Iterator[str]:
    """Yield a path with the same objects, one per line: the file itself if it already has this layout.

    Raises `SourceError` if the layout changes within the file.
    """
    file_layout = layout(path)
    if file_layout == "newline_delimited":
        yield path
        return
    with scratch.folder("source") as folder, connect(Limits(threads=1)) as con:
        lines = str(Path(folder) / "source")
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
                f"the file begins as {kind} in JSON, but cannot be read as such",
                got=where[0] if where else first_line(error),
                do="write one array, or one object per line",
                place=place,
            ) from error
        if not Path(lines).stat().st_size:
            Path(lines).write_bytes(b"\n")  # a blank line is not a row
        yield lines


def _require_closed(path: str, file_layout: Layout) -> None:
    with Path(path).open("rb") as file:
        file.seek(max(Path(path).stat().st_size - _HEAD_BYTES, 0))
        if file_layout == "array" and not file.read().rstrip().endswith(b"]"):
            raise ValueError("no closing bracket at its end")


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_cut(line: bytes) -> bool:
    """Return whether a line is valid JSON up to its end, but incomplete. An invalid line is rejected on its own."""
    try:
        text = line.decode()
        json.loads(text)
    except json.JSONDecodeError as error:
        return error.pos >= len(text)
    except (UnicodeDecodeError, RecursionError):
        pass
    return False
