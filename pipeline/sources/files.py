"""Files as a source: CSV, newline-delimited JSON and Parquet, plain, gzip, zstd or the only member of a zip.

Delivery: each file is read once, whole; a file that changes is noticed by its size and time stamp.
"""

from __future__ import annotations

import contextlib
import glob
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from pipeline.core.errors import Place, SourceError, SplitError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.reading import MISFIT, Flowing, Part, Piece, Reading
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect
from pipeline.sources import columnar, delimited, documents, flowing
from pipeline.sources.cutting import bytes_of, lines_in, parts_of, quoted_parts_of
from pipeline.sources.delimited import Delimited, Dialect
from pipeline.sources.fit import moved
from pipeline.sources.texts import Texts
from pipeline.sources.unpack import PACKED, laid_out, unpacked

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
        place = Place(piece.uri)
        with self._told(place), self._path(Part(piece)) as path, connect() as con:
            if self.format == "csv":
                return delimited.infer(con, Delimited(path, self.dialect, place))
            if self.format == "json":
                return documents.infer(con, path, place)
            return columnar.infer(con, path)

    def parts(self, piece: Piece, target_bytes: int) -> Sequence[Part]:
        """Return stretches of a file of about `target_bytes`; one for a packed file, and for one no larger.

        A file that cannot be read is one part: reading it says why.
        """
        whole = (Part(piece),)
        if target_bytes >= piece.size_bytes or Path(piece.uri).suffix.lower() in PACKED:
            return whole
        with contextlib.suppress(SourceError), self._told(Place(piece.uri)), self._path(Part(piece)) as path:
            if self.format == "parquet":
                with connect() as con:
                    return columnar.parts(con, path, piece, target_bytes)
            if self.format == "json":
                return parts_of(piece, bytes_of(path), target_bytes)
            return quoted_parts_of(piece, bytes_of(path), target_bytes, self.dialect.delimiter)
        return whole

    def read(self, part: Part, schema: Schema) -> Reading:
        """Return the rows that fit and those that do not, in the file's order.

        The position is the line on which the record begins (CSV, JSON) or the number of the row (Parquet), from 1.
        Raises `SchemaError` for other columns, `SourceError` for a file that cannot be read, and of these
        `SplitError` for a part that, it turns out, does not end where a record does.
        """
        place = Place(part.piece.uri)
        try:
            with self._told(place), self._path(part) as path, connect() as con:
                if self.format == "parquet":
                    return columnar.read(con, path, part, schema, place)
                if self.format == "json":
                    return moved(documents.read(con, path, schema, place), self._before(part))
                file = Delimited(path, self.dialect, place, goes_on=part.end is not None)
                return moved(delimited.read(con, file, schema), self._before(part))
        except SourceError as error:
            if part.is_whole:
                raise
            raise SplitError(
                f"a part of the file cannot be read by itself: {error.problem}",
                got=error.got,
                do="read the file whole",
                place=place,
            ) from error

    @contextmanager
    def flow(self, con: duckdb.DuckDBPyConnection, part: Part, schema: Schema) -> Iterator[Flowing | None]:
        """Yield a part as a query; None for a column named `_misfit`, an odd header, a Parquet column to be cast.

        Raises `SchemaError` for other columns, `SourceError` for a file that cannot be read.
        """
        with contextlib.ExitStack() as until:
            with self._told(Place(part.piece.uri)):
                path = until.enter_context(self._path(part))
                found = None if MISFIT in schema.names else self._flowing(con, path, part, schema)
            try:
                yield found
            finally:
                with contextlib.suppress(duckdb.Error):  # the connection may be closed or broken by now
                    con.execute(flowing.forget(path))

    def _flowing(self, con: duckdb.DuckDBPyConnection, path: str, part: Part, schema: Schema) -> Flowing | None:
        place = Place(part.piece.uri)
        if self.format == "parquet":
            return columnar.flow(con, path, part, schema, place)
        lines, before = self._lines(part, path), self._before(part)
        if self.format == "json":
            return flowing.of_documents(path, schema, lines, before)
        return flowing.of_delimited(Delimited(path, self.dialect, place), schema, lines, before)

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
                reading = delimited.read(con, Delimited(path, self.dialect, place), schema)
            else:
                reading = documents.read(con, path, schema, place)
        return texts.renumbered(reading, head)

    def _path(self, part: Part) -> AbstractContextManager[str]:
        if self.format == "parquet":
            return unpacked(part.piece.uri)
        return laid_out(part, self.dialect.delimiter if self.format == "csv" else None)

    def _before(self, part: Part) -> int:
        """Return how many more lines are before the part's first in the file than in what `_path` gives."""
        return part.first - 1 - self._has_copied_header(part)

    def _lines(self, part: Part, path: str) -> int:
        return lines_in(path) if part.lines is None else part.lines + self._has_copied_header(part)

    def _has_copied_header(self, part: Part) -> bool:
        return self.format == "csv" and part.begin > 0

    @contextmanager
    def _told(self, place: Place) -> Iterator[None]:
        """Turn what the file system and DuckDB raise into a `SourceError` in words."""
        try:
            yield
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


def _in_words(error: duckdb.Error) -> str:
    """Return the first line of DuckDB's message without its own class and file names."""
    text = str(error).strip().partition("\n")[0]
    if "state machine" in text or "sniffing" in text or "CSV Error" in text:
        return "quotes that do not match, lines that end in different ways, or a very long line"
    kind, _, rest = text.partition(" Error: ")
    return (rest if rest and len(kind.split()) <= 2 else text).partition(" '/")[0].partition(' "/')[0]  # noqa: PLR2004 - two words
