"""Remote files through fsspec: object stores, SFTP, FTP and HTTP. They are copied to temporary files to be read."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.connectors.certificates import untrusted
from pipeline.connectors.files.downloads import DOWNLOADS
from pipeline.connectors.files.remote_clients import FTP, HTTP, OBJECT_STORES, RemoteClient
from pipeline.connectors.files.remote_listing import matching
from pipeline.connectors.files.stores import IfNone, Wanted, no_files
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import HeadwaterError, Place, SourceError, SourceUnavailableError
from pipeline.core.splits import SourceObject

_AT_ONCE = 8
"""The number of concurrent downloads; only clients of object stores and of HTTP support it."""
_CHUNK_BYTES = 8 << 20
_GONE = (404, 410)


@dataclass(frozen=True)
class RemoteFiles:
    """The remote files that match URIs or glob patterns of one store. A location is the URI, without credentials."""

    patterns: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def client(self) -> RemoteClient:
        """The client of the store."""
        return RemoteClient.of(self.patterns[0], dict(self.options))

    def source_objects(self, if_none: IfNone = "raise") -> tuple[SourceObject, ...]:
        """See `FileStore.source_objects`; a remote store has no folders without files."""
        client, objects = self.client, {}
        with _translated_errors(self.patterns[0], "the files cannot be listed"), client.connected() as connection:
            for pattern in self.patterns:
                for path, details in _details(client, connection, pattern):
                    location = client.location(path)
                    objects[location] = _source_object(client, connection, location, details)
        if not objects and if_none == "raise":
            raise no_files(self.patterns)
        return tuple(objects[location] for location in sorted(objects))

    def recorded(self, locations: Iterable[str]) -> list[str]:
        """Return the locations, which do not change."""
        return list(locations)

    def content(self, source_object: SourceObject) -> str:
        """Return the entity tag of a file; empty for SFTP and FTP, which have none."""
        return source_object.stamp.partition("-")[2].rpartition("-")[0]

    def size_bytes(self, location: str) -> int | None:
        """Return the current size of a file; `None` if it does not exist."""
        with _translated_errors(location, "the file cannot be read"), self.client.connected() as connection:
            current = _current(self.client, connection, location)
        return None if current is None else current.size_bytes

    @contextmanager
    def copies(self, wanted: Sequence[Wanted]) -> Iterator[list[str]]:
        """Yield the paths of copies, which are shared within this process."""
        client = self.client
        workers = _AT_ONCE if client.scheme in (*OBJECT_STORES, *HTTP) else 1
        with ExitStack() as until:
            with client.connected() as connection, ThreadPoolExecutor(workers) as pool:
                copies = [self._copy(client, connection, each) for each in wanted]
                paths = list(pool.map(until.enter_context, copies))
            yield paths

    @contextmanager
    def open(self, source_object: SourceObject) -> Iterator[BinaryIO]:
        """Open a file of an object store for reading by ranges; other files are copied completely."""
        client = self.client
        if client.scheme not in OBJECT_STORES or DOWNLOADS.has(_key(Wanted(source_object))):
            with self.copies([Wanted(source_object)]) as (path,), Path(path).open("rb") as copy:
                yield copy
            return
        path, size = client.path(source_object.uri), source_object.size_bytes
        with (
            _translated_errors(source_object.uri, "the file cannot be read"),
            client.connected() as connection,
            connection.open(path, "rb", size=size) as file,
        ):
            yield cast("BinaryIO", file)

    def _copy(self, client: RemoteClient, connection: Any, wanted: Wanted) -> AbstractContextManager[str]:
        whole = Wanted(wanted.source_object)
        needs_all = wanted.ranges is None or client.scheme in FTP or DOWNLOADS.has(_key(whole))
        chosen = whole if needs_all else wanted
        return DOWNLOADS.copy(_key(chosen), partial(_download, client, connection, chosen))


def _key(wanted: Wanted) -> Hashable:
    """Return the key of a copy; without a stamp, a new one for each copy, because the file may have changed."""
    stamp = wanted.source_object.stamp or object()
    return (wanted.source_object.uri, stamp, wanted.ranges)


def _details(client: RemoteClient, connection: Any, pattern: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the paths that match a pattern, with what the store says about each."""
    if client.scheme in HTTP:
        details = _info(connection, pattern)
        if details is not None:
            yield pattern, details
        return
    yield from matching(connection, client.path(pattern), by_prefix=client.scheme in OBJECT_STORES)


def _info(connection: Any, path: str) -> Mapping[str, Any] | None:
    """Return what a store says about a file; `None` if it does not exist."""
    try:
        return cast("Mapping[str, Any]", connection.info(path))
    except FileNotFoundError as error:
        if _cause(error) is not error:
            raise
        return None


def _cause(error: Exception) -> BaseException:
    """Return why a request failed; the client of HTTP raises `FileNotFoundError` for every failure."""
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else None
    return error if cause is None or getattr(cause, "status", None) in _GONE else cause


def _current(client: RemoteClient, connection: Any, location: str) -> SourceObject | None:
    details = _info(connection, client.path(location))
    return None if details is None else _source_object(client, connection, location, details)


def _source_object(client: RemoteClient, connection: Any, location: str, details: Mapping[str, Any]) -> SourceObject:
    """Return a listed file. If the store has no stamp for it, it is downloaded to compute a checksum."""
    if client.scheme in FTP and "modify" not in details:
        details = {**details, "modify": connection.changed_at(client.path(location))}
    tag, time = _tag(details), _time(details)
    if client.scheme in HTTP and (details.get("size") is None or not (tag or time)):
        size, tag = _downloaded_stamp(connection, client.path(location), tag)
        return SourceObject(location, size, f"{size}-{tag}-{_nanoseconds(time)}")
    size = int(details["size"] or 0)
    return SourceObject(location, size, f"{size}-{tag}-{_nanoseconds(time)}")


def _tag(details: Mapping[str, Any]) -> str:
    tag = details.get("ETag") or details.get("etag") or ""
    return str(tag).strip('"')


def _time(details: Mapping[str, Any]) -> datetime | None:
    names = ("LastModified", "last_modified", "updated", "mtime", "modify", "Last-Modified")
    value = next((details[name] for name in names if details.get(name) is not None), None)
    if isinstance(value, str):
        if value[:14].isdigit():  # FTP
            value = datetime.strptime(value[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        elif value[:4].isdigit():
            value = datetime.fromisoformat(value)
        else:
            value = parsedate_to_datetime(value)
    return value if isinstance(value, datetime) else None


def _nanoseconds(time: datetime | None) -> int:
    return 0 if time is None else int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000


def _downloaded_stamp(connection: Any, path: str, tag: str) -> tuple[int, str]:
    """Return the size of a file, and its tag or checksum."""
    digest, size = hashlib.blake2b(digest_size=8), 0
    with connection.open(path, "rb", block_size=0) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, tag or digest.hexdigest()


def _download(client: RemoteClient, connection: Any, wanted: Wanted, target: str) -> None:
    """Copy a file, or ranges of it; raise `SourceError` if it is not the listed one any more."""
    listed = wanted.source_object
    with _translated_errors(listed.uri, "the file cannot be read"):
        path = client.path(listed.uri)
        if wanted.ranges is not None:
            _download_ranges(client, connection, path, wanted, target)
        elif client.scheme not in FTP:
            connection.get_file(path, target)
        else:  # the client leaves a file open that it cannot write completely
            with Path(target).open("wb") as copy:
                connection.get_file(path, copy)
        current = _current(client, connection, listed.uri)
    if current is None or current.stamp != (listed.stamp or current.stamp):
        raise SourceError(
            "the file changed after it was listed",
            got="no file any more"
            if current is None
            else f"{current.size_bytes} bytes, previously {listed.size_bytes}",
            do="upload files under another name, rename them when they are complete, and do not change them afterwards",
            place=Place(listed.uri),
        )
    size = Path(target).stat().st_size
    if size != current.size_bytes:
        raise SourceUnavailableError(
            "the download of a file is incomplete", got=f"{size} of {current.size_bytes} bytes", place=Place(listed.uri)
        )


def _download_ranges(client: RemoteClient, connection: Any, path: str, wanted: Wanted, target: str) -> None:
    """Write ranges of a file to the same places of a sparse file of its size."""
    chunks = [
        (begin, min(begin + _CHUNK_BYTES, last))
        for first, last in wanted.ranges or ()
        for begin in range(first, last, _CHUNK_BYTES)
    ]
    with Path(target).open("wb") as copy:
        copy.truncate(wanted.source_object.size_bytes)
        if client.scheme in OBJECT_STORES:
            for at in range(0, len(chunks), _AT_ONCE):
                some = chunks[at : at + _AT_ONCE]
                starts, ends = zip(*some, strict=True)
                for begin, content in zip(
                    starts, connection.cat_ranges([path] * len(some), starts, ends, on_error="raise"), strict=True
                ):
                    copy.seek(begin)
                    copy.write(content)
            return
        with connection.open(path, "rb", cache_type="none") as file:
            for begin, end in chunks:
                file.seek(begin)
                copy.seek(begin)
                copy.write(file.read(end - begin))


def _message(cause: BaseException) -> str:
    """Return the text of an error in one line; the client of Azure adds lines with ids and XML to what the store says."""
    is_of_azure = type(cause).__module__.startswith("azure.")
    return str(cause).partition("\n")[0].strip() if is_of_azure else message_of(cause)


def _authorities(location: str) -> str:
    """Return how the authorities of certificates are passed to the client of a location."""
    scheme = location.partition("://")[0]
    if scheme in (*HTTP, "ftps"):
        return 'options={"ca": "ca.pem"}'
    return f"the environment variable {'AWS_CA_BUNDLE' if scheme.startswith('s3') else 'SSL_CERT_FILE'}"


@contextmanager
def _translated_errors(location: str, problem: str) -> Iterator[None]:
    try:
        yield
    except HeadwaterError:
        raise
    except Exception as error:  # each client has its own exceptions
        cause, place = _cause(error), Place(location)
        if (refused := untrusted(cause, place, _authorities(location))) is not None:
            raise refused from error
        if isinstance(cause, FileNotFoundError):
            raise SourceError(problem, got="No such file or directory", place=place) from error
        of_ftp = {"error_temp": True, "error_perm": False}.get(type(cause).__name__)  # its codes are not those of HTTP
        is_temporary = isinstance(cause, EOFError) or (is_unavailable(cause) if of_ftp is None else of_ftp)
        kind = SourceUnavailableError if is_temporary else SourceError
        do = None if is_temporary else "check the URI, and the credentials in options="
        raise kind(problem, got=_message(cause), do=do, place=place) from error
