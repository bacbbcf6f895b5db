"""Parquet: cut between row groups; a position is the number of the row in the file."""

from __future__ import annotations

import itertools

import duckdb

from pipeline.core.errors import Place
from pipeline.core.reading import MISFIT, POSITION, Flowing, Part, Piece, Reading
from pipeline.core.schema import Schema
from pipeline.kernel.engine import listed, literal, schema_of
from pipeline.sources.cutting import is_small
from pipeline.sources.fit import RAW, fit_types, hold, not_in_years

_ROW = "file_row_number"


def infer(con: duckdb.DuckDBPyConnection, path: str) -> Schema:
    """Return the file's own columns and types."""
    return schema_of(con, f"select * from read_parquet({literal(path)})")


def parts(con: duckdb.DuckDBPyConnection, path: str, piece: Piece, target_bytes: int) -> tuple[Part, ...]:
    """Cut a file between row groups into parts of about `target_bytes` before compression."""
    groups = con.execute(
        "select any_value(row_group_num_rows), sum(total_uncompressed_size)::bigint "
        f"from parquet_metadata({literal(path)}) group by row_group_id order by row_group_id"
    ).fetchall()
    if is_small(sum(size for _, size in groups), target_bytes) or _ROW in infer(con, path).names:
        return (Part(piece),)
    sizes, begins, room = [0], [0], target_bytes
    for row, (_, size) in zip(itertools.accumulate((rows for rows, _ in groups), initial=0), groups, strict=False):
        if room <= 0:
            begins.append(row)
            sizes.append(0)
            room = target_bytes
        sizes[-1] += size
        room -= size
    if len(begins) == 1:
        return (Part(piece),)
    ends = [*begins[1:], None]
    return tuple(Part(piece, b, e, b + 1, size) for b, e, size in zip(begins, ends, sizes, strict=True))


def read(con: duckdb.DuckDBPyConnection, path: str, part: Part, schema: Schema, place: Place) -> Reading:
    """Return the rows that fit and those that do not, as JSON objects."""
    hold(schema, infer(con, path).names, place)
    con.execute(f"create temp table {RAW} as select {_numbered(part)}, {listed(schema.names)} from {_scan(path, part)}")
    return fit_types(con, schema)


def flow(con: duckdb.DuckDBPyConnection, path: str, part: Part, schema: Schema, place: Place) -> Flowing | None:
    """Return the rows as a query when all columns have their types already, so that only their years can be misfits."""
    own = infer(con, path)
    hold(schema, own.names, place)
    if own.select(schema.names) != schema:
        return None
    query = (
        f"select {listed(schema.names)}, {_numbered(part)}, {not_in_years(schema)} as {MISFIT} from {_scan(path, part)}"
    )
    found = con.execute(f"select sum(num_rows)::bigint from parquet_file_metadata({literal(path)})").fetchall()
    rows = (int(found[0][0]) if part.end is None else part.end) - part.begin
    return Flowing(query, rows, "select 0")


def _numbered(part: Part) -> str:
    # only a whole file may have a column of that name itself
    return f"{'row_number() over ()' if part.is_whole else f'{_ROW} + 1'} as {POSITION}"


def _scan(path: str, part: Part) -> str:
    """Return a scan of the part's row groups; DuckDB passes over the others by the range of their numbers."""
    if part.is_whole:
        return f"read_parquet({literal(path)})"
    until = "" if part.end is None else f" and {_ROW} < {part.end}"
    return f"read_parquet({literal(path)}, {_ROW} = true) where {_ROW} >= {part.begin}{until}"
