"""Parts of text files as queries, true only if all that `Flowing` asks for holds; else they are read carefully."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import Place
from pipeline.core.reading import MISFIT, POSITION, Flowing
from pipeline.core.schema import Schema
from pipeline.kernel.engine import literal, quoted
from pipeline.sources import delimited, documents
from pipeline.sources.cutting import bytes_of, head_bytes
from pipeline.sources.delimited import Delimited, Dialect
from pipeline.sources.fit import INTEGERS, any_misfit, casts, hold

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
    hold(schema, names, Place(file.place.file, 1))
    if head_bytes(bytes_of(file.path), file.dialect.delimiter) is None:
        return None
    rejects = rejects_for(file.path)
    scan = delimited_scan(file.path, file.dialect, names, schema, rejects)
    return _flowing(scan, lines - 1, moved + 1, rejects)


def delimited_scan(
    path: str | Sequence[str], dialect: Dialect, names: tuple[str, ...], schema: Schema, rejects: str
) -> TextScan:
    """Return the scan of one or several delimited files whose header has these names."""
    wholes = Schema(tuple(c for c in schema.columns if c.type in INTEGERS))
    source = delimited.strict_scan(path, dialect, names, schema, rejects)
    return TextScan(delimited.in_types(schema), _not_whole(wholes), source)


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
    names = "[" + ", ".join(literal(name) for name in schema.names) + "]"
    values = documents.values(schema)
    # `case`, since DuckDB weighs both sides of an `and`: most lines have just the fields of the contract, in its order
    other = (
        f"case when json_keys(line) = {names} then false "
        f"else coalesce(json_type(line) <> 'OBJECT' or not list_has_all({names}, json_keys(line)), true) end"
    )
    scan = (
        f"read_csv({paths}, auto_detect = false, header = false, delim = {literal(_NO_BYTE)}, quote = '', "
        f"escape = '', max_line_size = {delimited.LONGEST_BYTES}, store_rejects = true, rejects_limit = 0, "
        f"rejects_table = {literal(rejects)}, rejects_scan = {literal(rejects + '_scans')}, columns = {{{_LINE}}})"
    )
    # no guard around what is parsed: DuckDB then parses once for all columns; what is no JSON stops the query
    file = "" if isinstance(path, str) else ", file_index"
    parsed = f"select line, {documents.texts('line', schema)} as texts{file} from {scan}"
    return TextScan(casts(schema, values), f"{other} or {any_misfit(schema, values)}", f"({parsed})")


def _flowing(scan: TextScan, rows: int, moved: int, rejects: str) -> Flowing:
    query = f"select {scan.columns}, {_numbered(moved)}, ({scan.misfit}) as {MISFIT} from {scan.source}"
    return Flowing(query, rows, _counted(rejects))


def _not_whole(schema: Schema) -> str:
    """Return SQL that is true where a text is no integer of its column's type.

    It asks of each row first whether all its integers differ by nothing from what they are as reals: of all ways to
    say no this was the cheapest by far. Only where there is a difference, or a null, is each column looked at.
    """
    values = {name: quoted(name) for name in schema.names}
    apart = " + ".join(
        f"abs(try_cast({values[c.name]} as double) - try_cast({values[c.name]} as {c.type}))" for c in schema.columns
    )
    return f"case when {apart} = 0 then false else {any_misfit(schema, values)} end" if schema.columns else "false"


def rejects_for(path: str) -> str:
    """Return the name of the temporary table in which DuckDB notes what it cannot read of a file."""
    return "rejects_" + Path(path).parent.name.rpartition("-")[2]


def forget(path: str) -> str:
    """Return statements that drop what DuckDB noted of a file."""
    return f"drop table if exists {rejects_for(path)}; drop table if exists {rejects_for(path)}_scans"


def _numbered(moved: int) -> str:
    return f"row_number() over () + {moved} as {POSITION}"


def _counted(rejects: str) -> str:
    return f"select count(*) from {rejects}"
