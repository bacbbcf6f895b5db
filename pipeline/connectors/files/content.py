"""Provides the content of files as local files that DuckDB and the other readers can read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.connectors.contract import check_columns
from pipeline.connectors.files.archives import archive_of, is_archive, member_as_file, require_file
from pipeline.connectors.files.archives import contained as files_in
from pipeline.connectors.files.byte_ranges import HEAD_BYTES, lines_in
from pipeline.connectors.files.compression import COMPRESSED_SUFFIXES, decompressed, split_as_file, suffix_of
from pipeline.connectors.files.conversion import columns_of, converted
from pipeline.connectors.files.csv.reader import Dialect
from pipeline.connectors.files.expansion import DEFAULT_EXPANSION, Expansion
from pipeline.connectors.files.formats import TYPED, FileConversion, Format
from pipeline.connectors.files.json import layout as json_layout
from pipeline.connectors.files.stores import FileStore, Ranges, Wanted, is_remote
from pipeline.core.errors import Place
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit


@dataclass(frozen=True)
class FileContent:
    """The content of the files of a store: copied, taken from archives, decompressed, decoded and converted."""

    store: FileStore
    format: Format
    dialect: Dialect
    conversion: FileConversion | None = None
    members: str = ""
    expansion: Expansion = DEFAULT_EXPANSION

    @property
    def is_json(self) -> bool:
        """Whether what is read is JSON lines, also if they were converted from another format."""
        return self.format == "json" or self.conversion is not None

    def contained(self, source_objects: Sequence[SourceObject]) -> Iterator[SourceObject]:
        """Yield files, and instead of an archive the files in it."""
        for source_object in source_objects:
            if is_archive(source_object.uri):
                yield from files_in(self.store, source_object, self.members, self.expansion)  # type: ignore[arg-type]
            else:
                yield source_object

    @contextmanager
    def path(self, split: SourceSplit, *, only_head: bool = False) -> Iterator[str]:
        """Yield a path with the plain content of a split; with `only_head`, at least the first line of a plain file."""
        location, encoding = split.source_object.uri, self.dialect.encoding
        ranges = self._head_range(split) if only_head and self.is_plain(location) else self.ranges(split)
        archive, member = archive_of(split.source_object)
        with contextlib.ExitStack() as until:
            (path,) = until.enter_context(self.store.copies([Wanted(archive, ranges)]))
            expansion = self.expansion
            if member:
                expansion = replace(expansion, archive_bytes=Path(path).stat().st_size)
                path = until.enter_context(member_as_file(path, split.source_object, expansion))
            elif is_archive(location):
                require_file(path, archive, self.members, self.expansion)
            if self.format in TYPED:
                yield until.enter_context(decompressed(path, location, None, expansion))
                return
            if self.conversion is not None:
                decoded = None if self.conversion.decodes else encoding
                path = until.enter_context(decompressed(path, location, decoded, expansion))
                yield until.enter_context(converted(self.conversion, path, self.dialect, Place(location)))
                return
            has_header = self.format == "csv" and self.dialect.has_header
            delimiter = self.dialect.delimiter if has_header else None
            path = until.enter_context(split_as_file(path, split, delimiter, encoding, expansion))
            if self.format == "json" and split.is_whole:
                path = until.enter_context(json_layout.in_lines(path, Place(location)))
            yield path

    def ranges(self, split: SourceSplit) -> Ranges | None:
        """Return the bytes of a file that a split needs; `None` for the entire file."""
        if split.is_whole or not is_remote(split.source_object.uri):
            return None
        if self.format in TYPED:
            with self.store.open(split.source_object) as file:
                return TYPED[self.format].ranges(file, split)
        size = split.source_object.size_bytes
        return (*(self._head_range(split) if split.begin else ()), (split.begin, split.end or size))

    def _head_range(self, split: SourceSplit) -> Ranges:
        return ((0, min(HEAD_BYTES, split.begin or split.source_object.size_bytes)),)

    def position_offset(self, split: SourceSplit) -> int:
        """Return the number of lines of the file before the split that the file of `_path` does not contain."""
        before = self.conversion.rows_before(self.dialect) if self.conversion is not None else 0
        return before + split.first - 1 - self._has_copied_header(split)

    def lines(self, split: SourceSplit, path: str) -> int:
        """Return the number of lines of the file of `path`."""
        return lines_in(path) if split.lines is None else split.lines + self._has_copied_header(split)

    def _has_copied_header(self, split: SourceSplit) -> bool:
        return self.format == "csv" and self.dialect.has_header and split.begin > 0

    def is_plain(self, uri: str) -> bool:
        """Return whether a file is read directly: neither compressed, nor in another encoding."""
        is_compressed = (
            suffix_of(uri) in COMPRESSED_SUFFIXES or is_archive(uri) or archive_of(SourceObject(uri, 0, ""))[1]
        )
        return not is_compressed and self.dialect.encoding is None and self.conversion is None

    def require_columns(self, path: str, schema: Schema, place: Place) -> None:
        """Raise `SchemaError` if a column is missing in a converted file, whose reader would return null for it."""
        if self.conversion is not None and self.conversion.has_columns:
            names = columns_of(path)
            if names is not None:
                check_columns(schema, self.dialect.naming.named(names, place), place, self.dialect.new_columns)
