"""Reads delimited text such as CSV with DuckDB, in parallel."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors import values
from pipeline.connectors.column_names import ColumnNames, numbered
from pipeline.connectors.contract import (
    REJECTED,
    CellExpressions,
    check_columns,
    convert_rows,
    materialize_wide,
    text_cells,
)
from pipeline.connectors.files.byte_ranges import Bytes, head_bytes
from pipeline.connectors.files.csv import line_ends
from pipeline.connectors.files.csv.line_ends import UniformText
from pipeline.connectors.files.encoding import not_decodable
from pipeline.connectors.files.record_index import BOM, Numbers, RecordIndex, lines_of, records
from pipeline.connectors.inference import infer_types
from pipeline.connectors.values import ConversionRule, TextTraits
from pipeline.core.errors import Place, SourceError, quantity
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import POSITION, NewColumns, ReadResult
from pipeline.kernel.engine import arrow, expect_columns, schema_of
from pipeline.kernel.sql_text import listed, literal, quoted

_HEADER_BYTES = 1 << 20
_SAMPLED, _LEAST_SAMPLED = 20, 2
"""Number of records that are checked to detect a header without a name for the first column."""
HEAD_LINES = 1 + _SAMPLED
"""The number of lines of a file of one-line records that decide how its header is understood."""
_BYTES = "not UTF-8"
_RETURN = "a carriage return inside a line"
LONGEST_BYTES = 2_000_000
"""Maximum length of a line; longer ones are rejected."""


@dataclass(frozen=True)
class Dialect:
    """The format of a file. Text in `null_values` of a delimited file is null, quoted or not."""

    delimiter: str = ","
    null_values: tuple[str, ...] = ("",)
    has_header: bool = True
    naming: ColumnNames = field(default_factory=ColumnNames)
    encoding: str | None = None
    """None for UTF-8."""
    new_columns: NewColumns = "freeze"
    """What happens to columns that are not in the contract, for all formats."""

    @property
    def header_lines(self) -> int:
        """The number of lines before the first record."""
        return int(self.has_header)

    def head_bytes(self, data: Bytes) -> int | None:
        """Return where a file's header ends; None if the header is not exactly the first line."""
        return head_bytes(data, self.delimiter) if self.has_header else 0

    def scan(self, path: str | Sequence[str], options: str) -> str:
        """Return a call of `read_csv` with all options fixed, so that unusual lines never change the dialect."""
        paths = literal(path) if isinstance(path, str) else f"[{', '.join(map(literal, path))}]"
        nulls = ", ".join(literal(value) for value in self.null_values)
        return (
            f"read_csv({paths}, delim = {literal(self.delimiter)}, header = {self.has_header}, quote = '\"', "
            f"escape = '\"', nullstr = [{nulls}], max_line_size = {LONGEST_BYTES}, {options})"
        )


PLAIN = Dialect()


@dataclass(frozen=True)
class CsvReader:
    """A delimited file to read: its path, its dialect, and its place for errors."""

    path: str
    dialect: Dialect
    place: Place
    continues: bool = False
    """Whether the text continues in another split, so that its last record must be complete."""


def infer(con: duckdb.DuckDBPyConnection, file: CsvReader) -> Schema:
    """Return the columns with the narrowest types that represent all values; malformed lines are ignored."""
    try:
        return _infer(con, file)
    except duckdb.Error:
        with _uniform(file) as text:
            if text.path == file.path:
                raise
            return _infer(con, replace(file, path=text.path))


def _uniform(file: CsvReader) -> AbstractContextManager[UniformText]:
    return line_ends.uniform(file.path, lines_of(file.path), file.dialect.delimiter, file.dialect.header_lines)


def _infer(con: duckdb.DuckDBPyConnection, file: CsvReader) -> Schema:
    head = read_header(file)
    names = head.names
    expect_columns(con, len(names))
    name_list = ", ".join(literal(name) for name in names)
    options = f"names = [{name_list}], sample_size = -1, ignore_errors = true, strict_mode = false"
    # DuckDB derives the number of columns from a header that it reads
    seen, skipped = (replace(file.dialect, has_header=False), ", skip = 1") if head.is_short else (file.dialect, "")
    sniffed = schema_of(con, f"select * from {seen.scan(file.path, options + skipped)}")
    if len(sniffed.columns) != len(names):
        raise _not_all_named(len(names), len(sniffed.columns), Place(file.place.file, 1))
    scan = materialize_wide(con, strict_scan(file.path, file.dialect, names, frozenset(), "reject_errors"), len(names))
    inferred = infer_types(con, sniffed, cells, lambda tried: f"(select {listed(tried.names)} from {scan})")
    return Schema(tuple(replace(c, note=head.notes.get(c.name, c.note)) for c in inferred.columns))


def strict_scan(
    path: str | Sequence[str], dialect: Dialect, names: tuple[str, ...], dates: frozenset[str], rejects: str
) -> str:
    """Return a scan of one or several files with the columns `names`, as text except for the columns of `dates`.

    A record with a different number of columns, or without a date like 2025-01-31, is added to the table `rejects`.
    """
    columns = ", ".join(f"{literal(name)}: '{'DATE' if name in dates else 'VARCHAR'}'" for name in names)
    return dialect.scan(
        path,
        f"auto_detect = false, store_rejects = true, rejects_limit = 0, rejects_table = {literal(rejects)}, "
        f"rejects_scan = {literal(rejects + '_scans')}, dateformat = '%Y-%m-%d', columns = {{{columns}}}",
    )


def read(con: duckdb.DuckDBPyConnection, file: CsvReader, schema: Schema) -> ReadResult:
    """Return the accepted rows and the rejected records, each with the line on which it begins.

    Raises `SourceError` if lines are unaccounted for, for example after a quote that is never closed, and, for a file
    that `continues` elsewhere, if the last record is incomplete.
    """
    with _uniform(file) as text:
        return _read(con, replace(file, path=text.path), text, schema)


def _read(con: duckdb.DuckDBPyConnection, file: CsvReader, text: UniformText, schema: Schema) -> ReadResult:
    lines = text.lines
    names, head = column_names(file), file.dialect.header_lines
    undeclared = check_columns(schema, names, Place(file.place.file, 1), file.dialect.new_columns)
    scan = strict_scan(file.path, file.dialect, names, frozenset(), "reject_errors")
    rows, reasons = convert_rows(con, schema, cells(schema, names), scan, {name: quoted(name) for name in undeclared})
    rejects = arrow(con, _rejects_query(len(names)))
    away = lines.numbers_at(rejects.column("begins").to_numpy())
    expected = rows.num_rows + rejects.num_rows
    starts = records(lines, file.dialect.delimiter, head + expected, blank_counts=len(names) == 1)[head:]
    row_lines = starts[~np.isin(starts, away)]
    if len(starts) != expected or len(row_lines) != rows.num_rows:
        raise _record_count_error(starts, expected, file.place)
    if file.continues and rejects.num_rows and away[-1] == starts[-1] and rejects.column("broken")[-1].as_py():
        raise SourceError("the last record is incomplete", place=file.place)
    rows = rows.append_column(POSITION, pa.array(row_lines))
    bad = pc.is_valid(reasons)
    rejected = pa.table({POSITION: rows.column(POSITION), "reason": reasons}).filter(bad)
    broken = np.isin(away, starts[np.searchsorted(starts, text.broken, side="right") - 1])
    why = pc.if_else(pa.array(broken), _RETURN, rejects.column("reason"))
    rejected = pa.concat_tables([rejected, pa.table({POSITION: away, "reason": why})])
    good = rows if rejected.num_rows == rejects.num_rows else rows.filter(pc.invert(bad))
    texts = _RecordTexts(lines, starts, names, schema.names, file.dialect)
    return ReadResult(good, texts.add_to(rejected))


@dataclass(frozen=True)
class CsvHeader:
    """The columns of a delimited file, by position."""

    names: tuple[str, ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    """For each generated column name, the reason."""
    is_short: bool = False
    """Whether the header has one name fewer than the records have fields."""


def column_names(file: CsvReader) -> tuple[str, ...]:
    """Return the names of the columns; see `read_header`."""
    return read_header(file).names


def read_header(file: CsvReader) -> CsvHeader:
    """Return the columns of a file from its first line; raise `SourceError` if the line is not a valid header."""
    with Path(file.path).open("rb") as stream:
        data = stream.read(_HEADER_BYTES).removeprefix(BOM)
    dialect, first = file.dialect, Place(file.place.file, 1)
    if b"\r" in data and b"\n" not in data:
        raise SourceError("the lines end with carriage returns only", do="end them with line feeds", place=first)
    text = io.StringIO(data.decode(errors="replace"), newline="")
    reader = csv.reader(text, delimiter=dialect.delimiter)
    try:
        fields = next(reader, [])
        has_return = text.getvalue()[: text.tell()].endswith("\r")  # it ends a line of the csv module
    except csv.Error as error:
        raise SourceError("the first line cannot be read", got=str(error), place=first) from error
    if has_return and dialect.has_header:
        raise SourceError(f"the first line cannot be read: {_RETURN}", place=first)
    if not fields and (dialect.has_header or not dialect.naming.names):
        raise SourceError("the first line is blank", do="remove it: the first line must name the columns", place=first)
    if any("\ufffd" in name or "\0" in name for name in fields) and dialect.has_header:
        line = data if b"\0" in data else data.partition(b"\n")[0]
        raise SourceError(f"the first line is {not_decodable(line, dialect.encoding)}", place=first)
    is_short = dialect.has_header and not dialect.naming.names and _lacks_row_name(len(fields), reader)
    return _named(dialect, ["", *fields] if is_short else fields, is_short, first)


def _named(dialect: Dialect, fields: list[str], is_short: bool, place: Place) -> CsvHeader:  # noqa: FBT001 - private
    """Return the columns with these names in the file."""
    declared = dialect.naming.names
    if declared and dialect.has_header and len(declared) != len(fields):
        raise _not_all_named(len(declared), len(fields), place)
    names = declared or numbered(fields if dialect.has_header else [""] * len(fields))
    named = dialect.naming.named(names, place)
    unnamed = (
        [] if declared else [name for name, f in zip(named, fields, strict=True) if not (f and dialect.has_header)]
    )
    notes = {name: f"a column of {place.file} has no name and is named {name!r}" for name in unnamed}
    return CsvHeader(named, notes if dialect.has_header else {}, is_short)


def _not_all_named(names: int, columns: int, place: Place) -> SourceError:
    got = f"{names}, and {quantity(columns, 'column')} in the first line"
    return SourceError("names= must name every column", got=got, do="pass one name per column", place=place)


def _lacks_row_name(names: int, reader: Iterator[list[str]]) -> bool:
    """Return whether all first records have one field more than the header: the name of the row.

    Row names are not empty and unique. A last field that is always empty comes from a delimiter at the ends of lines.
    """
    try:
        rows = [row for row in itertools.islice(reader, _SAMPLED) if row]
    except csv.Error:
        return False
    if len(rows) < _LEAST_SAMPLED or any(len(row) != names + 1 for row in rows):
        return False
    firsts = {row[0] for row in rows}
    return len(firsts) == len(rows) and "" not in firsts and any(row[-1] for row in rows)


def cells(schema: Schema, names: Sequence[str] | None = None, texts: TextTraits | None = None) -> CellExpressions:
    """Return the cells of a scan of text; null for a column that is not in `names`."""
    known = set(schema.names if names is None else names)
    return text_cells({name: quoted(name) if name in known else "null::varchar" for name in schema.names}, texts)


def scanned_cells(schema: Schema, names: Sequence[str], *, underscored: bool = True) -> CellExpressions:
    """Return the cells of a scan that parses dates; `underscored` says whether a text may contain an underscore."""
    nothing = {c.name: "null::date" if c.type == "DATE" else "null::varchar" for c in schema.columns}
    known = set(names)
    texts = text_cells({n: quoted(n) if n in known else nothing[n] for n in schema.names}, TextTraits(underscored))

    def rule(column: Column, text: str, cast: str) -> ConversionRule:
        return values.of_scanned_date(text) if column.type == "DATE" else texts.rule(column, text, cast)

    return CellExpressions(texts.raw, rule)


def dates_of(schema: Schema) -> frozenset[str]:
    """Return the names of the columns that the scan can parse as dates."""
    return frozenset(column.name for column in schema.columns if column.type == "DATE")


def _rejects_query(expected: int) -> str:
    """Return a query of the records that DuckDB rejected: the byte offset of the record, and a readable reason."""
    actual = "try_cast(regexp_extract(error_message, 'Found: (\\d+)', 1) as int)"

    def counted_columns(aggregate: str, error: str) -> str:
        number = f"{aggregate}({actual}) filter (error_type = {literal(error)})"
        return f"{number} || case {number} when 1 then ' column' else ' columns' end || ' in place of {expected}'"

    return (
        # DuckDB's offset includes preceding line ends, if lines end with two bytes or are blank
        "select (min(line_byte_position) - 1 + len(any_value(csv_line)) - len(ltrim(any_value(csv_line), e'\\r\\n')))"
        "::bigint as begins, concat_ws('; ', "
        f"{counted_columns('max', 'TOO MANY COLUMNS')}, {counted_columns('min', 'MISSING COLUMNS')}, "
        f"any_value({literal(_BYTES)}) filter (error_type = 'INVALID ENCODING'), "
        "any_value('a quote is not closed, or text follows it') filter (error_type = 'UNQUOTED VALUE'), "
        f"any_value('longer than {LONGEST_BYTES:,} bytes') filter (error_type = 'LINE SIZE OVER MAXIMUM')"
        ") as reason, bool_or(error_type in ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM')) as broken "
        "from reject_errors where scan_id = (select max(scan_id) from reject_errors) "
        "group by line_byte_position order by begins"
    )


@dataclass(frozen=True)
class _RecordTexts:
    """The records of a file as text, to show rejected ones and to read them again."""

    lines: RecordIndex
    starts: Numbers
    names: tuple[str, ...]
    columns: tuple[str, ...]
    dialect: Dialect

    def add_to(self, rejected: pa.Table) -> pa.Table:
        """Return the rejected records with their text, in the order of the file."""
        rejected = rejected.sort_by(POSITION)
        indexes = np.searchsorted(self.starts, rejected.column(POSITION).to_numpy())
        cut = self.lines.texts_from(self.starts).take(pa.array(indexes)).to_pylist()
        texts = [text.decode(errors="replace").rstrip("\r\n") for text in cut]
        if self.names != self.columns:
            texts = [self._reordered(text) for text in texts]
        bad = b"".join(
            text for text, why in zip(cut, rejected.column("reason").to_pylist(), strict=True) if why == _BYTES
        )
        if bad:
            why = pc.replace_substring(rejected.column("reason"), _BYTES, not_decodable(bad, self.dialect.encoding))
            rejected = rejected.set_column(rejected.schema.get_field_index("reason"), "reason", why)
        return rejected.append_column("row", pa.array(texts, pa.string())).cast(REJECTED)

    def _reordered(self, text: str) -> str:
        """Return a record with the contract's order of columns, in which it will be read again."""
        fields_in_file = self._fields(text)
        if len(fields_in_file) != len(self.names):
            return text
        null = next(iter(self.dialect.null_values), "")
        fields = dict.fromkeys(self.columns, null) | dict(zip(self.names, fields_in_file, strict=True))
        return _line(list(fields.values()), self.dialect.delimiter)  # columns outside the contract come last

    def _fields(self, text: str) -> list[str]:
        try:
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.dialect.delimiter), [])
        except csv.Error:
            return []


def header_line(schema: Schema, dialect: Dialect) -> str:
    """Return the first line of a file with a schema's columns."""
    return _line(list(schema.names), dialect.delimiter)


def _line(fields: list[str], delimiter: str) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(fields)  # line ends are quoted
    return line.getvalue().removesuffix("\r\n")


def _record_count_error(starts: Numbers, read: int, place: Place) -> SourceError:
    # an unclosed quote makes the rest of the file one record
    line = int(starts[-1]) if 0 < len(starts) < read else None
    return SourceError(
        "some lines cannot be assigned to records: a quote may not be closed, or a line may be very long",
        got=f"{len(starts):,} records by their quotes, {read:,} that could be read",
        do="fix the file; none of it was loaded",
        place=Place(place.file, line),
    )
