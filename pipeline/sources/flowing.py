"""Parts of text files as queries, true only if all that `Flowing` asks for holds; else they are read carefully."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import Place
from pipeline.core.reading import MISFIT, POSITION, Flowing
from pipeline.core.schema import Schema
from pipeline.kernel.engine import literal
from pipeline.sources import delimited, documents, nested
from pipeline.sources.cutting import bytes_of, holds
from pipeline.sources.delimited import Delimited, Dialect
from pipeline.sources.fit import Cells, any_misfit, as_columns, cast_cells, hold

_LINE = "'line': 'VARCHAR'"
_NO_BYTE = "\x01"
"""Valid JSON never holds this byte as such."""


@dataclass(frozen=True)
class TextScan:
    """A scan in parts: SQL for the columns in their types, for whether a row is a misfit, and for where rows are from."""

    columns: str
    misfit: str
    source: str


def of_delimited(file: Delimited, schema: Schema, lines: int, moved: int) -> Flowing | None:
    """Return the rows of a delimited file of so many lines, their positions moved; None when the header is an odd one.

    The count tells of a field with a line break and of a blank line, `oddities` of all else that DuckDB cannot read.
    """
    names = delimited.header(file)
    undeclared = hold(schema, names, Place(file.place.file, 1), file.dialect.new_columns)
    if undeclared or file.dialect.head_bytes(bytes_of(file.path)) is None:
        return None
    head = file.dialect.header_lines
    rejects = rejects_for(file.path)
    scan = delimited_scan(file.path, file.dialect, names, schema, rejects)
    return _flowing(scan, lines - head, moved + head, rejects)


def delimited_scan(
    path: str | Sequence[str], dialect: Dialect, names: tuple[str, ...], schema: Schema, rejects: str
) -> TextScan:
    """Return the scan of one or several delimited files whose header has these names."""
    head = dialect.head_bytes(bytes_of(path)) if isinstance(path, str) else None
    underscored = not isinstance(path, str) or holds(path, b"_", head or 0)
    source = delimited.strict_scan(path, dialect, names, delimited.dates_of(schema), rejects)
    return _text_scan(schema, delimited.scanned_cells(schema, names, underscored=underscored), _with_file(path, source))


def _with_file(path: str | Sequence[str], scan: str) -> str:
    """Return a scan that tells of each row which of several files it is from."""
    return scan if isinstance(path, str) else f"(select *, file_index from {scan})"


def _text_scan(schema: Schema, cells: Cells, source: str, other: str = "false") -> TextScan:
    """Return a scan of cells; a row for which `other` is true is a misfit too."""
    return TextScan(as_columns(schema), f"{other} or {any_misfit(schema, cells)}", cast_cells(schema, cells, source))


def of_documents(path: str, schema: Schema, lines: int, moved: int) -> Flowing:
    """Return the rows of so many lines of JSON, their positions moved.

    Their values come by the very expressions with which they are read carefully.

    A line that is blank, no object, or has a field of another name is a misfit; one that is no JSON is an error.
    """
    rejects = rejects_for(path)
    return _flowing(documents_scan(path, schema, rejects), lines, moved, rejects)


def documents_scan(path: str | Sequence[str], schema: Schema, rejects: str) -> TextScan:
    """Return the scan of one or several files of JSON lines."""
    paths = literal(path) if isinstance(path, str) else f"[{', '.join(map(literal, path))}]"
    # `case`, since DuckDB weighs both sides of an `and`: most lines have just the fields of the contract, each once
    keys = tuple(column.data_name for column in schema.columns)
    count = len(keys)
    other = (
        f"case when len(json_keys(line)) = {count} and list_count(texts) = {count} then false "
        f"else coalesce(json_type(line) <> 'OBJECT' or not {nested.only_keys('json_keys(line)', keys)}, true) end"
    )
    scan = (
        f"read_csv({paths}, auto_detect = false, header = false, delim = {literal(_NO_BYTE)}, quote = '', "
        f"escape = '', max_line_size = {delimited.LONGEST_BYTES}, store_rejects = true, rejects_limit = 0, "
        f"rejects_table = {literal(rejects)}, rejects_scan = {literal(rejects + '_scans')}, columns = {{{_LINE}}})"
    )
    # no guard around what is parsed: DuckDB then parses once for all columns; what is no JSON stops the query
    source = documents.with_texts(schema, _with_file(path, scan))
    return _text_scan(schema, documents.cells(schema), source, other)


def _flowing(scan: TextScan, rows: int, moved: int, rejects: str) -> Flowing:
    numbered = f"row_number() over () + {moved} as {POSITION}"
    query = f"select {scan.columns}, {numbered}, ({scan.misfit}) as {MISFIT} from {scan.source}"
    return Flowing(query, rows, f"select count(*) from {rejects}")


def rejects_for(path: str) -> str:
    """Return the name of the temporary table in which DuckDB notes what it cannot read of a file."""
    return "rejects_" + Path(path).parent.name.rpartition("-")[2]


def forget(path: str) -> str:
    """Return statements that drop what DuckDB noted of a file."""
    return f"drop table if exists {rejects_for(path)}; drop table if exists {rejects_for(path)}_scans"
