"""The limit of what a compressed file may expand to, so that a small file cannot fill a disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, BinaryIO

from pipeline.core.errors import Place, SourceError

_PIECE_BYTES = 1 << 20
_UNCHECKED_BYTES = 256 << 20
"""Content of up to this size is not checked, because small files of equal rows compress very well."""


@dataclass(frozen=True)
class Expansion:
    """How many times its compressed size a file may have."""

    most: int = 200
    archive_bytes: int | None = None
    """The size of the archive that a file was taken from, which counts instead of the file's: limits must not multiply."""

    def check(self, size_bytes: int, compressed_bytes: int, place: Place) -> None:
        """Raise `SourceError` if a file of a compressed size expands to too many bytes."""
        compressed_bytes = compressed_bytes if self.archive_bytes is None else self.archive_bytes
        limit = max(_UNCHECKED_BYTES, self.most * compressed_bytes)
        if size_bytes > limit:
            raise SourceError(
                f"a compressed file expands to more than {self.most} times its size",
                got=f"more than {limit:,} bytes from {compressed_bytes:,}",
                do=f"if the file is to be trusted, pass most_expansion={2 * self.most} or more",
                place=place,
            )

    def copy(self, stream: IO[bytes], target: BinaryIO, compressed_bytes: int, place: Place) -> None:
        """Copy a decompressed stream; raise `SourceError` as soon as it is too long."""
        self.write(iter(lambda: stream.read(_PIECE_BYTES), b""), target, compressed_bytes, place)

    def write(self, pieces: Iterable[bytes], target: BinaryIO, compressed_bytes: int, place: Place) -> None:
        """Write the pieces of a decompressed file; raise `SourceError` as soon as there are too many."""
        written = 0
        for piece in pieces:
            written += len(piece)
            self.check(written, compressed_bytes, place)
            target.write(piece)


DEFAULT_EXPANSION = Expansion()
