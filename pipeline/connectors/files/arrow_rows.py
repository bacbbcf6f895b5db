"""Arrow batches as a table of DuckDB, for formats that DuckDB does not read itself."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa


def register(con: duckdb.DuckDBPyConnection, path: str, rows: pa.RecordBatchReader) -> str:
    """Register the rows of a file in a folder of its own, and return the name of the table, which can be read once."""
    con.register(_name(path), rows)
    return _name(path)


def release(con: duckdb.DuckDBPyConnection, path: str) -> None:
    """Remove the table of a file."""
    con.unregister(_name(path))


def _name(path: str) -> str:
    return f"typed_{Path(path).parent.name.rpartition('-')[2]}"


def microseconds(kind: pa.DataType) -> pa.DataType:
    """Return a type with its times in microseconds, as a lake stores them."""
    is_ = pa.types
    if is_.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if is_.is_time(kind):
        return pa.time64("us")
    if is_.is_list(kind):
        return pa.list_(microseconds(kind.value_type))
    if is_.is_map(kind):
        return pa.map_(microseconds(kind.key_type), microseconds(kind.item_type))
    if is_.is_struct(kind):
        return pa.struct([(field.name, microseconds(field.type)) for field in kind])
    return kind
