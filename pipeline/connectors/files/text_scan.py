"""Scans splits of text files as queries, valid only under the conditions of `ScanQuery`; otherwise `read` is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.connectors import nested_values
from pipeline.connectors.contract import CellExpressions, any_misfit, cast_cells, casts, check_columns
from pipeline.connectors.files.byte_ranges import contains_byte, mapped_bytes
from pipeline.connectors.files.csv import arrow_conversion
from pipeline.connectors.files.csv import reader as csv_reader
from pipeline.connectors.files.csv.arrow_conversion import ConversionSpec, ConvertedRows, FaultCount
from pipeline.connectors.files.csv.byte_traits import byte_traits
from pipeline.connectors.files.csv.reader import CsvReader, Dialect
from pipeline.connectors.files.json import reader as json_reader
from pipeline.connectors.values import ConversionRule, TextTraits
from pipeline.core.errors import Place
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import MISFIT, POSITION, ScanQuery
from pipeline.kernel.sql_text import literal

_CONVERTED = ("converted", "faults")
_LINE = "'line': 'VARCHAR'"
_NO_BYTE = "\x01"
"""A byte that does not occur in valid JSON."""


@dataclass(frozen=True)
class TextScan:
    """The parts of a scan: SQL for the typed columns, for whether a row is rejected, and for the origin of rows."""

    columns: str
    misfit: str
    source: str


def scan_delimited(
    con: duckdb.DuckDBPyConnection, file: CsvReader, schema: Schema, lines: int, moved: int
) -> ScanQuery | None:
    """Return the rows of a delimited file, with their positions shifted; None for an unusual header.

    The number of lines detects fields with line breaks and blank lines; `rejects` contains everything else that cannot
    be parsed.
    """
    names = csv_reader.column_names(file)
    undeclared = check_columns(schema, names, Place(file.place.file, 1), file.dialect.new_columns)
    begins, before = file.dialect.head_bytes(mapped_bytes(file.path)), file.dialect.header_lines
    if undeclared or begins is None:
        return None
    traits = byte_traits(file.path, begins)
    form = arrow_conversion.conversion_spec(file.path, file.dialect, names, schema, traits)
    if form is None:
        rejects = _name(file.path, "rejects")
        scan = delimited_text_scan(file.path, file.dialect, names, schema, rejects)
        return _scan_query(scan, lines - before, moved + before, f"select count(*) from {rejects}")
    rows, faults = (_name(file.path, kind) for kind in _CONVERTED)
    stream = ConvertedRows(file.path, form)
    con.register(rows, stream)
    con.register(faults, FaultCount(stream, lines - before))
    cells = _converted_cells(schema, form, TextTraits(traits.has_underscore))
    scan = _text_scan(schema, cells, rows, arrow_conversion.IS_BAD)
    return _scan_query(scan, lines - before, moved + before, f"select faults from {faults}")


def _converted_cells(schema: Schema, form: ConversionSpec, texts: TextTraits) -> CellExpressions:
    """Return the cells of a file that Arrow converted; only columns that remain text are cast and tested."""
    text_cells = csv_reader.cells(schema, tuple(form.types), texts)

    def rule(column: Column, value: str, cast: str) -> ConversionRule:
        if form.types.get(column.name, pa.string()) == pa.string():
            return text_cells.rule(column, value, cast)
        return ConversionRule(value, fast=arrow_conversion.is_as_written(column, value))

    return CellExpressions(text_cells.raw, rule)


def delimited_text_scan(
    path: str | Sequence[str], dialect: Dialect, names: tuple[str, ...], schema: Schema, rejects: str
) -> TextScan:
    """Return the scan of one or several delimited files with these names in the header."""
    head = dialect.head_bytes(mapped_bytes(path)) if isinstance(path, str) else None
    underscored = not isinstance(path, str) or contains_byte(path, b"_", head or 0)
    source = csv_reader.strict_scan(path, dialect, names, csv_reader.dates_of(schema), rejects)
    return _text_scan(
        schema, csv_reader.scanned_cells(schema, names, underscored=underscored), _with_file(path, source)
    )


def _with_file(path: str | Sequence[str], scan: str) -> str:
    """Return a scan of several files that includes the file of each row."""
    return scan if isinstance(path, str) else f"(select *, file_index from {scan})"


def _text_scan(schema: Schema, cells: CellExpressions, source: str, other: str = "false") -> TextScan:
    """Return a scan of cells; a row for which `other` is true is also rejected."""
    return TextScan(casts(schema), f"{other} or {any_misfit(schema, cells)}", cast_cells(schema, cells, source))


def scan_json(path: str, dialect: Dialect, schema: Schema, lines: int, moved: int) -> ScanQuery:
    """Return the rows of JSON lines, with their positions shifted.

    The values are computed by the same expressions as in `read`.

    A line that is blank, is not an object, or has an unknown field that is not ignored is rejected; a line that is not JSON is an error.
    """
    rejects = _name(path, "rejects")
    return _scan_query(json_text_scan(path, dialect, schema, rejects), lines, moved, f"select count(*) from {rejects}")


def json_text_scan(path: str | Sequence[str], dialect: Dialect, schema: Schema, rejects: str) -> TextScan:
    """Return the scan of one or several files of JSON lines."""
    paths = literal(path) if isinstance(path, str) else f"[{', '.join(map(literal, path))}]"
    # `case`, because DuckDB evaluates both sides of an `and`; most lines have exactly the fields of the contract
    keys, count = json_reader.keys_in(schema), len(schema.columns)
    other = "json_type(line) <> 'OBJECT'"
    if dialect.new_columns != "discard_value":
        other += f" or not {nested_values.only_keys('json_keys(line)', keys)}"
    other = (
        f"case when len(json_keys(line)) = {count} and list_count(texts) = {count} then false "
        f"else coalesce({other}, true) end or {json_reader.both_names(schema)} is not null"
    )
    scan = (
        f"read_csv({paths}, auto_detect = false, header = false, delim = {literal(_NO_BYTE)}, quote = '', "
        f"escape = '', max_line_size = {csv_reader.LONGEST_BYTES}, store_rejects = true, rejects_limit = 0, "
        f"rejects_table = {literal(rejects)}, rejects_scan = {literal(rejects + '_scans')}, columns = {{{_LINE}}})"
    )
    # not wrapped in `try`, so that DuckDB parses once for all columns; invalid JSON aborts the query
    source = json_reader.with_texts(schema, _with_file(path, scan))
    return _text_scan(schema, json_reader.cells(schema), source, other)


def _scan_query(scan: TextScan, rows: int, moved: int, rejects: str) -> ScanQuery:
    numbered = f"row_number() over () + {moved} as {POSITION}"
    query = f"select {scan.columns}, {numbered}, ({scan.misfit}) as {MISFIT} from {scan.source}"
    return ScanQuery(query, rows, rejects)


def release(con: duckdb.DuckDBPyConnection, path: str) -> None:
    """Drop the tables and views of a file from a connection."""
    for kind in _CONVERTED:
        con.unregister(_name(path, kind))
    rejects = _name(path, "rejects")
    con.execute(f"drop table if exists {rejects}; drop table if exists {rejects}_scans")


def _name(path: str, kind: str) -> str:
    """Return the name for the tables of a file, which is unique because each file has its own folder."""
    return f"{kind}_{Path(path).parent.name.rpartition('-')[2]}"
