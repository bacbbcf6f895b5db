"""Provides a file, or a range of it, in a form that DuckDB can read: decompressed, under a name without wildcards."""

from __future__ import annotations

import gzip
import io
import itertools
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from pipeline.connectors.files.byte_ranges import head_bytes, mapped_bytes, read_range
from pipeline.connectors.files.encoding import recoded
from pipeline.core import scratch
from pipeline.core.errors import Place, SourceError
from pipeline.core.splits import SourceSplit

_NAME = "source"
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


@contextmanager
def decompressed(uri: str, encoding: str | None = None) -> Iterator[str]:
    """Yield a path with the file's plain content in a temporary folder: a link, or decompressed and decoded.

    Raises `SourceError` for a file that is empty, cannot be decompressed completely, or is a zip with several files.
    """
    suffix = Path(uri).suffix.lower()
    with scratch.folder("source") as folder:
        plain = Path(folder) / _NAME
        if suffix in COMPRESSED_SUFFIXES:
            _decompress(uri, suffix, plain, encoding)
        elif encoding is not None:
            with Path(uri).open("rb") as stream:
                _copy(stream, plain, encoding)
        else:
            plain.symlink_to(Path(uri).absolute())
        if not plain.stat().st_size:
            raise SourceError(
                "the file is empty", got="0 bytes", do="remove the file, or wait until it is written", place=Place(uri)
            )
        yield str(plain)


@contextmanager
def split_as_file(split: SourceSplit, delimiter: str | None = None, encoding: str | None = None) -> Iterator[str]:
    """Yield a path with the text of a split, preceded by the header if a delimited file has one.

    A split that is not the entire file is copied to a file in a temporary folder.
    """
    if split.is_whole:
        with decompressed(split.source_object.uri, encoding) as path:
            yield path
        return
    uri = split.source_object.uri
    head = head_bytes(mapped_bytes(uri), delimiter) if delimiter and split.begin else 0
    with scratch.folder("source") as folder:
        plain = Path(folder) / _NAME
        with plain.open("wb", buffering=0) as file:
            for chunk in itertools.chain(read_range(uri, 0, head), read_range(uri, split.begin, split.end)):
                _write(file, chunk)
        yield str(plain)


def _write(file: io.FileIO, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[file.write(chunk) :]


def _copy(stream: IO[bytes], plain: Path, encoding: str | None) -> None:
    with plain.open("wb") as file:
        if encoding is None:
            shutil.copyfileobj(stream, file, 1 << 20)
        else:
            file.writelines(recoded(stream, encoding))


def _decompress(uri: str, suffix: str, plain: Path, encoding: str | None) -> None:
    with Path(uri).open("rb"):
        pass  # a file that cannot be opened is not a damaged file
    try:
        with _opened(uri, suffix) as packed:
            _copy(packed, plain, encoding)
    except _DECOMPRESSION_ERRORS as error:
        raise SourceError(
            "the file cannot be decompressed",
            got=str(error),
            do="check that it is complete, and compressed as its name says",
            place=Place(uri),
        ) from error


@contextmanager
def _opened(uri: str, suffix: str) -> Iterator[IO[bytes]]:
    if suffix == ".gz":
        with gzip.open(uri, "rb") as stream:
            yield cast("IO[bytes]", stream)
    elif suffix == ".zst":
        with pa.input_stream(uri, compression="zstd") as stream:
            yield stream
    else:
        with zipfile.ZipFile(uri) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if len(names) != 1:
                raise SourceError("a zip archive must contain exactly one file", got=f"{len(names)}", place=Place(uri))
            with archive.open(names[0]) as stream:
                yield stream
