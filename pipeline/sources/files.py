"""Files as a source: CSV, newline-delimited JSON and Parquet, plain, gzip, zstd or the only member of a zip.

Delivery: each file is read once, whole; a file that changes is noticed by its size and time stamp.
"""

from __future__ import annotations

import csv
import glob
import io
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.core.errors import Place, SchemaError, SourceError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.reading import POSITION, Piece, Reading
from pipeline.core.schema import Column, Schema, compare
from pipeline.kernel.engine import arrow, connect, literal, quoted, schema_of

Format = Literal["csv", "json", "parquet"]
_FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".json": "json",
    ".ndjson": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
}
_HEADER_BYTES = 1 << 20
_REJECTED = pa.schema([(POSITION, pa.int64()), ("reason", pa.string()), ("row", pa.string())])


@dataclass(frozen=True)
class Dialect:
    """How a delimited file is written."""

    delimiter: str = ","
    null_values: tuple[str, ...] = ("",)

    def options(self, schema: Schema | None) -> str:
        """Return `read_csv`'s options: fixed, so that a strange line is rejected and never changes the dialect."""
        nulls = ", ".join(literal(value) for value in self.null_values)
        text = f"delim = {literal(self.delimiter)}, header = true, quote = '\"', escape = '\"', nullstr = [{nulls}]"
        if schema is None:
            return f"{text}, sample_size = -1"
        columns = ", ".join(f"{literal(c.name)}: {literal(c.type)}" for c in schema.columns)
        return f"{text}, auto_detect = false, store_rejects = true, rejects_limit = 0, columns = {{{columns}}}"


@dataclass(frozen=True)
class Files:
    """Every file that a path or a glob pattern matches. Make one with `files`."""

    pattern: str
    format: Format
    dialect: Dialect

    @property
    def fingerprint(self) -> str:
        """A hash of the format's options; where the files are does not count."""
        return fingerprint("files", self.format, self.dialect.delimiter, self.dialect.null_values)

    def pieces(self) -> Sequence[Piece]:
        """Return the files in the order of their names; raise `SourceError` when there is none."""
        paths = sorted(glob.glob(self.pattern, recursive=True))
        found = [Path(path) for path in paths if Path(path).is_file()]
        if not found:
            raise SourceError(f"no file matches {self.pattern!r}", do="check the path", place=Place(self.pattern))
        return tuple(_piece(path) for path in found)

    def schema(self, piece: Piece) -> Schema:
        """Return the file's columns, types inferred from all its rows; raise `SourceError` when it is empty."""
        _refuse_empty(piece)
        with _plain(piece.uri) as path, connect() as con, _errors(piece):
            return schema_of(con, f"select * from {self._scan(path, None)}")

    def read(self, piece: Piece, schema: Schema) -> Reading:
        """Return the rows that fit and those that do not, each with its line (CSV, JSON) or row (Parquet)."""
        _refuse_empty(piece)
        with _plain(piece.uri) as path, connect() as con, _errors(piece):
            names = self._names(con, path, piece)
            if self.format == "csv":
                _hold(schema, names, piece)
                return self._read_csv(con, path, schema.select(names), schema)
            if self.format == "json":
                _hold(schema, (*names, *schema.names), piece)
                return _read_json(con, path, schema)
            _hold(schema, names, piece)
            con.execute(f"create temp table raw as select * from {self._scan(path, None)}")
            values = {c.name: quoted(c.name) for c in schema.columns}
            return _typed(con, schema, values, f"to_json(struct_pack({_packed(schema)}))::varchar")

    def _scan(self, path: str, schema: Schema | None) -> str:
        if self.format == "csv":
            return f"read_csv({literal(path)}, {self.dialect.options(schema)})"
        if self.format == "json":
            return f"read_json({literal(path)}, format = 'newline_delimited', sample_size = -1, ignore_errors = true)"
        return f"read_parquet({literal(path)})"

    def _names(self, con: duckdb.DuckDBPyConnection, path: str, piece: Piece) -> tuple[str, ...]:
        if self.format != "csv":
            return schema_of(con, f"select * from {self._scan(path, None)}").names
        names = _header(path, self.dialect.delimiter)
        if not names or not all(names):
            raise SourceError("the first line has a column without a name", place=Place(piece.uri, 1))
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceError(f"the first line names {twice!r} twice", place=Place(piece.uri, 1))
        return names

    def _read_csv(self, con: duckdb.DuckDBPyConnection, path: str, ordered: Schema, schema: Schema) -> Reading:
        columns = ", ".join(quoted(name) for name in schema.names)
        rows = arrow(con, f"select {columns} from {self._scan(path, ordered)}")
        rejected = arrow(
            con,
            "select line::bigint as _position, string_agg(error_message, '; ' order by column_idx) as reason, "
            "any_value(csv_line) as row from reject_errors group by line order by line",
        ).cast(_REJECTED)
        lines = _lines(rows.num_rows, rejected.column(POSITION).to_numpy())
        return Reading(rows.append_column(POSITION, pa.array(lines)), rejected)


def _read_json(con: duckdb.DuckDBPyConnection, path: str, schema: Schema) -> Reading:
    con.execute(
        f"create temp table raw as select line from read_csv({literal(path)}, columns = {{'line': 'VARCHAR'}}, "
        "delim = '\x01', quote = '', escape = '', header = false, auto_detect = false, max_line_size = 33554432)"
    )
    document = "(case when json_valid(line) then line end)"
    values = {c.name: _extracted(document, c) for c in schema.columns}
    return _typed(con, schema, values, "line", bad="not json_valid(line)", why="not a JSON object")


def _extracted(document: str, column: Column) -> str:
    path = literal("$." + quoted(column.name))
    if column.type == "VARCHAR":
        return f"{document} ->> {path}"
    return f"nullif(json_extract({document}, {path})::varchar, 'null')::json"


def _typed(
    con: duckdb.DuckDBPyConnection,
    schema: Schema,
    values: dict[str, str],
    row: str,
    *,
    bad: str = "false",
    why: str = "",
) -> Reading:
    """Cast the rows of the table `raw` to the contract; those with a value that cannot be cast are rejected."""
    cast = {c.name: f"try_cast({values[c.name]} as {c.type})" for c in schema.columns}
    misfits = {name: f"({cast[name]} is null and ({values[name]}) is not null)" for name in cast}
    misfit = " or ".join([bad, *misfits.values()])
    columns = ", ".join(f"{text} as {quoted(name)}" for name, text in cast.items())
    rows = arrow(con, f"select {columns}, rowid + 1 as {POSITION} from raw where not ({misfit}) order by rowid")
    reasons = ", ".join(
        f"case when {misfits[c.name]} then "
        f"{literal(f'column {c.name!r} is not {c.type}: ')} || ({values[c.name]})::varchar end"
        for c in schema.columns
    )
    rejected = arrow(
        con,
        f"select rowid + 1 as {POSITION}, case when {bad} then {literal(why)} else concat_ws('; ', {reasons}) end "
        f"as reason, {row} as row from raw where {misfit} order by rowid",
    )
    return Reading(rows, rejected.cast(_REJECTED))


def _packed(schema: Schema) -> str:
    return ", ".join(f"{quoted(name)} := {quoted(name)}" for name in schema.names)


def files(
    pattern: str | Path,
    *,
    format: Format | None = None,
    delimiter: str | None = None,
    null_values: Sequence[str] = ("",),
) -> Files:
    """Read every file that matches a path or a glob pattern.

    `format` is found from the name when it is not given. For CSV, `delimiter` is a comma, or a tab for `.tsv`,
    and the texts in `null_values` are read as null. Raises `SourceError` for a name that does not tell its format.
    """
    name = str(pattern)
    suffixes = [s.lower() for s in Path(name).suffixes if s.lower() not in {".gz", ".zst", ".zip"}]
    suffix = suffixes[-1] if suffixes else ""
    kind = format or _FORMATS.get(suffix)
    if kind is None:
        known = ", ".join(sorted(set(_FORMATS.values())))
        raise SourceError(f"the name {name!r} does not tell its format", do=f"give format= one of {known}")
    return Files(name, kind, Dialect(delimiter or ("\t" if suffix == ".tsv" else ","), tuple(null_values)))


def _piece(path: Path) -> Piece:
    stat = path.stat()
    return Piece(str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


def _refuse_empty(piece: Piece) -> None:
    if piece.size_bytes == 0:
        raise SourceError("the file is empty", got="0 bytes", do="remove it or wait for it", place=Place(piece.uri))


@contextmanager
def _plain(uri: str) -> Iterator[str]:
    """Yield the path of a file that DuckDB can read: itself, or the only member of a zip in a temporary folder."""
    if not uri.endswith(".zip"):
        yield uri
        return
    with tempfile.TemporaryDirectory(prefix="headwater-zip-") as folder:
        try:
            with zipfile.ZipFile(uri) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
                if len(names) != 1:
                    raise SourceError("a zip must hold one file", got=f"{len(names)}", place=Place(uri))
                member = archive.extract(names[0], folder)
        except zipfile.BadZipFile as error:
            raise SourceError("not a zip file", got=str(error), place=Place(uri)) from error
        yield member


@contextmanager
def _errors(piece: Piece) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        message = str(error).strip().partition("\n")[0]
        raise SourceError("the file cannot be read", got=message, place=Place(piece.uri)) from error


def _hold(schema: Schema, names: tuple[str, ...], piece: Piece) -> None:
    """Raise `SchemaError` when a file has other columns than its contract, in whatever order."""
    contract, found = (Schema.of(dict.fromkeys(n, "")) for n in (schema.names, names))
    change = compare(contract, found)
    if change:
        raise SchemaError(
            "the columns are not those of the contract",
            got=str(change),
            do="change schema= or the file; `headwater run --full` then takes the new columns",
            place=Place(piece.uri, 1),
        )


def _header(path: str, delimiter: str) -> tuple[str, ...]:
    with pa.input_stream(path, compression="detect") as stream:
        head = stream.read(_HEADER_BYTES).decode("utf-8-sig", errors="replace")
    return tuple(next(csv.reader(io.StringIO(head), delimiter=delimiter), ()))


def _lines(rows: int, rejected: np.ndarray) -> np.ndarray:
    """Return the line of each good row, given the sorted lines of the bad ones; the header is line 1."""
    ordinal = np.arange(rows, dtype=np.int64)
    before = np.searchsorted(rejected - 2 - np.arange(len(rejected)), ordinal, side="right")
    return ordinal + 2 + before
