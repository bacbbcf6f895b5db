"""Files as a source: CSV, JSON, Parquet, Avro and ORC; plain, gzip or zstd, alone or in zip and tar archives.

Delivery: each file is read completely and once. Changes are detected by size and timestamp, and by content if only the
timestamp changed. Remote files are copied to temporary files, completely or by the ranges of a split. As a log, each file is a partition with one record: it must be complete when it appears under a
matching name (write it elsewhere and move it), and a later change ends the stream with an error.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO

import duckdb

from pipeline.connectors.column_names import ColumnNames
from pipeline.connectors.contract import shift_positions, undeclared_names
from pipeline.connectors.direct_tail import DirectTail
from pipeline.connectors.files import arrow_rows, small_files, text_scan, typed
from pipeline.connectors.files.archives import archive_of
from pipeline.connectors.files.byte_ranges import (
    mapped_bytes,
    parts_of,
    quoted_splits_of,
    splits_of,
)
from pipeline.connectors.files.content import FileContent
from pipeline.connectors.files.csv import reader as csv_reader
from pipeline.connectors.files.csv.reader import CsvReader, Dialect
from pipeline.connectors.files.discovery import DEFAULT_RULES, DiscoveryRules, plan_files
from pipeline.connectors.files.expansion import DEFAULT_EXPANSION, Expansion
from pipeline.connectors.files.formats import TYPED, FileConversion, Format
from pipeline.connectors.files.json import layout as json_layout
from pipeline.connectors.files.json import reader as json_reader
from pipeline.connectors.files.manifest import listed_files
from pipeline.connectors.files.rejected_rows import RejectedTexts
from pipeline.connectors.files.remote import RemoteFiles
from pipeline.connectors.files.selected_lines import SelectedLines
from pipeline.connectors.files.small_files import SmallFile
from pipeline.connectors.files.stores import FileStore, LocalFiles, Wanted, is_remote
from pipeline.core import scratch
from pipeline.core.clock import Clock, now
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, SourceUnavailableError, SplitError, few, quantity
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.sources import MISFIT, Extent, LogTraits, NewColumns, ReadResult, ScanQuery, Tail
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.engine import connect, expect_columns

_SHOWN = 3
"""Maximum number of files listed in a finding."""
_REMOTE_POLL_S = 2.0
_SCANNED_TOGETHER = ("csv", "json", "parquet")


@dataclass(frozen=True)
class Files:
    """All files that match paths, URIs or glob patterns. Create it with `files`."""

    patterns: tuple[str, ...]
    format: Format
    dialect: Dialect
    folder: str = field(default=".", compare=False)
    """The folder for relative patterns: the project's folder, once the project is loaded."""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """The options of a remote store."""
    members: str = ""
    """The pattern of the names of the files that are read from archives; empty for all."""
    expansion: Expansion = DEFAULT_EXPANSION
    rules: DiscoveryRules = DEFAULT_RULES
    manifest: str = ""
    """The path or pattern of the manifests that list the files that are complete; empty if all are."""
    conversion: FileConversion | None = None
    """For a format whose files are converted to JSON lines."""
    clock: Clock = field(default=now, compare=False, repr=False)

    def within(self, folder: Path) -> Files:
        """Return the reader with relative patterns resolved against a folder."""
        return replace(self, folder=str(folder))

    @property
    def store(self) -> FileStore:
        """The place of the files."""
        return self._store_of(self.patterns)

    def _store_of(self, patterns: tuple[str, ...]) -> FileStore:
        return RemoteFiles(patterns, self.options) if is_remote(patterns[0]) else LocalFiles(patterns, self.folder)

    def _listed(self) -> frozenset[str] | None:
        """Return the locations of the files that manifests list; `None` without manifests."""
        if not self.manifest:
            return None
        return listed_files(self._store_of((self.manifest,)), self.store, is_required=self.rules.required)

    @property
    def _content(self) -> FileContent:
        return FileContent(self.store, self.format, self.dialect, self.conversion, self.members, self.expansion)

    @property
    def name(self) -> str:
        """The patterns, for messages."""
        return few(self.patterns, _SHOWN)

    @property
    def traits(self) -> LogTraits:
        """A file is consumed as a whole, can be archived once it was read, and is read in order of arrival."""
        return LogTraits(has_whole_partitions=True, may_vanish=self.rules.vanished == "keep", is_in_sequence=True)

    @property
    def fingerprint(self) -> str:
        """A hash of the format's options; the location of the files is not part of it."""
        dialect, naming = self.dialect, self.dialect.naming
        options = (dialect.encoding, dialect.has_header, naming.names, naming.rename)
        more = () if options == (None, True, (), ()) else options
        more = (*more, "members", self.members) if self.members else more
        more = (*more, repr(self.conversion)) if self.conversion else more
        more = more if self.rules.order == "location" else (*more, "order", self.rules.order)
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
        place = Place(source_object.uri)
        with self._translated_errors(place), contextlib.ExitStack() as stack:
            path = stack.enter_context(self._content.path(SourceSplit(source_object), only_head=self.format == "csv"))
            if self.format == "csv":
                return csv_reader.column_names(CsvReader(path, self.dialect, place))
            if self._content.is_json:
                return json_reader.names(stack.enter_context(connect()), path, place, self.dialect)
            return TYPED[self.format].open(path, self.dialect.naming, place).names

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the new files, ordered by location; raise `SourceError` if there are no files.

        The files in a new archive are splits of their own.
        """
        plan = plan_files(self.store, cursor, bound, self.rules, self.clock(), self._listed())
        return replace(
            plan,
            splits=tuple(
                SourceSplit(each) for each in self._content.contained([split.source_object for split in plan.splits])
            ),
        )

    def check(self) -> Iterator[Finding]:
        """Yield the number and size of the matching files, and those that are unreadable or empty."""
        source_objects = self.source_objects()
        size = sum(source_object.size_bytes for source_object in source_objects)
        detail = f"{quantity(len(source_objects), 'file')}, {size / 1e6:,.1f} MB"
        yield Finding(self.name, FindingState.OK, detail)
        tried = source_objects[:1] if is_remote(self.patterns[0]) else source_objects
        unreadable = [source_object.uri for source_object in tried if not self._is_readable(source_object)]
        if unreadable:
            do = "give the user who runs this the right to read them"
            yield Finding(self.name, FindingState.BAD, f"cannot be read: {few(unreadable, _SHOWN)}; {do}")
        empty = [source_object.uri for source_object in source_objects if not source_object.size_bytes]
        if empty:
            yield Finding(self.name, FindingState.NOTE, f"empty: {few(empty, _SHOWN)}")

    def _is_readable(self, source_object: SourceObject) -> bool:
        try:
            with self.store.open(source_object):
                return True
        except (OSError, SourceError):
            return False

    def source_objects(self) -> Sequence[SourceObject]:
        """Return all files, ordered by location; raise `SourceError` if there are none."""
        return self.store.source_objects("raise" if self.rules.required else "accept")

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the file's columns, with types inferred from all rows; raise `SourceError` if it has none."""
        place = Place(source_object.uri)
        with self._translated_errors(place), self._content.path(SourceSplit(source_object)) as path, connect() as con:
            if self.format == "csv":
                return csv_reader.infer(con, CsvReader(path, self.dialect, place))
            if self._content.is_json:
                return json_reader.infer(con, path, place, self.dialect)
            return TYPED[self.format].open(path, self.dialect.naming, place).schema(con)

    def splits(self, source_object: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        """Return splits of a file of about `target_bytes`; one split for a compressed or small file.

        An unreadable file is one split; reading it reports the error.
        """
        whole_file = (SourceSplit(source_object),)
        if target_bytes >= source_object.size_bytes or not self._content.is_plain(source_object.uri):
            return whole_file
        with contextlib.suppress(SourceError), self._translated_errors(Place(source_object.uri)):
            return self._typed_splits(source_object, target_bytes) or self._text_splits(source_object, target_bytes)
        return whole_file

    def parts(self, split: SourceSplit, target_bytes: int) -> Sequence[SourceSplit]:
        """Return parts of a split of about `target_bytes`: text between any two lines, other files between their groups."""
        if split.is_whole:
            return self.splits(split.source_object, target_bytes)
        if self.format in TYPED:
            return typed.parts(split, self.splits(split.source_object, target_bytes))
        is_csv = self.format == "csv"
        with self.store.copies([Wanted(split.source_object, self._content.ranges(split))]) as (path,):
            data = mapped_bytes(path)
            head = self.dialect.head_bytes(data) if is_csv and split.begin == 0 else 0
            return (split,) if head is None else parts_of(split, data, target_bytes, head=head, quotes=is_csv)

    def _typed_splits(self, source_object: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        """Return the splits of a file of a format with types; none for another format."""
        if self.format not in TYPED:
            return ()
        with self._index(source_object) as file:
            return typed.splits(TYPED[self.format].groups(file), source_object, target_bytes)

    def _text_splits(self, source_object: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        whole_file = (SourceSplit(source_object),)
        with self.store.copies([Wanted(source_object)]) as (path,):
            if self.format == "json":
                is_cut = json_layout.layout(path) == "newline_delimited"
                return splits_of(source_object, mapped_bytes(path), target_bytes) if is_cut else whole_file
            if csv_reader.read_header(CsvReader(path, self.dialect, Place(source_object.uri))).is_short:
                return whole_file  # only the beginning of the file shows this
            data = mapped_bytes(path)
            return quoted_splits_of(source_object, data, target_bytes, self.dialect.head_bytes(data))

    @contextmanager
    def _index(self, source_object: SourceObject) -> Iterator[BinaryIO]:
        """Open a file to find its groups of rows, from a part of it if the format has an index."""
        if TYPED[self.format].has_index:
            with self.store.open(source_object) as file:
                yield file
            return
        with self.store.copies([Wanted(source_object)]) as (path,), Path(path).open("rb") as file:
            yield file

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the accepted and the rejected rows, in the order of the file.

        The position is the line on which the record begins (CSV, JSON) or the row number (Parquet), from 1. Raises
        `SchemaError` for other columns, `SourceError` for a file that cannot be read, and its subclass `SplitError` for
        a split that does not end at the end of a record.
        """
        place, schema = Place(split.source_object.uri), self.dialect.naming.keyed(schema)
        split = self._require_unchanged(split)
        try:
            with self._translated_errors(place), self._content.path(split) as path, connect() as con:
                expect_columns(con, len(schema.columns))
                if self.format in TYPED:
                    file = TYPED[self.format].open(path, self.dialect.naming, place)
                    return typed.read(con, file, split, schema, self.dialect.new_columns)
                if self._content.is_json:
                    self._content.require_columns(path, schema, place)
                    return shift_positions(
                        json_reader.read(con, path, schema, place, self.dialect), self._content.position_offset(split)
                    )
                delimited = CsvReader(path, self.dialect, place, continues=split.end is not None)
                return shift_positions(csv_reader.read(con, delimited, schema), self._content.position_offset(split))
        except SourceUnavailableError:
            raise
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
        split, schema = self._require_unchanged(split), self.dialect.naming.keyed(schema)
        with contextlib.ExitStack() as until:
            with self._translated_errors(Place(split.source_object.uri)):
                path = until.enter_context(self._content.path(split))
                self._content.require_columns(path, schema, Place(split.source_object.uri))
                query = None if MISFIT in schema.names else self._scan_query(con, path, split, schema)
            if query is not None and self.format not in TYPED:
                query = replace(
                    query, read_rows=partial(self._read_rows, path, self._content.position_offset(split), schema)
                )
            try:
                yield query
            finally:
                with contextlib.suppress(duckdb.Error):  # the connection may be closed or broken
                    text_scan.release(con, path)
                    arrow_rows.release(con, path)

    def is_small(self, split: SourceSplit) -> bool:
        """Return whether a split is an entire small uncompressed file whose name has no wildcards."""
        location = split.source_object.uri
        can_be_listed = is_remote(location) or small_files.can_be_listed(str(Path(self.folder) / location))
        is_plain = self._content.is_plain(location) and can_be_listed
        is_whole = split.begin == 0 and split.end in {None, split.source_object.size_bytes}
        return (
            is_whole and is_plain and self.format in _SCANNED_TOGETHER and split.size_bytes <= small_files.SMALL_BYTES
        )

    @contextmanager
    def scan_together(
        self, con: duckdb.DuckDBPyConnection, splits: Sequence[SourceSplit], schema: Schema
    ) -> Iterator[ScanQuery | None]:
        """Yield small files as one query; None if one of them has an unusual header, or a Parquet column to cast.

        Raises `SchemaError` for other columns, `SourceError` for a file that cannot be read.
        """
        schema = self.dialect.naming.keyed(schema)
        source_objects = [self._require_unchanged(split).source_object for split in splits]
        rejects = f"rejects_{secrets.token_hex(8)}"
        with contextlib.ExitStack() as until:
            with self._translated_errors(Place(f"{source_objects[0].uri} and {len(splits) - 1} more")):
                paths = until.enter_context(self.store.copies([Wanted(each) for each in source_objects]))
                files = [
                    small_files.SmallFile(path, each.uri) for path, each in zip(paths, source_objects, strict=True)
                ]
                query = self._scan_small_files(con, files, schema, rejects)
            try:
                yield query
            finally:
                with contextlib.suppress(duckdb.Error):  # the connection may be closed or broken
                    small_files.drop_rejects(con, rejects)

    def _scan_small_files(
        self, con: duckdb.DuckDBPyConnection, files: Sequence[SmallFile], schema: Schema, rejects: str
    ) -> ScanQuery | None:
        if self.format == "parquet":
            return small_files.scan_parquet(con, files, self.dialect, schema)
        if self.format == "json":
            query = small_files.scan_json(files, self.dialect, schema, rejects)
        else:
            query = small_files.scan_delimited(files, self.dialect, schema, rejects)
        paths = {file.source: file.path for file in files}
        return query and replace(query, read_rows=lambda uri, at: self._read_rows(paths[uri], 0, schema, uri, at))

    def _scan_query(
        self, con: duckdb.DuckDBPyConnection, path: str, split: SourceSplit, schema: Schema
    ) -> ScanQuery | None:
        place = Place(split.source_object.uri)
        if self.format in TYPED:
            file = TYPED[self.format].open(path, self.dialect.naming, place)
            return typed.scan(con, file, split, schema, self.dialect.new_columns)
        lines, before = self._content.lines(split, path), self._content.position_offset(split)
        if self._content.is_json:
            return text_scan.scan_json(path, self.dialect, schema, lines, before)
        return text_scan.scan_delimited(con, CsvReader(path, self.dialect, place), schema, lines, before)

    def _read_rows(self, path: str, offset: int, schema: Schema, uri: str, positions: Sequence[int]) -> ReadResult:
        """Return the rows at some positions of a split whose rows are lines; see `RowReader`."""
        place = Place(uri)
        lines = SelectedLines.of(path, [position - offset for position in positions], csv_reader.HEAD_LINES)
        with self._translated_errors(place), scratch.folder("rows") as folder, connect() as con:
            expect_columns(con, len(schema.columns))
            selected = str(Path(folder) / "rows")
            lines.write(selected)
            if self._content.is_json:
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
        # rejected rows are stored as UTF-8: lines of JSON as they are, others with the names and order of the table's columns
        naming = self.dialect.naming if self._content.is_json else ColumnNames(schema.names)
        dialect, schema = replace(self.dialect, has_header=True, naming=naming, encoding=None), naming.keyed(schema)
        head = csv_reader.header_line(schema, dialect) if is_csv else ""
        texts = RejectedTexts.of(rows, quotes=is_csv)
        with scratch.folder("rows") as folder, connect() as con:
            path, place = str(Path(folder) / "rows"), Place(self.name)
            texts.write(path, head)
            if is_csv:
                reading = csv_reader.read(con, CsvReader(path, dialect, place), schema)
            else:
                reading = json_reader.read(con, path, schema, place, dialect)
        return texts.renumbered(reading, head)

    def extents(self) -> Mapping[str, Extent]:
        """Return the files with their sizes; an empty file has no record yet."""
        try:
            source_objects, listed = self.source_objects(), self._listed()
        except SourceUnavailableError:
            raise
        except SourceError:
            return {}
        known = [each for each in source_objects if listed is None or each.uri in listed]
        complete = [each for each in known if not self.rules.waits(each, self.clock())]
        return {each.uri: Extent(0, each.size_bytes, each.stamp) for each in self._content.contained(complete)}

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
        reuse_s = _REMOTE_POLL_S if is_remote(self.patterns[0]) else 0.0
        yield DirectTail(self, dict(offsets), max_rows=1 << 62, reuse_s=reuse_s)

    def _require_unchanged(self, split: SourceSplit) -> SourceSplit:
        """Return the split; a split that covers an entire file is returned without an end.

        Raises `SourceError` if the size of that file has changed since it was listed.
        """
        if split.begin != 0 or split.end is None or split.end != split.source_object.size_bytes:
            return split
        place = Place(split.source_object.uri)
        archive, member = archive_of(split.source_object)
        listed = archive.size_bytes if member else split.end
        with self._translated_errors(place):
            size = self.store.size_bytes(archive.uri)
        is_known = bool(split.source_object.stamp) or not member
        if size != listed and is_known:
            raise SourceError(
                "the file changed after it was listed",
                got="no file any more" if size is None else f"{size} bytes, previously {listed}",
                do="move files into the folder when they are complete, and do not change them afterwards",
                place=place,
            )
        return replace(split, end=None, first=1)

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


def _short_message(error: duckdb.Error) -> str:
    """Return the first line of DuckDB's message without error class and file names."""
    text = str(error).strip().partition("\n")[0]
    if "state machine" in text or "sniffing" in text or "CSV Error" in text:
        return "unbalanced quotes, a carriage return inside a line, or a very long line"
    kind, _, rest = text.partition(" Error: ")
    return (rest if rest and len(kind.split()) <= 2 else text).partition(" '/")[0].partition(' "/')[0]  # noqa: PLR2004 - two words
