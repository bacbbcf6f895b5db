"""Provides a file, or a range of it, in a form that DuckDB can read: decompressed, under a name without wildcards."""

from __future__ import annotations

import gzip
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, cast

import pyarrow as pa

from pipeline.connectors.files.byte_ranges import head_bytes, mapped_bytes, read_range
from pipeline.connectors.files.encoding import recoded
from pipeline.connectors.files.expansion import DEFAULT_EXPANSION, Expansion
from pipeline.connectors.files.stores import empty_file
from pipeline.core import scratch
from pipeline.core.errors import Place, SourceError
from pipeline.core.splits import SourceSplit

_NAME = "source"
_PIECE_BYTES = 1 << 20
COMPRESSED_SUFFIXES = (".gz", ".zst", ".zip")
_DECOMPRESSION_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    pa.ArrowException,
)


def is_hidden(name: str) -> bool:
    """Return whether a file in an archive is not data: its name or a folder's begins with a dot, or macOS added it."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return any(part.startswith(".") and part != ".." for part in parts) or "__MACOSX" in parts


def suffix_of(location: str) -> str:
    """Return the suffix of a location's name in lower case, for example `.gz`; a URL may have parameters after the name."""
    return Path(location.partition("?")[0] if "://" in location else location).suffix.lower()


@contextmanager
def decompressed(
    path: str,
    location: str,
    encoding: str | None = None,
    expansion: Expansion = DEFAULT_EXPANSION,
) -> Iterator[str]:
    """Yield a path with the plain content of the file of a location, at `path`: a link, or decompressed and decoded.

    Raises `SourceError` for a file that is empty, cannot be decompressed completely, or is a zip with several files.
    """
    suffix = suffix_of(location)
    with scratch.folder("source") as folder:
        plain = Path(folder) / _NAME
        if suffix in COMPRESSED_SUFFIXES:
            with _opened_or_damaged(path, location) as packed, plain.open("wb") as file:
                pieces = _pieces(packed) if encoding is None else recoded(packed, encoding)
                expansion.write(pieces, file, Path(path).stat().st_size, Place(location))
        elif encoding is not None:
            with Path(path).open("rb") as stream, plain.open("wb") as file:
                file.writelines(recoded(stream, encoding))
        else:
            plain.symlink_to(Path(path).absolute())
        if not plain.stat().st_size:
            raise empty_file(location)
        yield str(plain)


@contextmanager
def split_as_file(
    path: str,
    split: SourceSplit,
    delimiter: str | None = None,
    encoding: str | None = None,
    expansion: Expansion = DEFAULT_EXPANSION,
) -> Iterator[str]:
    """Yield a path with the text of a split of the file at `path`, preceded by the header if a delimited file has one.

    A split that is not the entire file is copied to a file in a temporary folder.
    """
    if split.is_whole:
        with decompressed(path, split.source_object.uri, encoding, expansion) as plain:
            yield plain
        return
    head = head_bytes(mapped_bytes(path), delimiter) if delimiter and split.begin else 0
    with scratch.folder("source") as folder:
        part = Path(folder) / _NAME
        with part.open("wb", buffering=0) as file:
            for chunk in itertools.chain(read_range(path, 0, head), read_range(path, split.begin, split.end)):
                _write(file, chunk)
        yield str(part)


def _write(file: io.FileIO, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[file.write(chunk) :]


@contextmanager
def _opened_or_damaged(path: str, location: str) -> Iterator[IO[bytes]]:
    """Open a compressed file; raise `SourceError` if it is damaged."""
    place = Place(location)
    with Path(path).open("rb"):
        pass  # a file that cannot be opened is not a damaged file
    try:
        with _opened(path, suffix_of(location), place) as packed:
            yield packed
    except _DECOMPRESSION_ERRORS as error:
        raise SourceError(
            "the file cannot be decompressed",
            got=str(error),
            do="check that it is complete, and compressed as its name says",
            place=place,
        ) from error


def _pieces(stream: IO[bytes]) -> Iterator[bytes]:
    while piece := stream.read(_PIECE_BYTES):
        yield piece


@contextmanager
def _opened(path: str, suffix: str, place: Place) -> Iterator[IO[bytes]]:
    if suffix == ".gz":
        with gzip.open(path, "rb") as stream:
            yield cast("IO[bytes]", stream)
    elif suffix == ".zst":
        with pa.input_stream(path, compression="zstd") as stream:
            yield stream
    else:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir() and not is_hidden(info.filename)]
            if len(names) != 1:
                raise SourceError("a zip archive must contain exactly one file", got=f"{len(names)}", place=place)
            with archive.open(names[0]) as stream:
                yield stream
