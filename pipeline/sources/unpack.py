"""A file as DuckDB can read it: unpacked, and under a name that no reader takes for a pattern."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import pyarrow as pa

from pipeline.core.errors import Place, SourceError

_NAME = "piece"
PACKED = (".gz", ".zst", ".zip")
_BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError, pa.ArrowException)


@contextmanager
def unpacked(uri: str) -> Iterator[str]:
    """Yield a path with the file's plain content, in a temporary folder: a link, or what was packed in it.

    Raises `SourceError` for a file that is not there, cannot be unpacked whole, or is a zip of more than one file.
    """
    suffix = Path(uri).suffix.lower()
    with tempfile.TemporaryDirectory(prefix="headwater-piece-") as folder:
        plain = Path(folder) / _NAME
        if suffix in PACKED:
            _unpack(uri, suffix, plain)
        else:
            plain.symlink_to(Path(uri).absolute())
        yield str(plain)


def _unpack(uri: str, suffix: str, plain: Path) -> None:
    try:
        with _opened(uri, suffix) as packed, plain.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except _BROKEN as error:
        raise SourceError(
            "the file cannot be unpacked",
            got=str(error),
            do="is it whole, and packed as its name says?",
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
                raise SourceError("a zip must hold one file", got=f"{len(names)}", place=Place(uri))
            with archive.open(names[0]) as stream:
                yield stream
