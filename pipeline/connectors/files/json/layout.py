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
_LONGEST_TOKEN = 16
"""More characters than a literal or an escape of JSON has: an error this near to the end of the text may come from the cut."""
_SPACE = re.compile(r"[ \t\n\r]*")
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
            con.execute(
                f"copy (select translate(json, e'\\n\\r', '  ') from {objects}) to {literal(lines)} "
                "(format csv, header false, quote '', escape '', delimiter '\x01')"
            )
        except duckdb.Error as error:
            raise _invalid(path, file_layout, place, first_line(error)) from error
        if file_layout == "array" and not _is_closed(path):  # DuckDB accepts this
            raise _invalid(path, file_layout, place, "no closing bracket")
        if not Path(lines).stat().st_size:
            Path(lines).write_bytes(b"\n")  # a blank line is not a row
        yield lines


def _invalid(path: str, file_layout: Layout, place: Place, otherwise: str) -> SourceError:
    """Return the error for a file that does not have its layout, with the place of its first invalid character."""
    kind = "one array" if file_layout == "array" else "objects that span lines"
    line, problem = _first_error(path, file_layout) or (None, otherwise)
    return SourceError(
        f"the file begins as {kind}, but is not valid JSON: {problem}",
        do="correct it, or write one object per line: then only invalid lines are rejected",
        place=Place(place.file, line),
    )


def _is_closed(path: str) -> bool:
    with Path(path).open("rb") as file:
        file.seek(max(Path(path).stat().st_size - _HEAD_BYTES, 0))
        return file.read().rstrip().endswith(b"]")


def _first_error(path: str, file_layout: Layout) -> tuple[int, str] | None:
    """Return the line of the first error and a description; None if there is none in the first 32 MB of the file."""
    with Path(path).open("rb") as file:
        data = file.read(LONGEST_BYTES)
        is_all = not file.read(1)
    text = data.removeprefix(BOM).decode(errors="replace")
    position, problem = _parse(text, is_array=file_layout == "array")
    may_be_cut = problem.startswith("unterminated") or position > len(text) - _LONGEST_TOKEN
    if not problem or (may_be_cut and not is_all):
        return None
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    return line, problem if position >= len(text) else f"{problem} at column {column}"


def _parse(text: str, *, is_array: bool) -> tuple[int, str]:
    """Return where a sequence of JSON values ends or is invalid, and why it is invalid, or an empty text."""
    decoder, position, separator = json.JSONDecoder(), _after_space(text, 0), ""
    if is_array:
        position, separator = _after_space(text, position + 1), ","
        if text[position : position + 1] == "]":
            return position, ""
    while position < len(text):
        try:
            _, position = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            return error.pos, "the file ends inside a value" if error.pos >= len(text) else _lower(error.msg)
        except RecursionError:
            return position, ""
        position = _after_space(text, position)
        if is_array and text[position : position + 1] == "]":
            position = _after_space(text, position + 1)
            return position, "text after the end of the array" if position < len(text) else ""
        if separator and position < len(text):
            if text[position] != separator:
                return position, "no comma between two values"
            position = _after_space(text, position + 1)
    return position, "no closing bracket at the end of the array" if is_array else ""


def _after_space(text: str, position: int) -> int:
    """Return the position of the first character from a position on that is not white space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:].removesuffix(" at").removesuffix(" starting at")


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
