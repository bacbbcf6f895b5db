"""A folder of files as a log: each file is a partition of one record, which is consumed whole once it is there.

A file must be complete when it appears under a name that matches: write it elsewhere and move it. One that changes later
ends the stream with an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import duckdb

from pipeline.core.errors import SourceError
from pipeline.core.reading import Extent, Flowing, Part, Piece, Reading, Tail
from pipeline.core.schema import Schema
from pipeline.sources.files import Files
from pipeline.sources.tailing import DirectTail


@dataclass(frozen=True)
class Folder:
    """The files that a pattern matches, as they come. Offsets are bytes: 0, or the size of a file that was read."""

    files: Files

    @property
    def fingerprint(self) -> str:
        """That of the files' format."""
        return self.files.fingerprint

    def pieces(self) -> Sequence[Piece]:
        """Return the files, in the order of their names; none is no error here."""
        try:
            return self.files.pieces()
        except SourceError:
            return ()

    def schema(self, piece: Piece) -> Schema:
        """Return the file's columns."""
        return self.files.schema(piece)

    def parts(self, piece: Piece, target_bytes: int) -> Sequence[Part]:
        """Return stretches of a file."""
        return self.files.parts(piece, target_bytes)

    def read(self, part: Part, schema: Schema) -> Reading:
        """Return the rows of a file; raise `SourceError` when it is not the one that was seen."""
        return self.files.read(_whole(part), schema)

    def flow(
        self, con: duckdb.DuckDBPyConnection, part: Part, schema: Schema
    ) -> AbstractContextManager[Flowing | None]:
        """Give the rows of a file as a query."""
        return self.files.flow(con, _whole(part), schema)

    def parse(self, rows: Sequence[str], schema: Schema) -> Reading:
        """Read rejected rows again."""
        return self.files.parse(rows, schema)

    def extents(self) -> Mapping[str, Extent]:
        """Return the files with their sizes; an empty file holds nothing yet."""
        return {piece.uri: Extent(0, piece.size_bytes, piece.stamp) for piece in self.pieces()}

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each file its size if it was written before that time, else 0."""
        before = {uri: Path(uri).stat().st_mtime < time.timestamp() for uri in self.extents()}
        return {uri: extent.end if before[uri] else 0 for uri, extent in self.extents().items()}

    @contextmanager
    def tail(self, offsets: Mapping[str, int]) -> Iterator[Tail]:
        """Read files as they come."""
        yield DirectTail(self, dict(offsets), most=1 << 62)


def _whole(part: Part) -> Part:
    size = os.stat(part.piece.uri).st_size if Path(part.piece.uri).is_file() else -1  # noqa: PTH116 - as Path.stat, which raises
    if part.end is not None and (part.begin, part.end) != (0, size):
        raise SourceError(
            f"the file {part.piece.uri} is not as it was when it was seen",
            got="it is gone" if size < 0 else f"{size} bytes, {part.end} then",
            do="move files into the folder when they are complete, and do not change them",
        )
    return replace(part, end=None, first=1)
