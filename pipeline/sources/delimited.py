"""Delimited text: CSV and its kin, with a header line, read by DuckDB in parallel."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import Place, SourceError
from pipeline.core.reading import POSITION, Reading
from pipeline.core.schema import Column, Schema
from pipeline.kernel.engine import arrow, listed, literal, quoted, schema_of
from pipeline.sources import values
from pipeline.sources.fit import REJECTED, Cells, checked, hold, misfits, of_texts, values_of
from pipeline.sources.inference import settled
from pipeline.sources.lines import BOM, Lines, Numbers, lines_of, records
from pipeline.sources.values import Rule, Texts

_HEADER_BYTES = 1 << 20
LONGEST_BYTES = 2_000_000
"""The longest line that is read; a longer one is rejected."""


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written. Text in `null_values` is null, in quotes or not."""

    delimiter: str = ","
    null_values: tuple[str, ...] = ("",)

    def scan(self, path: str | Sequence[str], options: str) -> str:
        """Return a call of `read_csv` with all options fixed, so that a strange line never changes the dialect."""
        paths = literal(path) if isinstance(path, str) else f"[{', '.join(map(literal, path))}]"
        nulls = ", ".join(literal(value) for value in self.null_values)
        return (
            f"read_csv({paths}, delim = {literal(self.delimiter)}, header = true, quote = '\"', "
            f"escape = '\"', nullstr = [{nulls}], max_line_size = {LONGEST_BYTES}, {options})"
        )


@dataclass(frozen=True)
class Delimited:
    """A delimited file to be read: where it is, how it is written and how errors name it."""

    path: str
    dialect: Dialect
    place: Place
    goes_on: bool = False
    """Whether the text goes on in another part, so that its last record has to be closed."""


def infer(con: duckdb.DuckDBPyConnection, file: Delimited) -> Schema:
    """Return the columns with the narrowest types that hold all values; lines that do not fit are passed over."""
    names = header(file)
    given = ", ".join(literal(name) for name in names)
    options = f"names = [{given}], sample_size = -1, ignore_errors = true, strict_mode = false"
    found = schema_of(con, f"select * from {file.dialect.scan(file.path, options)}")
    scan = strict_scan(file.path, file.dialect, names, frozenset(), "reject_errors")
    return settled(con, found, cells, lambda tried: f"(select {listed(tried.names)} from {scan})")


def strict_scan(
    path: str | Sequence[str], dialect: Dialect, names: tuple[str, ...], dates: frozenset[str], rejects: str
) -> str:
    """Return a scan of one file or several whose columns are `names`, as texts but for the columns of `dates`.

    A record that does not have these columns, or a text like 2025-01-31 for a date, is put into the table `rejects`.
    """
    columns = ", ".join(f"{literal(name)}: '{'DATE' if name in dates else 'VARCHAR'}'" for name in names)
    return dialect.scan(
        path,
        f"auto_detect = false, store_rejects = true, rejects_limit = 0, rejects_table = {literal(rejects)}, "
        f"rejects_scan = {literal(rejects + '_scans')}, dateformat = '%Y-%m-%d', columns = {{{columns}}}",
    )


def read(con: duckdb.DuckDBPyConnection, file: Delimited, schema: Schema) -> Reading:
    """Return the rows that fit and the records that do not, each with the line on which it begins.

    Raises `SourceError` when lines are unaccounted for, as after a quote that is never closed, and, for a file that
    `goes_on` elsewhere, when the last record is broken off.
    """
    lines, names = lines_of(file.path), header(file)
    hold(schema, names, Place(file.place.file, 1))
    scan = strict_scan(file.path, file.dialect, names, frozenset(), "reject_errors")
    rows = arrow(con, f"select {values_of(schema)}, {misfits(schema)} from {checked(schema, cells(schema), scan)}")
    rejects = arrow(con, _rejects(len(names)))
    away = lines.numbers_at(rejects.column("begins").to_numpy())
    expected = rows.num_rows + rejects.num_rows
    starts = records(lines, file.dialect.delimiter, 1 + expected, blank_counts=len(names) == 1)[1:]
    came = starts[~np.isin(starts, away)]
    if len(starts) != expected or len(came) != rows.num_rows:
        raise _unaccounted(starts, expected, file.place)
    if file.goes_on and rejects.num_rows and away[-1] == starts[-1] and rejects.column("broken")[-1].as_py():
        raise SourceError("the last record is broken off", place=file.place)
    reasons = rows.column(rows.num_columns - 1)
    rows = rows.remove_column(rows.num_columns - 1).append_column(POSITION, pa.array(came))
    bad = pc.is_valid(reasons)
    found = pa.table({POSITION: rows.column(POSITION), "reason": reasons}).filter(bad)
    found = pa.concat_tables([found, pa.table({POSITION: away, "reason": rejects.column("reason")})])
    good = rows if found.num_rows == rejects.num_rows else rows.filter(pc.invert(bad))
    texts = _Texts(lines, starts, names, schema.names, file.dialect.delimiter)
    return Reading(good, texts.add_to(found))


def header(file: Delimited) -> tuple[str, ...]:
    """Return the names in the first line; raise `SourceError` when it does not name each column once."""
    with Path(file.path).open("rb") as stream:
        head = stream.read(_HEADER_BYTES).removeprefix(BOM)
    first = Place(file.place.file, 1)
    if b"\r" in head and b"\n" not in head:
        raise SourceError("the lines end in carriage returns alone", do="end them in line feeds", place=first)
    try:
        reader = csv.reader(io.StringIO(head.decode(errors="replace"), newline=""), delimiter=file.dialect.delimiter)
        names = tuple(next(reader, ()))
    except csv.Error as error:
        raise SourceError("the first line cannot be read", got=str(error), place=first) from error
    if not names or not all(names):
        raise SourceError("the first line has a column without a name", place=first)
    if any("\ufffd" in name or "\0" in name for name in names):
        raise SourceError("the first line is not UTF-8", do="convert the file", place=first)
    seen: dict[str, str] = {}
    for name in names:
        before = seen.setdefault(name.lower(), name)
        if before == name and names.count(name) > 1:
            raise SourceError(f"the first line names {name!r} twice", place=first)
        if before != name:
            raise SourceError(f"the first line names {before!r} and {name!r}, which differ only in case", place=first)
    return names


def cells(schema: Schema, texts: Texts | None = None) -> Cells:
    """Return the cells of a scan of texts."""
    return of_texts({name: quoted(name) for name in schema.names}, texts)


def scanned_cells(schema: Schema, *, underscored: bool = True) -> Cells:
    """Return the cells of a scan that makes dates itself; `underscored` is whether an underscore can be in a text."""
    texts = cells(schema, Texts(underscored))

    def rule(column: Column, text: str, cast: str) -> Rule:
        return values.of_scanned_date(text) if column.type == "DATE" else texts.rule(column, text, cast)

    return Cells(texts.came, rule)


def dates_of(schema: Schema) -> frozenset[str]:
    """Return the names of the columns that a scan can make dates of itself."""
    return frozenset(column.name for column in schema.columns if column.type == "DATE")


def _rejects(wanted: int) -> str:
    """Return a query of what DuckDB rejected: the byte where the record begins, and the reason in our words."""
    found = "try_cast(regexp_extract(error_message, 'Found: (\\d+)', 1) as int)"
    return (
        # DuckDB's record begins at the line ends before it, where lines end in two bytes or are blank
        "select (min(line_byte_position) - 1 + len(any_value(csv_line)) - len(ltrim(any_value(csv_line), e'\\r\\n')))"
        "::bigint as begins, concat_ws('; ', "
        f"max({found}) filter (error_type = 'TOO MANY COLUMNS') || ' columns in place of {wanted}', "
        f"min({found}) filter (error_type = 'MISSING COLUMNS') || ' columns in place of {wanted}', "
        "any_value('not UTF-8') filter (error_type = 'INVALID ENCODING'), "
        "any_value('a quote is not closed, or text follows it') filter (error_type = 'UNQUOTED VALUE'), "
        f"any_value('longer than {LONGEST_BYTES:,} bytes') filter (error_type = 'LINE SIZE OVER MAXIMUM')"
        ") as reason, bool_or(error_type in ('UNQUOTED VALUE', 'LINE SIZE OVER MAXIMUM')) as broken "
        "from reject_errors where scan_id = (select max(scan_id) from reject_errors) "
        "group by line_byte_position order by begins"
    )


@dataclass(frozen=True)
class _Texts:
    """The records of a file as text, to show those that were rejected and to read them again."""

    lines: Lines
    starts: Numbers
    names: tuple[str, ...]
    wanted: tuple[str, ...]
    delimiter: str

    def add_to(self, found: pa.Table) -> pa.Table:
        """Return what was rejected in the file's order, with the text of each record."""
        found = found.sort_by(POSITION)
        indexes = np.searchsorted(self.starts, found.column(POSITION).to_numpy())
        cut = self.lines.texts_from(self.starts).take(pa.array(indexes)).to_pylist()
        texts = [text.decode(errors="replace").rstrip("\r\n") for text in cut]
        if self.names != self.wanted:
            texts = [self._in_order(text) for text in texts]
        return found.append_column("row", pa.array(texts, pa.string())).cast(REJECTED)

    def _in_order(self, text: str) -> str:
        """Return a record in the contract's order of columns, in which it will be read again."""
        came = self._fields(text)
        if len(came) != len(self.names):
            return text
        fields = dict(zip(self.names, came, strict=True))
        return _line([fields[name] for name in self.wanted], self.delimiter)

    def _fields(self, text: str) -> list[str]:
        try:
            return next(csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter), [])
        except csv.Error:
            return []


def headline(schema: Schema, dialect: Dialect) -> str:
    """Return the first line of a file with a schema's columns."""
    return _line(list(schema.names), dialect.delimiter)


def _line(fields: list[str], delimiter: str) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="\r\n").writerow(fields)  # what ends lines is quoted
    return line.getvalue().removesuffix("\r\n")


def _unaccounted(starts: Numbers, read: int, place: Place) -> SourceError:
    # a quote that is never closed makes the rest of the file one record, the last
    line = int(starts[-1]) if 0 < len(starts) < read else None
    return SourceError(
        "the lines do not add up: is a quote opened and never closed, or a line very long?",
        got=f"{len(starts):,} records by their quotes, {read:,} that could be read",
        do="mend the file; nothing of it was taken",
        place=Place(place.file, line),
    )
