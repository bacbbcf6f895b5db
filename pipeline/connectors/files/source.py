"""Files as a source: CSV, newline-delimited JSON and Parquet; plain, gzip, zstd or the only member of a zip archive.

Delivery: each file is read completely and once. Changes are detected by size and timestamp, and by content if only the
timestamp changed. As a log, each file is a partition with one record: it must be complete when it appears under a
matching name (write it elsewhere and move it), and a later change ends the stream with an error.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Literal

import duckdb

from pipeline.connectors.contract import shift_positions, undeclared_names
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.files import parquet, small_files, text_scan
from pipeline.connectors.files.byte_ranges import lines_in, mapped_bytes, parts_of, quoted_splits_of, splits_of
from pipeline.connectors.files.column_names import ColumnNames
from pipeline.connectors.files.compression import COMPRESSED_SUFFIXES, decompressed, split_as_file
from pipeline.connectors.files.csv import reader as csv_reader
from pipeline.connectors.files.csv.reader import CsvReader, Dialect
from pipeline.connectors.files.encoding import encoding_of
from pipeline.connectors.files.json import layout as json_layout
from pipeline.connectors.files.json import reader as json_reader
from pipeline.connectors.files.listing import Listing, plan_files
from pipeline.connectors.files.parquet import ParquetFile
from pipeline.connectors.files.rejected_rows import RejectedTexts
from pipeline.connectors.files.selected_lines import SelectedLines
from pipeline.core import scratch
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, SplitError, few, quantity
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, Extent, LogTraits, NewColumns, ReadResult, ScanQuery, Tail
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect, expect_columns

Format = Literal["csv", "json", "parquet"]
_SHOWN = 3
"""Maximum number of files listed in a finding."""
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
    """All files that match a path or a glob pattern. Create it with `files`."""

    pattern: str
    format: Format
    dialect: Dialect
    folder: str = field(default=".", compare=False)
    """The folder for relative patterns: the project's folder, once the project is loaded."""

    def within(self, folder: Path) -> Files:
        """Return the reader with relative patterns resolved against a folder."""
        return replace(self, folder=str(folder))

    @property
    def listing(self) -> Listing:
        """The listing of the files."""
        return Listing(self.pattern, self.folder)

    @property
    def traits(self) -> LogTraits:
        """A file is consumed as a whole, can be archived once it was read, and is read in order of arrival."""
        return LogTraits(has_whole_partitions=True, may_vanish=True, is_in_sequence=True)

    @property
    def fingerprint(self) -> str:
        """A hash of the format's options; the location of the files is not part of it."""
        dialect, naming = self.dialect, self.dialect.naming
        options = (dialect.encoding, dialect.has_header, naming.names, naming.rename)
        more = () if options == (None, True, (), ()) else options
        return fingerprint("files", self.format, dialect.delimiter, dialect.null_values, *more)

    def evolving(self, new_columns: NewColumns) -> Files:
        """Return the reader with this policy for columns that are not in the contract."""
        return replace(self, dialect=replace(self.dialect, new_columns=new_columns))

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the columns of a file that are not in a contract, with types inferred from all rows."""
        new = undeclared_names(schema, self._column_names(split.source_object))
        return self.schema(split.source_object).select(new) if new else Schema(())

    def _column_names(self, source_object: SourceObject) -> tuple[str, ...]:
        """Return the names of a file's columns, without types; fast for plain files."""
        place, path = Place(source_object.uri), self.listing.path(source_object.uri)
        with self._translated_errors(place), contextlib.ExitStack() as stack:
            if self.format == "json" or not self._is_plain(path):
                path = stack.enter_context(self._path(SourceSplit(source_object)))
            if self.format == "csv":
                return csv_reader.column_names(CsvReader(path, self.dialect, place))
            if self.format == "json":
                return json_reader.names(stack.enter_context(connect()), path, place, self.dialect)
            return ParquetFile.of(path, self.dialect.naming, place).names

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the new files, ordered by location; raise `SourceError` if there are no files."""
        return plan_files(self.listing, cursor, bound)

    def check(self) -> Iterator[Finding]:
        """Yield the number and size of the matching files, and those that are unreadable or empty."""
        source_objects = self.source_objects()
        size = sum(source_object.size_bytes for source_object in source_objects)
        detail = f"{quantity(len(source_objects), 'file')}, {size / 1e6:,.1f} MB"
        yield Finding(self.pattern, FindingState.OK, detail)
        unreadable = [
            source_object.uri
            for source_object in source_objects
            if not os.access(self.listing.path(source_object.uri), os.R_OK)
        ]
        if unreadable:
            do = "give the user who runs this the right to read them"
            yield Finding(self.pattern, FindingState.BAD, f"cannot be read: {few(unreadable, _SHOWN)}; {do}")
        empty = [source_object.uri for source_object in source_objects if not source_object.size_bytes]
        if empty:
            yield Finding(self.pattern, FindingState.NOTE, f"empty: {few(empty, _SHOWN)}")

    def source_objects(self) -> Sequence[SourceObject]:
        """Return all files, ordered by location; raise `SourceError` if there are none."""
        return self.listing.source_objects()

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the file's columns, with types inferred from all rows; raise `SourceError` if it has none."""
        place = Place(source_object.uri)
        with self._translated_errors(place), self._path(SourceSplit(source_object)) as path, connect() as con:
            if self.format == "csv":
                return csv_reader.infer(con, CsvReader(path, self.dialect, place))
            if self.format == "json":
                return json_reader.infer(con, path, place, self.dialect)
            return ParquetFile.of(path, self.dialect.naming, place).schema(con)

    def splits(self, source_object: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        """Return splits of a file of about `target_bytes`; one split for a compressed or small file.

        An unreadable file is one split; reading it reports the error.
        """
        whole_file = (SourceSplit(source_object),)
        if target_bytes >= source_object.size_bytes or not self._is_plain(source_object.uri):
            return whole_file
        with (
            contextlib.suppress(SourceError),
            self._translated_errors(Place(source_object.uri)),
            self._path(SourceSplit(source_object)) as path,
        ):
            return self._cut(source_object, path, target_bytes)
        return whole_file

    def parts(self, split: SourceSplit, target_bytes: int) -> Sequence[SourceSplit]:
        """Return parts of a split of about `target_bytes`: text between any two lines, Parquet between row groups."""
        if split.is_whole:
            return self.splits(split.source_object, target_bytes)
        if self.format == "parquet":
            return parquet.parts(split, self.splits(split.source_object, target_bytes))
        data = mapped_bytes(self.listing.path(split.source_object.uri))
        is_csv = self.format == "csv"
        head = self.dialect.head_bytes(data) if is_csv and split.begin == 0 else 0
        return (split,) if head is None else parts_of(split, data, target_bytes, head=head, quotes=is_csv)

    def _cut(self, source_object: SourceObject, path: str, target_bytes: int) -> Sequence[SourceSplit]:
        if self.format == "parquet":
            with connect() as con:
                return parquet.splits(con, path, source_object, target_bytes)
        if self.format == "json":
            is_cut = json_layout.layout(self.listing.path(source_object.uri)) == "newline_delimited"
            return (
                splits_of(source_object, mapped_bytes(path), target_bytes) if is_cut else (SourceSplit(source_object),)
            )
        if csv_reader.read_header(CsvReader(path, self.dialect, Place(source_object.uri))).is_short:
            return (SourceSplit(source_object),)  # only the beginning of the file shows this
        data = mapped_bytes(path)
        return quoted_splits_of(source_object, data, target_bytes, self.dialect.head_bytes(data))

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected rows, in the order of the file.

        The position is the line on which the record begins (CSV, JSON) or the row number (Parquet), from 1. Raises
        `SchemaError` for other columns, `SourceError` for a file that cannot be read, and its subclass `SplitError` for
        a split that does not end at the end of a record.
        """
        place, schema = Place(split.source_object.uri), self._with_file_names(schema)
        split = self._require_unchanged(split)
        try:
            with self._translated_errors(place), self._path(split) as path, connect() as con:
                expect_columns(con, len(schema.columns))
                if self.format == "parquet":
                    parquet_file = ParquetFile.of(path, self.dialect.naming, place)
                    return parquet.read(con, parquet_file, split, schema, self.dialect.new_columns)
                if self.format == "json":
                    return shift_positions(
                        json_reader.read(con, path, schema, place, self.dialect), self._position_offset(split)
                    )
                file = CsvReader(path, self.dialect, place, continues=split.end is not None)
                return shift_positions(csv_reader.read(con, file, schema), self._position_offset(split))
        except SourceError as error:
            if split.is_whole:
                raise
            raise SplitError(
                f"a split of the file cannot be read independently: {error.problem}",
                got=error.got,
                do="read the file as one split",
                place=place,
            ) from error

    @contextmanager
    def scan(self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema) -> Iterator[ScanQuery | None]:
        """Yield a split as a query; None for a column named `_misfit`, an unusual header, or a Parquet column to cast.

        Raises `SchemaError` for other columns, `SourceError` for a file that cannot be read.
        """
        split, schema = self._require_unchanged(split), self._with_file_names(schema)
        with contextlib.ExitStack() as until:
            with self._translated_errors(Place(split.source_object.uri)):
                path = until.enter_context(self._path(split))
                query = None if MISFIT in schema.names else self._scan_query(con, path, split, schema)
            if query is not None and self.format != "parquet":
                query = replace(query, read_rows=partial(self._read_rows, path, self._position_offset(split), schema))
            try:
                yield query
            finally:
                with contextlib.suppress(duckdb.Error):  # the connection may be closed or broken
                    text_scan.release(con, path)

    def is_small(self, split: SourceSplit) -> bool:
        """Return whether a split is an entire small uncompressed file whose name has no wildcards."""
        path = self.listing.path(split.source_object.uri)
        is_plain = self._is_plain(path) and small_files.can_be_listed(path)
        is_whole = split.begin == 0 and split.end in {None, split.source_object.size_bytes}
        return is_whole and is_plain and split.size_bytes <= small_files.SMALL_BYTES

    @contextmanager
    def scan_together(
        self, con: duckdb.DuckDBPyConnection, splits: Sequence[SourceSplit], schema: Schema
    ) -> Iterator[ScanQuery | None]:
        """Yield small files as one query; None if one of them has an unusual header, or a Parquet column to cast.

        Raises `SchemaError` for other columns, `SourceError` for a file that cannot be read.
        """
        schema = self._with_file_names(schema)
        uris = [self._require_unchanged(split).source_object.uri for split in splits]
        files = [small_files.SmallFile(self.listing.path(uri), uri) for uri in uris]
        rejects = f"rejects_{secrets.token_hex(8)}"
        with self._translated_errors(Place(f"{files[0].source} and {len(files) - 1} more")):
            if self.format == "parquet":
                query = small_files.scan_parquet(con, files, self.dialect, schema)
            elif self.format == "json":
                query = small_files.scan_json(files, schema, rejects)
            else:
                query = small_files.scan_delimited(files, self.dialect, schema, rejects)
        if query is not None and self.format != "parquet":
            query = replace(
                query, read_rows=lambda uri, at: self._read_rows(self.listing.path(uri), 0, schema, uri, at)
            )
        try:
            yield query
        finally:
            with contextlib.suppress(duckdb.Error):  # the connection may be closed or broken
                small_files.drop_rejects(con, rejects)

    def _scan_query(
        self, con: duckdb.DuckDBPyConnection, path: str, split: SourceSplit, schema: Schema
    ) -> ScanQuery | None:
        place = Place(split.source_object.uri)
        if self.format == "parquet":
            parquet_file = ParquetFile.of(path, self.dialect.naming, place)
            return parquet.scan(con, parquet_file, split, schema, self.dialect.new_columns)
        lines, before = self._lines(split, path), self._position_offset(split)
        if self.format == "json":
            return text_scan.scan_json(path, schema, lines, before)
        return text_scan.scan_delimited(con, CsvReader(path, self.dialect, place), schema, lines, before)

    def _read_rows(self, path: str, offset: int, schema: Schema, uri: str, positions: Sequence[int]) -> ReadResult:
        """Return the rows at some positions of a split whose rows are lines; see `RowReader`."""
        place = Place(uri)
        lines = SelectedLines.of(path, [position - offset for position in positions], csv_reader.HEAD_LINES)
        with self._translated_errors(place), scratch.folder("rows") as folder, connect() as con:
            expect_columns(con, len(schema.columns))
            selected = str(Path(folder) / "rows")
            lines.write(selected)
            if self.format == "json":
                reading = json_reader.read(con, selected, schema, place, self.dialect)
            else:
                reading = csv_reader.read(con, CsvReader(selected, self.dialect, place), schema)
        return shift_positions(lines.renumbered(reading), offset)

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Read rejected rows again, from the texts that `read` returned; positions are 1-based indexes into `rows`.

        A text that was not UTF-8 is rejected again, because its original bytes are not known. So is one with an open
        quote.
        """
        is_csv = self.format == "csv"
        # rejected rows are stored as UTF-8, with the names and order of the table's columns
        dialect = replace(self.dialect, has_header=True, naming=ColumnNames(schema.names), encoding=None)
        schema = self._with_file_names(schema) if self.format == "json" else schema
        head = csv_reader.header_line(schema, dialect) if is_csv else ""
        texts = RejectedTexts.of(rows, quotes=is_csv)
        with scratch.folder("rows") as folder, connect() as con:
            path, place = str(Path(folder) / "rows"), Place(self.pattern)
            texts.write(path, head)
            if is_csv:
                reading = csv_reader.read(con, CsvReader(path, dialect, place), schema)
            else:
                reading = json_reader.read(con, path, schema, place)
        return texts.renumbered(reading, head)

    def extents(self) -> Mapping[str, Extent]:
        """Return the files with their sizes; an empty file has no record yet."""
        with contextlib.suppress(SourceError):
            return {
                source_object.uri: Extent(0, source_object.size_bytes, source_object.stamp)
                for source_object in self.source_objects()
            }
        return {}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each file its size if it was written before a time, otherwise 0."""
        instant = time.timestamp() * 1e9
        return {
            uri: extent.end if int(extent.stamp.rpartition("-")[2]) < instant else 0
            for uri, extent in self.extents().items()
        }

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read files as they arrive."""
        yield DirectTail(self, dict(offsets), max_rows=1 << 62)

    def _require_unchanged(self, split: SourceSplit) -> SourceSplit:
        """Return the split; a split that covers an entire file is returned without an end.

        Raises `SourceError` if the size of that file has changed since it was listed.
        """
        if split.begin != 0 or split.end is None or split.end != split.source_object.size_bytes:
            return split
        place, path = Place(split.source_object.uri), Path(self.listing.path(split.source_object.uri))
        with self._translated_errors(place):
            size = path.stat().st_size if path.is_file() else None
        if size != split.end:
            raise SourceError(
                "the file changed after it was listed",
                got="it was removed" if size is None else f"{size} bytes, previously {split.end}",
                do="move files into the folder when they are complete, and do not change them afterwards",
                place=place,
            )
        return replace(split, end=None, first=1)

    def _path(self, split: SourceSplit) -> AbstractContextManager[str]:
        split = replace(
            split, source_object=replace(split.source_object, uri=self.listing.path(split.source_object.uri))
        )
        if self.format == "parquet":
            return decompressed(split.source_object.uri)
        if self.format == "json" and split.is_whole:
            return self._in_lines(split)
        has_header = self.format == "csv" and self.dialect.has_header
        return split_as_file(split, self.dialect.delimiter if has_header else None, self.dialect.encoding)

    @contextmanager
    def _in_lines(self, split: SourceSplit) -> Iterator[str]:
        with (
            split_as_file(split, None, self.dialect.encoding) as path,
            json_layout.in_lines(path, Place(split.source_object.uri)) as lines,
        ):
            yield lines

    def _position_offset(self, split: SourceSplit) -> int:
        """Return the number of lines of the file before the split that the file of `_path` does not contain."""
        return split.first - 1 - self._has_copied_header(split)

    def _lines(self, split: SourceSplit, path: str) -> int:
        return lines_in(path) if split.lines is None else split.lines + self._has_copied_header(split)

    def _has_copied_header(self, split: SourceSplit) -> bool:
        return self.format == "csv" and self.dialect.has_header and split.begin > 0

    def _is_plain(self, uri: str) -> bool:
        """Return whether a file is read directly: neither compressed, nor in another encoding."""
        return Path(uri).suffix.lower() not in COMPRESSED_SUFFIXES and self.dialect.encoding is None

    def _with_file_names(self, schema: Schema) -> Schema:
        """Return the columns with their names in the files, if these are different."""
        keys = {new: old for old, new in self.dialect.naming.rename}
        return (
            Schema(tuple(replace(column, key=keys.get(column.name, "")) for column in schema.columns))
            if keys
            else schema
        )

    @contextmanager
    def _translated_errors(self, place: Place) -> Iterator[None]:
        """Translate errors of the file system and DuckDB to a readable `SourceError`."""
        try:
            yield
        except OSError as error:
            raise SourceError("the file cannot be read", got=error.strerror or str(error), place=place) from error
        except duckdb.InterruptException:
            raise
        except duckdb.Error as error:
            problem = f"the file cannot be read as {self.format.upper()}"
            raise SourceError(problem, got=_short_message(error), place=place) from error


def files(
    pattern: str | Path,
    *,
    format: Format | None = None,  # noqa: A002 - the usual term
    delimiter: str | None = None,
    null_values: Sequence[str] = ("",),
    encoding: str | None = None,
    header: bool | None = None,
    names: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> Files:
    """Read every file that matches a path or a glob pattern.

    `format` is derived from the name by default. For CSV, the default `delimiter` is a comma, or a tab for `.tsv`, and
    the texts in `null_values` are read as null. CSV and JSON are UTF-8 unless `encoding` says otherwise.

    The first line of CSV is a header unless `header=False`. `names` are the columns by position; they require `header`,
    which is True if they replace the names of the header. `rename` maps names in the data, or in `names`, to names of
    the table, for all formats.

    Raises `SourceError` for a name without a known format, a delimiter that is not one byte, an unknown encoding, and
    options that cannot be combined.
    """
    name = str(pattern)
    suffixes = [s.lower() for s in Path(name).suffixes if s.lower() not in COMPRESSED_SUFFIXES]
    suffix = suffixes[-1] if suffixes else ""
    kind = format or _FORMATS.get(suffix)
    if kind is None or kind not in _FORMATS.values():
        known = ", ".join(sorted(set(_FORMATS.values())))
        raise SourceError(f"the format cannot be derived from the name {name!r}", do=f"pass format=, one of {known}")
    chosen = delimiter or ("\t" if suffix == ".tsv" else ",")
    if len(chosen.encode()) != 1 or chosen in {'"', "\n", "\r"}:
        raise SourceError("a delimiter must be one ASCII character, and not a quote", got=repr(chosen))
    is_given = {"encoding=": encoding is not None, "header=": header is not None, "names=": bool(names)}
    for option, formats in (("encoding=", ("csv", "json")), ("header=", ("csv",)), ("names=", ("csv",))):
        if is_given[option] and kind not in formats:
            raise SourceError(
                f"{option} applies only to {' and '.join(each.upper() for each in formats)}",
                got=kind,
                do=f"remove {option}",
            )
    if names and header is None:
        raise SourceError(
            "names= requires header=, because a first line that is mistaken for a header would be lost",
            do="pass header=False if the first line is a row, header=True if the names replace it",
        )
    for option, texts in (("null_values=", null_values), ("names=", names)):
        if isinstance(texts, str):
            raise SourceError(f"{option} must be a list of texts", got=repr(texts), do=f"write {option}[{texts!r}]")
    if not null_values or any(chosen in text or '"' in text for text in null_values):
        raise SourceError(
            "null_values= must be one or more texts without delimiters and quotes",
            got=repr(list(null_values)),
            do="use [''] if only empty fields are null",
        )
    naming = ColumnNames.of(names, tuple((rename or {}).items()))
    dialect = Dialect(chosen, tuple(null_values), header is not False, naming, encoding_of(encoding))
    return Files(name, kind, dialect)


def _short_message(error: duckdb.Error) -> str:
    """Return the first line of DuckDB's message without error class and file names."""
    text = str(error).strip().partition("\n")[0]
    if "state machine" in text or "sniffing" in text or "CSV Error" in text:
        return "unbalanced quotes, a carriage return inside a line, or a very long line"
    kind, _, rest = text.partition(" Error: ")
    return (rest if rest and len(kind.split()) <= 2 else text).partition(" '/")[0].partition(' "/')[0]  # noqa: PLR2004 - two words
