"""Files as a source: CSV, newline-delimited JSON and Parquet, plain, gzip, zstd or the only member of a zip.

Delivery: each file is read once, whole; a file that changes is noticed by its size and time stamp.
"""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from pipeline.core.errors import Place, SourceError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.reading import POSITION, Piece, Reading
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect, literal, quoted, schema_of
from pipeline.sources import delimited, documents
from pipeline.sources.delimited import Dialect
from pipeline.sources.fit import RAW, Raw, fit, hold
from pipeline.sources.texts import Texts
from pipeline.sources.unpack import PACKED, unpacked

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
        literally = Path(self.pattern).is_file()
        paths = [self.pattern] if literally else sorted(glob.glob(self.pattern, recursive=True))  # noqa: PTH207 - takes any path
        found = [Path(path) for path in paths if Path(path).is_file()]
        if not found:
            raise SourceError(f"no file matches {self.pattern!r}", do="check the path", place=Place(self.pattern))
        return tuple(_piece(path) for path in found)

    def schema(self, piece: Piece) -> Schema:
        """Return the file's columns, types inferred from all its rows; raise `SourceError` when it has none."""
        with self._opened(piece) as (con, path, place):
            if self.format == "csv":
                return delimited.infer(con, path, self.dialect, place)
            if self.format == "json":
                return documents.infer(con, path, place)
            return schema_of(con, f"select * from read_parquet({literal(path)})")

    def read(self, piece: Piece, schema: Schema) -> Reading:
        """Return the rows that fit and those that do not, in the file's order.

        The position is the line on which the record begins (CSV, JSON) or the number of the row (Parquet), from 1.
        Raises `SchemaError` for other columns, `SourceError` for a file that cannot be read.
        """
        with self._opened(piece) as (con, path, place):
            if self.format == "csv":
                return delimited.read(con, path, self.dialect, schema, place)
            if self.format == "json":
                return documents.read(con, path, schema, place)
            return _read_parquet(con, path, schema, place)

    def parse(self, rows: Sequence[str], schema: Schema) -> Reading:
        """Read rejected rows again, from the texts that `read` gave; positions are 1-based in `rows`.

        A text that was not UTF-8 is rejected again: what it held is not known. So is one with an open quote.
        """
        is_csv = self.format == "csv"
        head = delimited.headline(schema, self.dialect) if is_csv else ""
        texts = Texts.of(rows, quotes=is_csv)
        with tempfile.TemporaryDirectory(prefix="headwater-rows-") as folder, connect() as con:
            path, place = str(Path(folder) / "rows"), Place(self.pattern)
            texts.write(path, head)
            if is_csv:
                reading = delimited.read(con, path, self.dialect, schema, place)
            else:
                reading = documents.read(con, path, schema, place)
        return texts.renumbered(reading, head)

    @contextmanager
    def _opened(self, piece: Piece) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, Place]]:
        place = Place(piece.uri)
        try:
            with unpacked(piece.uri) as path, connect() as con:
                if not Path(path).stat().st_size:
                    raise SourceError("the file is empty", got="0 bytes", do="remove it or wait for it", place=place)
                yield con, path, place
        except OSError as error:
            raise SourceError("the file cannot be read", got=error.strerror or str(error), place=place) from error
        except duckdb.Error as error:
            problem = f"the file cannot be read as {self.format.upper()}"
            raise SourceError(problem, got=_in_words(error), place=place) from error


def files(
    pattern: str | Path,
    *,
    format: Format | None = None,  # noqa: A002 - the field's word
    delimiter: str | None = None,
    null_values: Sequence[str] = ("",),
) -> Files:
    """Read every file that matches a path or a glob pattern.

    `format` is found from the name when it is not given. For CSV, `delimiter` is a comma, or a tab for `.tsv`,
    and the texts in `null_values` are read as null. Raises `SourceError` for a name that does not tell its format,
    and for a delimiter that is not one byte.
    """
    name = str(pattern)
    suffixes = [s.lower() for s in Path(name).suffixes if s.lower() not in PACKED]
    suffix = suffixes[-1] if suffixes else ""
    kind = format or _FORMATS.get(suffix)
    if kind is None or kind not in _FORMATS.values():
        known = ", ".join(sorted(set(_FORMATS.values())))
        raise SourceError(f"the name {name!r} does not tell its format", do=f"give format= one of {known}")
    chosen = delimiter or ("\t" if suffix == ".tsv" else ",")
    if len(chosen.encode()) != 1 or chosen in {'"', "\n", "\r"}:
        raise SourceError("a delimiter is one character of ASCII, and no quote", got=repr(chosen))
    return Files(name, kind, Dialect(chosen, tuple(null_values)))


def _piece(path: Path) -> Piece:
    stat = path.stat()
    return Piece(str(path), stat.st_size, f"{stat.st_size}-{stat.st_mtime_ns}")


def _read_parquet(con: duckdb.DuckDBPyConnection, path: str, schema: Schema, place: Place) -> Reading:
    scan = f"read_parquet({literal(path)})"
    hold(schema, schema_of(con, f"select * from {scan}").names, place)
    con.execute(f"create temp table {RAW} as select row_number() over () as {POSITION}, * from {scan}")
    packed = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in schema.names)
    values = {name: quoted(name) for name in schema.names}
    return fit(con, schema, Raw(values, f"to_json(struct_pack({packed}))::varchar"))


def _in_words(error: duckdb.Error) -> str:
    """Return the first line of DuckDB's message without its own class and file names."""
    text = str(error).strip().partition("\n")[0]
    if "state machine" in text or "sniffing" in text or "CSV Error" in text:
        return "quotes that do not match, lines that end in different ways, or a very long line"
    kind, _, rest = text.partition(" Error: ")
    return (rest if rest and len(kind.split()) <= 2 else text).partition(" '/")[0].partition(' "/')[0]  # noqa: PLR2004 - two words
