"""Scans many small files in one statement, because a statement per file costs far more than reading the file.

DuckDB returns the file of each row. The position of a row in its file is its number in the scan minus the lines of the
previous files. A row whose number is outside the range of its file is rejected, so an extra line in one file is
detected even if another file lacks one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.connectors.contract import check_columns
from pipeline.connectors.files import text_scan
from pipeline.connectors.files.byte_ranges import mapped_bytes
from pipeline.connectors.files.csv.reader import CsvReader, Dialect, column_names
from pipeline.connectors.files.parquet import ParquetFormat, columns_of
from pipeline.connectors.files.stores import empty_file
from pipeline.connectors.files.typed import uncast_columns
from pipeline.core.errors import Place
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION, SOURCE, ScanQuery
from pipeline.kernel.sql_text import listed, literal, quoted

SMALL_BYTES = 1 << 20
"""Larger files are scanned individually."""
_FILE, _NUMBER = "_headwater_file", "_headwater_number"
_RESERVED_NAMES = {"file_index", "file_row_number", "filename", _FILE, _NUMBER, SOURCE, POSITION, MISFIT}
_PATTERN = frozenset("*?[]{}")
Form = TypeVar("Form")


@dataclass(frozen=True)
class SmallFile:
    """A file to scan together with others: its path, and its location for `_source`."""

    path: str
    source: str


@dataclass(frozen=True)
class _FileGroup(Generic[Form]):
    """Files with the same columns, each with its index among all files and its number of lines or rows."""

    form: Form
    files: Sequence[tuple[int, SmallFile]]
    counts: Sequence[int]


def can_be_listed(path: str) -> bool:
    """Return whether a path can be passed to DuckDB in a list, because it expands wildcards in names."""
    return not _PATTERN.intersection(path)


def scan_delimited(files: Sequence[SmallFile], dialect: Dialect, schema: Schema, rejects: str) -> ScanQuery | None:
    """Return the rows of delimited files as one query, or `None` if one of them cannot be scanned.

    Raises `SchemaError` for a file with other columns, `SourceError` for one that is empty or has an invalid header.
    """
    if _RESERVED_NAMES.intersection(schema.names):
        return None

    def names_of(file: SmallFile) -> tuple[str, ...] | None:
        names = column_names(CsvReader(file.path, dialect, Place(file.source)))
        undeclared = check_columns(schema, names, Place(file.source, 1), dialect.new_columns)
        return None if undeclared or dialect.head_bytes(mapped_bytes(file.path)) is None else names

    groups = _by_first_line(files, dialect, names_of)
    if groups is None:
        return None
    scans = []
    for number, group in enumerate(groups):
        paths = [file.path for _, file in group.files]
        scan = text_scan.delimited_text_scan(paths, dialect, group.form, schema, f"{rejects}_{number}")
        scans.append(_numbered(scan, schema, group, first_line=1 + dialect.header_lines))
    return _union(scans, schema, rejects, sum(sum(group.counts) for group in groups))


def scan_json(files: Sequence[SmallFile], dialect: Dialect, schema: Schema, rejects: str) -> ScanQuery | None:
    """Return the lines of JSON files as one query; see `scan_delimited`."""
    if _RESERVED_NAMES.intersection(schema.names):
        return None
    counts = [_lines(_content(file)) for file in files]
    group = _FileGroup((), tuple(enumerate(files)), counts)
    scan = text_scan.json_text_scan([file.path for file in files], dialect, schema, f"{rejects}_0")
    return _union([_numbered(scan, schema, group, first_line=1)], schema, rejects, sum(counts))


def scan_parquet(
    con: duckdb.DuckDBPyConnection, files: Sequence[SmallFile], dialect: Dialect, schema: Schema
) -> ScanQuery | None:
    """Return the rows of Parquet files as one query, or `None` if a column of one of them must be cast."""
    if _RESERVED_NAMES.intersection(schema.names):
        return None
    groups: dict[pa.Schema, list[tuple[int, SmallFile, int]]] = {}
    for number, file in enumerate(files):
        try:
            footer = pq.read_metadata(file.path)
        except pa.ArrowException:
            return None  # reading the file individually reports the error
        file_schema = columns_of(footer, Place(file.source)).remove_metadata()
        groups.setdefault(file_schema, []).append((number, file, footer.num_rows))
    scans = []
    for group in groups.values():
        place = Place(group[0][1].source)
        file_schema = ParquetFormat().open(group[0][1].path, dialect.naming, place).schema(con)
        undeclared = check_columns(schema, file_schema.names, place, dialect.new_columns)
        columns = uncast_columns(file_schema, schema)
        if undeclared or columns is None or _RESERVED_NAMES.intersection(file_schema.names):
            return None
        numbers, sources = _list(n for n, _, _ in group), _list(literal(file.source) for _, file, _ in group)
        paths = _list(literal(file.path) for _, file, _ in group)
        scans.append(
            f"select {columns}, {sources}[file_index::integer + 1] as {SOURCE}, "
            f"file_row_number + 1 as {POSITION}, false as {MISFIT}, {numbers}[file_index::integer + 1] as {_FILE} "
            f"from read_parquet({paths}, file_row_number = true, hive_partitioning = false)"
        )
    rows = sum(count for group in groups.values() for _, _, count in group)
    return ScanQuery(_in_order(scans, schema), rows, "select 0")


def drop_rejects(con: duckdb.DuckDBPyConnection, rejects: str) -> None:
    """Drop DuckDB's tables of rejected lines."""
    names = con.execute("select table_name from duckdb_tables() where starts_with(table_name, ?)", [rejects]).fetchall()
    for (name,) in names:
        con.execute(f"drop table {quoted(name)}")


def _by_first_line(
    files: Sequence[SmallFile], dialect: Dialect, form_of: Callable[[SmallFile], Form | None]
) -> list[_FileGroup[Form]] | None:
    """Group files by the columns in their first line, which is parsed once for all files that share it."""
    has_names = bool(dialect.naming.names)
    forms: dict[bytes, Form] = {}
    groups: dict[Form, tuple[list[tuple[int, SmallFile]], list[int]]] = {}
    for number, file in enumerate(files):
        content = _content(file)
        first = b"" if has_names and not dialect.has_header else content.partition(b"\n")[0]
        if first not in forms:
            form = form_of(file)
            if form is None:
                return None
            forms[first] = form
        members, counts = groups.setdefault(forms[first], ([], []))
        members.append((number, file))
        counts.append(_lines(content) - dialect.header_lines)
    return [_FileGroup(form, members, counts) for form, (members, counts) in groups.items()]


def _content(file: SmallFile) -> bytes:
    content = Path(file.path).read_bytes()
    if not content:
        raise empty_file(file.source)
    return content


def _lines(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n"))


def _numbered(scan: text_scan.TextScan, schema: Schema, group: _FileGroup[Form], *, first_line: int) -> str:
    """Return a scan's rows with file and position, marking rows outside the range of their file as rejected."""
    before = _list(accumulate(group.counts, initial=0))
    sources = _list(literal(file.source) for _, file in group.files)
    numbers = _list(number for number, _ in group.files)
    rows = (
        f"select {scan.columns}, ({scan.misfit}) as {MISFIT}, file_index::integer + 1 as {_FILE}, "
        f"row_number() over () as {_NUMBER} from {scan.source}"
    )
    beyond = f"{_NUMBER} <= {before}[{_FILE}] or {_NUMBER} > {before}[{_FILE} + 1]"
    return (
        f"select {listed(schema.names)}, {sources}[{_FILE}] as {SOURCE}, "
        f"{_NUMBER} - {before}[{_FILE}] + {first_line - 1} as {POSITION}, ({MISFIT} or {beyond}) as {MISFIT}, "
        f"{numbers}[{_FILE}] as {_FILE} from ({rows})"
    )


def _union(scans: Sequence[str], schema: Schema, rejects: str, rows: int) -> ScanQuery:
    counts = " + ".join(f"(select count(*) from {rejects}_{number})" for number in range(len(scans)))
    return ScanQuery(_in_order(scans, schema), rows, f"select {counts}")


def _in_order(scans: Sequence[str], schema: Schema) -> str:
    """Return the rows of all scans in the order of the files; only the rows of several scans need sorting."""
    order_by = f" order by {_FILE}, {POSITION}" if len(scans) > 1 else ""
    kept = f"{listed(schema.names)}, {SOURCE}, {POSITION}, {MISFIT}"
    return f"select {kept} from ({' union all '.join(scans)}){order_by}"


def _list(items: Iterable[object]) -> str:
    return f"[{', '.join(map(str, items))}]"
