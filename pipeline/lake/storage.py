"""Reads and writes small files in a local folder or an object store, through fsspec."""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.disk_cache import cache_here
from pipeline.core.durable import sync
from pipeline.core.errors import OutcomeUnknownError, StorageError, StorageUnavailableError
from pipeline.core.object_store_options import s3_client_options
from pipeline.core.s3_access import s3_access
from pipeline.core.store_refusals import refusal_of
from pipeline.kernel.scan import DataFile

DRAFT_PREFIX = ".draft-"
"""The name prefix of local files that are still being written."""
_ONE_REQUEST = {"max_concurrency": 1}
"""Small files are read by one request; otherwise, the client of S3 asks for their size first."""

_REMOVED_AT_ONCE = 1000
"""The number of objects that one request can remove."""


@dataclass(frozen=True)
class StoredFile:
    """The size of a file, and when it was last modified by the clock of the store, in UTC."""

    size_bytes: int
    modified: dt.datetime
    etag: str = ""
    """What identifies the content of an object; empty if the location does not say."""


@dataclass(frozen=True)
class Storage:
    """A location: a local path or a URI, with the options of the object store under Delta's names."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether the location is a local folder."""
        return "://" not in self.uri

    def at(self, *parts: str) -> Storage:
        """Return a location below this one."""
        return Storage("/".join([self.uri.rstrip("/"), *parts]), self.options)

    def filesystem(self) -> fsspec.AbstractFileSystem | None:
        """Return the filesystem for DuckDB, or `None` for a local folder; it is for files that are never changed."""
        if self.is_s3:
            from pipeline.lake.object_files import ObjectFiles  # noqa: PLC0415 - an extra

            return ObjectFiles(**self._client_options())
        return None if self.is_local else self._filesystem()

    @contextmanager
    def creating(self, prefix: str) -> Iterator[None]:
        """Within the context, DuckDB writes files with this prefix of their name, which are new or replaced."""
        filesystem = self.filesystem() if self.is_s3 else None
        with nullcontext() if filesystem is None else filesystem.creating(self.uri, prefix):
            yield

    def know(self, files: Iterable[DataFile]) -> None:
        """Note the sizes of committed files, so that the store is not asked for them."""
        filesystem = self.filesystem() if self.is_s3 else None
        if filesystem is not None:
            filesystem.know({file.uri: file.size_bytes for file in files})

    def delta_options(self) -> dict[str, str] | None:
        """Return the options for delta-rs, which accesses S3 only through copies of logs; `None` if there are none."""
        return dict(self.options) or None

    @property
    def is_s3(self) -> bool:
        """Whether the location is on S3 or a compatible store."""
        return self.uri.startswith(("s3://", "s3a://"))

    def write_text(self, name: str, text: str) -> None:
        """Write a small text file; see `write_bytes`."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file atomically; it is durable when this returns."""
        try:
            if self.is_local:
                with _draft(Path(self.uri) / name, content) as (draft, target):
                    draft.replace(target)
            else:
                self._filesystem().pipe_file(self._path(name), content)
        except Exception as error:  # the clients of object stores have their own exceptions
            problem = f"cannot write {name!r} below {self.uri}"
            raise self.failed(problem, error, "check its space and permissions") from error

    def touch(self, name: str) -> None:
        """Create an empty file, which may be lost if the machine crashes."""
        path, filesystem = self._path(name), self._filesystem()
        try:
            if self.is_local:
                filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            filesystem.touch(path)
        except Exception as error:  # the clients of object stores have their own exceptions
            problem = f"cannot write {name!r} below {self.uri}"
            raise self.failed(problem, error, "check its space and permissions") from error

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless the name exists; return whether the file has this content now.

        Of concurrent callers with different contents, exactly one gets `True`, even if responses are lost. The file is
        durable when this returns. Raises `OutcomeUnknownError` if the content cannot be determined.
        """
        return self.created(name, content) is not None

    def created(self, name: str, content: bytes) -> str | None:
        """Write a file like `create`, and return its ETag, empty if it is not known; `None` if it has another content."""
        try:
            if not self.is_local:
                answer = self._filesystem().pipe_file(self._path(name), content, mode="create")
                return str(answer.get("ETag", "")) if isinstance(answer, dict) else ""
            with _draft(Path(self.uri) / name, content) as (draft, target):
                os.link(draft, target)
        except Exception as error:  # noqa: BLE001 - after any exception, only the store knows the outcome
            return "" if self._holds(name, content, error) else None
        return ""

    def _holds(self, name: str, content: bytes, error: Exception) -> bool:
        try:
            return self.read_bytes(name) == content
        except StorageError as unreadable:
            if isinstance(unreadable.__cause__, FileNotFoundError):
                if _existed(error):  # another process has removed its file in the meantime
                    return False
                problem, advice = f"cannot write {name!r} below {self.uri}", "check its space and permissions"
                raise self.failed(problem, error, advice) from error
            failure = self.failed(f"{name!r} below {self.uri} was written and cannot be read again", error)
            raise OutcomeUnknownError(
                failure.problem,
                got=failure.got,
                do="try again when the store answers, to determine the outcome",
            ) from unreadable

    def failed(self, problem: str, error: Exception, do: str | None = None) -> StorageError:
        """Return the error for an exception of the store: a separate type if the store is unavailable."""
        causes = (error, *([error.__cause__] if error.__cause__ else []))  # fsspec's errors have only part of the text
        is_down = not self.is_local and any(map(is_unavailable, causes))
        kind = StorageUnavailableError if is_down else StorageError
        refusal = None if self.is_local else refusal_of(error)
        if refusal is None:
            return kind(problem, got=message_of(error), do=do)
        cause, advice = refusal
        return kind(
            f"{problem}: {cause}", got=message_of(error) if kind is StorageUnavailableError else None, do=advice
        )

    def copy(self, source: Storage, name: str, target: str | None = None) -> None:
        """Copy a file of a location to here (default: under the same name): as a link or by the store, if that is possible.

        Links are only made of Parquet files, whose content is never changed. The file is modified now: a vacuum takes an old
        file without a commit for an orphan. Make it durable with `sync`. Raises `StorageError` if a store fails.
        """
        target = name if target is None else target
        try:
            if self.is_local and source.is_local and name.endswith(".parquet"):
                path = Path(self.uri) / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(OSError):  # another disk, or a file system without links
                    os.link(Path(source.uri) / name, path)
                    os.utime(path)
                    return
            elif not self.is_local and self._is_beside(source):
                self._filesystem().cp_file(source._path(name), self._path(target))
                return
        except Exception as error:  # the clients of object stores have their own exceptions
            problem = f"cannot copy {name!r} from {source.uri} to {self.uri}"
            raise self.failed(problem, error, "check space and permissions") from error
        self.write_bytes(target, source.read_bytes(name))

    def _is_beside(self, other: Storage) -> bool:
        """Return whether another location is in the same object store."""
        return self.uri.partition("://")[0] == other.uri.partition("://")[0] and self.options == other.options

    def read_text(self, name: str) -> str:
        """Read a small text file; raise `StorageError` if it cannot be read."""
        return self.read_bytes(name).decode()

    def read_bytes(self, name: str) -> bytes:
        """Read a file; raise `StorageError`, caused by `FileNotFoundError` if it does not exist."""
        try:
            content: bytes = self._filesystem().cat_file(self._path(name), **_ONE_REQUEST)
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot read {name!r} below {self.uri}", error) from error
        return content

    def read_existing(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read those of the given files that exist, concurrently if the store supports it."""
        paths = {self._filesystem()._strip_protocol(self._path(name)): name for name in names}  # noqa: SLF001 - no public equivalent
        try:
            contents = self._filesystem().cat(list(paths), on_error="return", **_ONE_REQUEST) if paths else {}
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot read below {self.uri}", error) from error
        for path, content in contents.items():
            if isinstance(content, Exception) and not self._is_missing(content):
                raise self.failed(f"cannot read {paths[path]!r} below {self.uri}", content) from content
        return {paths[path]: content for path, content in contents.items() if isinstance(content, bytes)}

    def read_cached(self, versions: Mapping[str, str]) -> dict[str, bytes]:
        """Read those of the given files that exist like `read_existing`, if possible from the disk cache of this process.

        Each has a version that identifies its content, such as its ETag.
        """
        known = {name: content for name, v in versions.items() if (content := self.cached(name, v)) is not None}
        contents = self.read_existing([name for name in versions if name not in known])
        for name, content in contents.items():
            self.keep(name, versions[name], content)
        return known | contents

    def cached(self, name: str, version: str) -> bytes | None:
        """Return the content of a version of a file, `None` if this process has no cache or it is not in it."""
        cache = cache_here() if self.is_s3 else None
        return None if cache is None else cache.get(self._cache_key(name, version))

    def keep(self, name: str, version: str, content: bytes) -> None:
        """Cache the content of a version of a file, if this process has a cache."""
        if self.is_s3 and (cache := cache_here()) is not None:
            cache.put(self._cache_key(name, version), content)

    def _cache_key(self, name: str, version: str) -> str:
        return f"{self._client_options()['endpoint_url']} {self._path(name)} {version}"

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Return the sorted names of all files, at any depth, that begin with a prefix."""
        found = self._found(prefix)
        return tuple(
            sorted(n for n in found if n.startswith(prefix) and not n.rpartition("/")[2].startswith(DRAFT_PREFIX))
        )

    def files(self, prefix: str = "", after: str = "") -> dict[str, StoredFile]:
        """Return all files that begin with a prefix, at any depth, by name; also drafts, which are still being written.

        With `after`, S3 lists only names that follow this one in the order of their bytes.
        """
        found = self._found(prefix, after).items()
        return {
            name: StoredFile(int(detail.get("size") or 0), _moment(detail), str(detail.get("ETag", "")))
            for name, detail in found
            if name.startswith(prefix)
        }

    def time(self, name: str) -> dt.datetime:
        """Return the time by the clock of the store, by writing a file and reading when it was modified."""
        self.write_bytes(name, b"")
        modified = self.modified(name)
        if modified is None:
            raise StorageError(f"{name!r} below {self.uri} was written and does not exist", do="check the store")
        return modified

    def modified(self, name: str) -> dt.datetime | None:
        """Return when a file was last modified, in UTC; `None` if it does not exist."""
        try:
            return _moment(self._filesystem().info(self._path(name)))
        except FileNotFoundError:
            return None
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot read {name!r} below {self.uri}", error) from error

    def _found(self, prefix: str, after: str = "") -> dict[str, Mapping[str, Any]]:
        """Return files at any depth by their names, with what the store says about each: at least those with a prefix."""
        filesystem, folder = self._filesystem(), prefix.rpartition("/")[0]
        root = filesystem._strip_protocol(self.uri).rstrip("/") + "/"  # noqa: SLF001 - as above
        try:
            if self.is_s3:
                return self._objects(prefix, after=after)
            found = filesystem.find(self._path(folder).rstrip("/"), detail=True)
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot list {folder!r} below {self.uri}", error) from error
        # without files below it, some stores report the folder itself
        return {path.removeprefix(root): detail for path, detail in found.items() if path.startswith(root)}

    def _objects(self, prefix: str, delimiter: str = "", after: str = "") -> dict[str, Mapping[str, Any]]:
        """List objects of S3 with one request for each thousand: the client's own listing also builds a tree of folders.

        With a delimiter, all objects whose names go on after it are listed as one name.
        """
        filesystem = self._filesystem()
        bucket, root, _ = filesystem.split_path(self._path(""))
        found: dict[str, Mapping[str, Any]] = {}
        more = {"StartAfter": root + after} if after else {}
        while True:
            page = filesystem.call_s3(
                "list_objects_v2", Bucket=bucket, Prefix=root + prefix, Delimiter=delimiter, **more
            )
            for each in page.get("Contents", ()):
                name = each["Key"].removeprefix(root)
                if name and not name.endswith("/"):  # some stores report folders
                    found[name] = {**each, "size": each["Size"]}
            found |= {p["Prefix"].removeprefix(root).rstrip("/"): {} for p in page.get("CommonPrefixes", ())}
            if not page.get("IsTruncated"):
                return found
            more = {"ContinuationToken": page["NextContinuationToken"]}

    def sync(self, names: Sequence[str]) -> None:
        """Make files of another writer durable; object stores need nothing."""
        if not self.is_local:
            return
        paths = [Path(self.uri) / name for name in names]
        try:
            for path in (*paths, *{path.parent for path in paths}):
                sync(path)
        except OSError as error:
            raise StorageError(f"cannot write to disk below {self.uri}", got=message_of(error)) from error

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; raise `OSError` if it does not exist."""
        file: BinaryIO = self._filesystem().open(self._path(name), "rb")
        return file

    def has(self, name: str) -> bool:
        """Return whether a file exists; raise `StorageError` if the store cannot be queried."""
        problem = f"cannot check whether {name!r} exists below {self.uri}"
        try:
            return bool(self._filesystem().exists(self._path(name)))
        except Exception as error:
            raise self.failed(problem, self._cause(error)) from error

    def _cause(self, error: Exception) -> Exception:
        """Return the error of a listing: a store gives no reason when it refuses to say whether an object exists."""
        try:
            self._filesystem().ls(self.uri)
        except FileNotFoundError:
            return error
        except Exception as reason:  # noqa: BLE001 - the clients of object stores have their own exceptions
            return reason
        return error

    def list_folder(self, folder: str) -> tuple[str, ...]:
        """Return the sorted names of the entries of a folder; empty if it does not exist."""
        filesystem, prefix = self._filesystem(), f"{folder}/".lstrip("/")
        try:
            entries = (
                list(self._objects(prefix, "/")) if self.is_s3 else filesystem.ls(self._path(folder), detail=False)
            )
        except Exception as error:  # the clients of object stores have their own exceptions
            if self._is_missing(error):
                return ()
            raise self.failed(f"cannot list {folder!r} below {self.uri}", error) from error
        return tuple(sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries))

    def _is_missing(self, error: Exception) -> bool:
        """Return whether an error means that a file or folder does not exist, but its bucket does."""
        return isinstance(error, FileNotFoundError) and (self.is_local or refusal_of(error) is None)

    def folders(self) -> frozenset[Path]:
        """Return all folders at and below a local location; an object store has none."""
        root = Path(self.uri)
        if not self.is_local or not root.is_dir():
            return frozenset()
        return frozenset({root, *(path for path in root.rglob("*") if path.is_dir())})

    def prune(self, but: frozenset[Path]) -> None:
        """Remove the empty folders at and below a local location, except those that existed before."""
        for folder in sorted(self.folders() - but, reverse=True):
            with suppress(OSError):  # not empty
                folder.rmdir()

    def clear(self) -> None:
        """Remove the location and everything below it, if it exists."""
        if self.is_s3:
            self.remove(list(self.files()))
            return
        filesystem = self._filesystem()
        try:
            if filesystem.exists(self.uri):
                filesystem.rm(self.uri, recursive=True)
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot remove {self.uri}", error) from error

    def remove_if_empty(self) -> None:
        """Remove a local folder if it is empty; an object store has no folders."""
        if self.is_local:
            with suppress(OSError):
                Path(self.uri).rmdir()

    def remove(self, names: Sequence[str]) -> None:
        """Remove unreferenced files, of which another process may have removed some; raise `StorageError` if it is rejected."""
        try:
            if self.is_s3 and len(names) > 1:
                self._remove_objects(names)
                return
            for name in names:
                self._remove_file(name)
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot remove a file below {self.uri}", error) from error

    def _remove_file(self, name: str) -> None:
        try:
            self._filesystem().rm_file(self._path(name))
        except FileNotFoundError as error:
            if not self._is_missing(error):
                raise

    def _remove_objects(self, names: Sequence[str]) -> None:
        filesystem = self._filesystem()
        bucket, root, _ = filesystem.split_path(self._path(""))
        for begin in range(0, len(names), _REMOVED_AT_ONCE):
            keys = [{"Key": root + name} for name in names[begin : begin + _REMOVED_AT_ONCE]]
            answer = filesystem.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            if errors := answer.get("Errors"):
                raise OSError(f"DeleteObjects: {errors[0]['Code']}: {errors[0].get('Message', '')}: {errors[0]['Key']}")

    def make(self) -> None:
        """Create the folder of a local location; raise `StorageError` if it cannot be created or is not writable."""
        if not self.is_local:
            return
        try:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create the folder {self.uri}", got=message_of(error), do="choose a writable folder"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    def _filesystem(self) -> fsspec.AbstractFileSystem:
        if self.is_local:
            return LocalFileSystem()
        if self.is_s3:
            from pipeline.lake.s3_client import S3Client  # noqa: PLC0415 - an extra

            return S3Client(**self._client_options())
        return fsspec.filesystem(self.uri.partition("://")[0], **self._client_options())

    def _client_options(self) -> dict[str, Any]:
        return s3_client_options(s3_access(self.options, os.environ).options) if self.is_s3 else {}


def _existed(error: Exception) -> bool:
    """Return whether a file was not created because the name existed."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return isinstance(error, FileExistsError) or code == "PreconditionFailed"


def _moment(detail: Mapping[str, Any]) -> dt.datetime:
    modified = detail.get("LastModified", detail.get("mtime"))
    return modified if isinstance(modified, dt.datetime) else dt.datetime.fromtimestamp(float(modified or 0), dt.UTC)


@contextmanager
def _draft(target: Path, content: bytes) -> Iterator[tuple[Path, Path]]:
    """Write a draft next to its target; after the caller has moved it there, make the folder's entry durable."""
    created = [folder for folder in (target.parent, *target.parent.parents) if not folder.is_dir()]
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{DRAFT_PREFIX}{target.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield draft, target
    finally:
        draft.unlink(missing_ok=True)
    for folder in (target.parent, *(folder.parent for folder in created)):
        sync(folder)
