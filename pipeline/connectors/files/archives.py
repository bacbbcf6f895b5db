"""Archives with several files: zip and tar. Each file in one is a source object, `archive.zip!/folder/name.csv`.

A file is copied to a temporary file of a fixed name, so an archive cannot write elsewhere. Names that lead out of the
archive, links, encrypted files, and archives that expand to far more than their size are errors.
"""

from __future__ import annotations

import functools
import gzip
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

import pyarrow as pa

from pipeline.connectors.files.compression import is_hidden
from pipeline.connectors.files.downloads import DOWNLOADS
from pipeline.connectors.files.expansion import Expansion
from pipeline.connectors.files.stores import FileStore, Wanted
from pipeline.core import scratch
from pipeline.core.errors import HeadwaterError, Place, SourceError, SourceUnavailableError
from pipeline.core.splits import SourceObject

_MARK = "!/"
_LOCATION = re.compile(r"(?P<archive>.*?\.(?:zip|tar|tgz|tar\.gz|tar\.zst))!/(?P<member>.*)", re.IGNORECASE | re.DOTALL)
TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.zst")
_MOST_MEMBERS = 100_000
_ENCRYPTED = 1
_DAMAGED = (
    OSError,
    EOFError,
    zlib.error,
    zipfile.BadZipFile,
    tarfile.TarError,
    NotImplementedError,
    RuntimeError,
    pa.ArrowException,
)


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size_bytes: int


def is_tar(location: str) -> bool:
    """Return whether a location has a suffix of tar archives."""
    return location.lower().endswith(TAR_SUFFIXES)


def is_archive(location: str) -> bool:
    """Return whether a location has a suffix of archives."""
    return is_tar(location) or location.lower().endswith(".zip")


def archive_of(source_object: SourceObject) -> tuple[SourceObject, str]:
    """Return the archive of a source object, and its name in it; the source object itself and "" if it is in none."""
    match = _LOCATION.fullmatch(source_object.uri)
    if match is None:
        return source_object, ""
    size = int(source_object.stamp.partition("-")[0] or 0)
    return SourceObject(match["archive"], size, source_object.stamp), match["member"]


def member_of(archive: SourceObject, member: Member) -> SourceObject:
    """Return the source object of a file in an archive; it changes whenever the archive does."""
    return SourceObject(f"{archive.uri}{_MARK}{member.name}", member.size_bytes, archive.stamp)


@functools.lru_cache(maxsize=10_000)
def contained(
    store: FileStore, source_object: SourceObject, pattern: str, expansion: Expansion
) -> tuple[SourceObject, ...]:
    """Return the files in an archive; the archive itself if it is a zip with one file, or if reading it is an error."""
    try:
        members = members_of(store, source_object, pattern, expansion)
    except SourceUnavailableError:
        raise
    except SourceError:
        return (source_object,)
    if len(members) == 1 and not pattern and not is_tar(source_object.uri):
        return (source_object,)
    return tuple(member_of(source_object, member) for member in members)


def members_of(store: FileStore, archive: SourceObject, pattern: str, expansion: Expansion) -> tuple[Member, ...]:
    """Return the files in an archive that match a pattern, ordered by name.

    Raises `SourceError` if the archive is damaged, or contains something that is not read from archives.
    """
    with _translated_errors(archive.uri):
        if is_tar(archive.uri):
            with store.copies([Wanted(archive)]) as (path,):
                return tar_members(path, archive, pattern, expansion)
        with store.open(archive) as file:
            return zip_members(file, archive, pattern, expansion)


def require_file(path: str, archive: SourceObject, pattern: str, expansion: Expansion) -> None:
    """Raise `SourceError` with the reason why the files in an archive are not source objects, unless it is one file."""
    if is_tar(archive.uri):
        tar_members(path, archive, pattern, expansion)
        raise SourceError("an archive is read by its files", do="plan the source again", place=Place(archive.uri))
    with _translated_errors(archive.uri), zipfile.ZipFile(path) as opened:
        count = sum(not info.is_dir() and not is_hidden(info.filename) for info in opened.infolist())
    if count != 1:
        with Path(path).open("rb") as file:
            zip_members(file, archive, pattern, expansion)


def zip_members(file: BinaryIO, archive: SourceObject, pattern: str, expansion: Expansion) -> tuple[Member, ...]:
    """Return the files in a zip archive; raise `SourceError` if it is damaged or not allowed."""
    with _translated_errors(archive.uri), zipfile.ZipFile(file) as opened:
        infos = [info for info in opened.infolist() if not info.is_dir()]
        for info in infos:
            if stat.S_ISLNK(info.external_attr >> 16):
                raise _refused(archive.uri, f"the link {info.filename!r}")
            if info.flag_bits & _ENCRYPTED:
                raise _refused(archive.uri, f"the encrypted file {info.filename!r}")
        members = [Member(info.filename, info.file_size) for info in infos]
        size = archive.size_bytes or sum(info.compress_size for info in infos)
        expansion.check(sum(member.size_bytes for member in members), size, Place(archive.uri))
        return _chosen(members, archive.uri, pattern)


def tar_members(path: str, archive: SourceObject, pattern: str, expansion: Expansion) -> tuple[Member, ...]:
    """Return the files in the tar archive at a path; raise `SourceError` if it is damaged or not allowed."""
    with (
        _translated_errors(archive.uri),
        _plain_tar(path, archive, expansion) as plain,
        tarfile.open(plain, "r:") as opened,
    ):
        members = []
        for info in opened:
            if info.isdir():
                continue
            if not info.isreg():
                raise _refused(
                    archive.uri, f"{'the link' if info.issym() or info.islnk() else 'the device'} {info.name!r}"
                )
            members.append(Member(info.name, info.size))
            if len(members) > _MOST_MEMBERS:
                break
        return _chosen(members, archive.uri, pattern)


@contextmanager
def member_as_file(path: str, source_object: SourceObject, expansion: Expansion) -> Iterator[str]:
    """Yield a path with the content of a source object in the archive at `path`."""
    archive, name = archive_of(source_object)
    with scratch.folder("member") as folder:
        target = Path(folder) / "source"
        with (
            _translated_errors(archive.uri),
            _opened(path, archive, name, expansion) as stream,
            target.open("wb") as file,
        ):
            expansion.copy(stream, file, Path(path).stat().st_size, Place(source_object.uri))
        yield str(target)


@contextmanager
def _opened(path: str, archive: SourceObject, name: str, expansion: Expansion) -> Iterator[IO[bytes]]:
    """Open a file in the archive at a path."""
    if is_tar(archive.uri):
        with _plain_tar(path, archive, expansion) as plain, tarfile.open(plain, "r:") as opened:
            stream = opened.extractfile(name)
            if stream is None:
                raise KeyError(name)
            with stream:
                yield stream
    else:
        with zipfile.ZipFile(path) as opened_zip, opened_zip.open(name) as stream:
            yield stream


@contextmanager
def _plain_tar(path: str, archive: SourceObject, expansion: Expansion) -> Iterator[str]:
    """Yield the path of a tar archive without compression, which this process shares."""
    suffix = archive.uri.lower()
    if suffix.endswith(".tar"):
        yield path
        return
    decompress = functools.partial(_decompress, path, archive, expansion, is_gzip=suffix.endswith("gz"))
    with DOWNLOADS.copy((archive.uri, archive.stamp, "tar"), decompress) as plain:
        yield plain


def _decompress(path: str, archive: SourceObject, expansion: Expansion, target: str, *, is_gzip: bool) -> None:
    with (
        Path(path).open("rb") as packed,
        gzip.GzipFile(fileobj=packed) if is_gzip else pa.input_stream(packed, compression="zstd") as stream,
        Path(target).open("wb") as file,
    ):
        expansion.copy(cast("IO[bytes]", stream), file, Path(path).stat().st_size, Place(archive.uri))


def _chosen(members: Sequence[Member], location: str, pattern: str) -> tuple[Member, ...]:
    """Return the files that are data: those that match a pattern, and are not hidden; ordered by name."""
    if len(members) > _MOST_MEMBERS:
        raise _refused(location, f"more than {_MOST_MEMBERS:,} files")
    names = set()
    for member in members:
        path = PurePosixPath(member.name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or "\0" in member.name or ":" in path.parts[0]:
            raise _refused(location, f"the name {member.name!r}, which leads out of it")
        if member.name in names:
            raise _refused(location, f"two files named {member.name!r}")
        names.add(member.name)
    chosen = [member for member in members if not is_hidden(member.name) and fnmatch(member.name, pattern or "*")]
    if not chosen:
        do = f"correct members={pattern!r}" if pattern else "remove the archive, or add files to it"
        raise SourceError("the archive has no file to read", got=f"{len(members)} others", do=do, place=Place(location))
    return tuple(sorted(chosen, key=lambda member: member.name))


def _refused(location: str, content: str) -> SourceError:
    return SourceError(
        "the archive contains what is not read from archives",
        got=content,
        do="create it without",
        place=Place(location),
    )


@contextmanager
def _translated_errors(location: str) -> Iterator[None]:
    try:
        yield
    except HeadwaterError:
        raise
    except KeyError as error:
        raise SourceError("the archive has no such file", got=str(error), place=Place(location)) from error
    except FileNotFoundError:
        raise
    except _DAMAGED as error:
        raise SourceError(
            "the file cannot be decompressed",
            got=str(error),
            do="check that it is complete, and an archive as its name says",
            place=Place(location),
        ) from error
