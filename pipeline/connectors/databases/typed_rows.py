"""Fetched rows as accepted and rejected rows: without a copy if the types are those of the contract."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.connectors.contract import RAW, REJECTED, apply_contract_to_types
from pipeline.connectors.databases.columns import REJECTED_ROW, SEPARATOR, DatabaseColumn
from pipeline.connectors.values import is_nested
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, POSITION, ReadResult, ScanQuery
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import arrow_type, decimal_of

_NUMBERS = itertools.count()
"""Numbers of scans of this process, several of which can be open on one connection."""
_DAYS = (-719_162, 2_932_896)
"""The first and the last day of the years 1 to 9999, in days since 1970."""
_MICROSECONDS = (-62_135_596_800_000_000, 253_402_300_799_999_999)


def read_result(rows: pa.Table, schema: Schema, undeclared: Sequence[str], first: int) -> ReadResult:
    """Return fetched rows as a contract demands them, numbered from `first`."""
    numbered = rows.append_column(POSITION, pa.arange(first, first + rows.num_rows))
    rejected = REJECTED.empty_table()
    if REJECTED_ROW in rows.column_names:
        numbered, rejected = _without_rejected(numbered)
    exact = None if undeclared else as_declared(numbered, schema)
    if exact is not None:
        return ReadResult(exact, rejected)
    converted = _converted(numbered, schema, undeclared)
    both = pa.concat_tables([rejected, converted.rejected]).sort_by(POSITION)
    return ReadResult(converted.rows, both)


@contextmanager
def scan_of(con: duckdb.DuckDBPyConnection, rows: pa.Table, schema: Schema, first: int) -> Iterator[ScanQuery | None]:
    """Yield fetched rows as a query, numbered from `first`; `None` if one of them must be converted or rejected."""
    numbered = rows.append_column(POSITION, pa.arange(first, first + rows.num_rows))
    is_marked = REJECTED_ROW in rows.column_names and rows.column(REJECTED_ROW).null_count < rows.num_rows
    exact = None if is_marked else as_declared(numbered, schema)
    if exact is None:
        yield None
        return
    name = f"_fetched_rows_{next(_NUMBERS)}"
    con.register(name, exact)
    try:
        yield ScanQuery(f"select *, false as {MISFIT} from {name}", exact.num_rows, "select 0")
    finally:
        con.unregister(name)


def with_types(rows: pa.Table, columns: Iterable[DatabaseColumn]) -> pa.Table:
    """Return fetched rows with the types of their columns; a column with another value stays as it is."""
    for column in columns:
        at = rows.schema.get_field_index(column.name)
        if is_nested(column.type) or rows.schema.field(at).type == arrow_type(column.type):
            continue
        try:
            rows = rows.set_column(at, column.name, rows.column(at).cast(arrow_type(column.type)))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            continue  # the contract finds the value that does not fit
    return rows


def _without_rejected(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Split off the rows that the database marked, with the row and the reason that it gave."""
    marks, kept = rows.column(REJECTED_ROW), rows.drop_columns([REJECTED_ROW])
    if marks.null_count == len(marks):
        return kept, REJECTED.empty_table()
    is_marked = pc.is_valid(marks)
    at = rows.filter(is_marked).column(POSITION)
    parts = [text.split(SEPARATOR, 1) for text in marks.drop_null().to_pylist()]
    texts = [pa.array([part[number] for part in parts], pa.string()) for number in (1, 0)]
    return kept.filter(pc.invert(is_marked)), pa.table([at, *texts], schema=REJECTED)


def as_declared(rows: pa.Table, schema: Schema) -> pa.Table | None:
    """Return the rows if every column has the type of the contract, or is the text of a decimal; otherwise `None`."""
    columns = []
    for column in schema.columns:
        if column.name not in rows.column_names:
            return None
        values, kind = rows.column(column.name), arrow_type(column.type)
        if decimal_of(column.type) is not None and values.type == pa.string() and not column.is_inferred:
            values = _decimals(values, kind)
        if values is None or values.type != kind or not _is_in_years(values):
            return None
        columns.append(values)
    return pa.table([*columns, rows.column(POSITION)], [*schema.names, POSITION])


def _decimals(texts: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return None  # one of them does not fit; the contract finds it


def _is_in_years(values: pa.ChunkedArray) -> bool:
    """Return whether dates and timestamps are in the years 1 to 9999; true for other types."""
    if pa.types.is_date32(values.type):
        as_number, (low, high) = pa.int32(), _DAYS
    elif pa.types.is_timestamp(values.type):
        as_number, (low, high) = pa.int64(), _MICROSECONDS
    else:
        return True
    ends = pc.min_max(values.cast(as_number)).as_py()
    return ends["min"] is None or (low <= ends["min"] and ends["max"] <= high)


def _converted(rows: pa.Table, schema: Schema, undeclared: Sequence[str]) -> ReadResult:
    """Return the rows as the contract's rules convert them; rows that do not match it are rejected."""
    missing = [name for name in schema.names if name not in rows.column_names]
    nothing = "".join(f", null::varchar as {quoted(name)}" for name in missing)
    with connect() as con:
        con.register("_fetched", rows)
        con.execute(f"create temp table {RAW} as select *{nothing} from _fetched")
        return apply_contract_to_types(con, schema, undeclared)
