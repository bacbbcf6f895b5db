"""The Parquet files of a load: written from the files of the lake, and uploaded to the stage.

A file's name says which rows it has: the table, the version, what the version is compared with, and its number. So an
attempt that was interrupted goes on with the files that it had uploaded, and a repeated upload doubles nothing.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import fsspec

from pipeline.core import scratch
from pipeline.core.errors import StorageError
from pipeline.kernel.engine import connect, first_line, one
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.warehouse.load_checks import GONE, NEW, find_changed_rows, require_unique
from pipeline.warehouse.snowflake import statements
from pipeline.warehouse.snowflake.column_types import SnowflakeColumn, stored_name
from pipeline.warehouse.snowflake.sessions import SnowflakeSession
from pipeline.warehouse.warehouse import Load

LoadMode = Literal["append", "merge", "replace"]
_FORMAT = 1
"""Part of the names: files that an earlier Headwater staged in another way are not used."""
_TARGET_BYTES = 128 << 20
"""The size of files in the lake that become one staged file; Snowflake advises 100 to 250 MB."""
_AT_ONCE = 8
"""Files that are written before they are uploaded together: they are on the local disk until then."""
_CHANGES = "_changes"


@dataclass(frozen=True)
class UploadFile:
    """A file to upload: its name, and the SELECT of its rows."""

    name: str
    query: str


@dataclass(frozen=True)
class UploadedRows:
    """What is in the folder of a load: the number of rows of its files."""

    folder: str
    rows: int


def table_folder(table: str) -> str:
    """Return the folder of a table in the stage; names that differ have different folders."""
    return f"{re.sub(r'[^A-Za-z0-9_]', '_', stored_name(table))}_{zlib.crc32(table.lower().encode()):08x}"


def load_folder(load: Load, mode: LoadMode) -> str:
    """Return the folder of a version in the stage."""
    since = "" if mode == "replace" or load.since is None else f"_since_{load.since[0]}_{_id(load.since[1])}"
    return f"{table_folder(load.name)}/{mode}_{load.version}_{_id(load.manifest_id)}{since}_f{_FORMAT}"


def _id(manifest_id: int) -> str:
    return f"{manifest_id % (1 << 64):x}"


def stage_rows(
    session: SnowflakeSession,
    load: Load,
    mode: LoadMode,
    columns: Sequence[SnowflakeColumn],
    filesystem: fsspec.AbstractFileSystem | None,
) -> UploadedRows | None:
    """Write and upload the rows of a load; return `None` if rows without a key would have to be deleted.

    Raises `StorageError` if a file of the lake cannot be read, if a value cannot be stored in Snowflake, and for rows that
    break the promise of the key.
    """
    folder = load_folder(load, mode)
    with _lake(filesystem, load.name) as con:
        if mode == "merge":
            rows = _changed_rows(con, load)
            if rows is None:
                return None
            files = _change_files(load, columns, rows)
        else:
            scan = load.scan if mode == "replace" else Scan(load.scan.schema, load.added)
            require_unique(con, load, scan.query())
            rows, files = scan.rows, _scan_files(scan, columns)
        known = staged_names(session, folder)
        _upload(con, session, folder, [file for file in files if file.name not in known])
    return UploadedRows(folder, rows)


def staged_names(session: SnowflakeSession, folder: str) -> set[str]:
    """Return the names of the files in a folder of the stage, at any depth."""
    prefix = f"{statements.STAGE.lower()}/{folder}/"
    names = (str(row["name"]) for row in session.rows(statements.LIST_STAGE))
    return {name.removeprefix(prefix) for name in names if name.startswith(prefix)}


@contextmanager
def _lake(filesystem: fsspec.AbstractFileSystem | None, table: str) -> Iterator[duckdb.DuckDBPyConnection]:
    with connect(filesystem=filesystem) as con:
        try:
            yield con
        except duckdb.IOException as error:
            raise StorageError(
                f"the rows of {table!r} cannot be prepared for Snowflake",
                got=first_line(error),
                do="check the free space; if a file of the lake is missing: headwater run --full --select NAME",
            ) from error
        except duckdb.Error as error:
            raise StorageError(
                f"the rows of {table!r} cannot be stored in Snowflake",
                got=first_line(error),
                do="change these values in its definition",
            ) from error


def _scan_files(scan: Scan, columns: Sequence[SnowflakeColumn]) -> list[UploadFile]:
    values = _values(columns)
    return [
        UploadFile(f"{number:05d}.parquet", f"select {values} from ({split.query()})")
        for number, split in enumerate(scan.splits(_TARGET_BYTES))
        if split.files
    ]


def _change_files(load: Load, columns: Sequence[SnowflakeColumn], rows: int) -> list[UploadFile]:
    """Return the files of a MERGE. The rows of a file are chosen by the hash of the key, so every attempt chooses alike."""
    values, operation = _values(columns), quoted(statements.OPERATION)
    count = 1 + sum(file.size_bytes for file in load.added) // _TARGET_BYTES
    part = f"hash({listed(load.key or load.scan.schema.names)}) % {count}"
    return [
        UploadFile(
            f"{number:05d}_of_{count}.parquet",
            f"select {values}, {operation} from {_CHANGES} where {part} = {number}",
        )
        for number in range(count if rows else 0)
    ]


def _values(columns: Sequence[SnowflakeColumn]) -> str:
    return ", ".join(f"{column.staged} as {column.identifier}" for column in columns)


def _changed_rows(con: duckdb.DuckDBPyConnection, load: Load) -> int | None:
    """Compute the rows that differ: those to insert or update, and those whose keys are gone."""
    if not find_changed_rows(con, load):
        return None
    require_unique(con, load, f"from {NEW}")
    operation, keys = quoted(statements.OPERATION), listed(load.key)
    gone_rows = f"select *, 'D' as {operation} from {GONE} anti join {NEW} using ({keys})" if load.key else ""
    both = f"select *, 'U' as {operation} from {NEW}" + (f" union all by name {gone_rows}" if gone_rows else "")
    con.execute(f"create or replace temp table {_CHANGES} as {both}")
    (rows,) = one(con, f"select count(*) from {_CHANGES}")
    return int(rows)


def _upload(
    con: duckdb.DuckDBPyConnection, session: SnowflakeSession, folder: str, files: Sequence[UploadFile]
) -> None:
    for start in range(0, len(files), _AT_ONCE):
        with scratch.folder("snowflake") as place:
            for file in files[start : start + _AT_ONCE]:
                target = literal(str(Path(place, file.name)))
                con.execute(f"copy ({file.query}) to {target} (format parquet, compression zstd)")
            session.rows(statements.put(f"{place}/*", folder))
