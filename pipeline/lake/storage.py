"""Reads and writes small files in a local folder or an object store, through fsspec."""

from __future__ import annotations

import datetime as dt
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.core.errors import OutcomeUnknownError, StorageError, StorageUnavailableError

_UNAVAILABLE = re.compile(
    r"connect|time.?out|timed out|unreachable|error sending request|dns error|slow ?down|internal ?error|unavailable|\b50[0234]\b",
    re.IGNORECASE,
)
_EXCEPTION_LINE = re.compile(r"^[\w.]+: .*$", re.MULTILINE)
"""The line of a traceback that contains the exception."""
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_RETRIES = 3
"""The number of retries by fsspec's client, within seconds; after that, a stream reports it and retries itself."""
DRAFT_PREFIX = ".draft-"
"""The name prefix of local files that are still being written."""


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
        """Return the filesystem for DuckDB, or `None` for a local folder."""
        return None if self.is_local else self._filesystem()

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
        try:
            if not self.is_local:
                self._filesystem().pipe_file(self._path(name), content, mode="create")
                return True
            with _draft(Path(self.uri) / name, content) as (draft, target):
                os.link(draft, target)
        except Exception as error:  # noqa: BLE001 - after any exception, only the store knows the outcome
            return self._holds(name, content, error)
        return True

    def _holds(self, name: str, content: bytes, error: Exception) -> bool:
        try:
            return self.read_bytes(name) == content
        except StorageError as unreadable:
            if isinstance(unreadable.__cause__, FileNotFoundError):
                problem, advice = f"cannot write {name!r} below {self.uri}", "check its space and permissions"
                raise self.failed(problem, error, advice) from error
            raise OutcomeUnknownError(
                f"{name!r} below {self.uri} was written and cannot be read again",
                got=_reason(error),
                do="try again when the store answers, to determine the outcome",
            ) from unreadable

    def failed(self, problem: str, error: Exception, do: str | None = None) -> StorageError:
        """Return the error for an exception of the store: a separate type if the store is unavailable."""
        kind = StorageUnavailableError if not self.is_local and _is_unavailable(error) else StorageError
        return kind(problem, got=_reason(error), do=do)

    def read_text(self, name: str) -> str:
        """Read a small text file; raise `StorageError` if it cannot be read."""
        return self.read_bytes(name).decode()

    def read_bytes(self, name: str) -> bytes:
        """Read a file; raise `StorageError`, caused by `FileNotFoundError` if it does not exist."""
        try:
            content: bytes = self._filesystem().cat_file(self._path(name))
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot read {name!r} below {self.uri}", error) from error
        return content

    def read_existing(self, names: Sequence[str]) -> dict[str, bytes]:
        """Read those of the given files that exist, concurrently if the store supports it."""
        paths = {self._filesystem()._strip_protocol(self._path(name)): name for name in names}  # noqa: SLF001 - no public equivalent
        try:
            contents = self._filesystem().cat(list(paths), on_error="return") if paths else {}
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot read below {self.uri}", error) from error
        for path, content in contents.items():
            if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                raise self.failed(f"cannot read {paths[path]!r} below {self.uri}", content) from content
        return {paths[path]: content for path, content in contents.items() if isinstance(content, bytes)}

    def names(self, prefix: str = "") -> tuple[str, ...]:
        """Return the sorted names of all files, at any depth, that begin with a prefix."""
        folder = self._path(prefix.rpartition("/")[0]).rstrip("/")
        filesystem = self._filesystem()
        root = filesystem._strip_protocol(self.uri).rstrip("/") + "/"  # noqa: SLF001 - as above
        try:
            paths = [path.removeprefix(root) for path in filesystem.find(folder)]
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot list {prefix!r} below {self.uri}", error) from error
        return tuple(
            sorted(n for n in paths if n.startswith(prefix) and not n.rpartition("/")[2].startswith(DRAFT_PREFIX))
        )

    def modified_times(self) -> dict[str, dt.datetime]:
        """Return the modification time of each file, at any depth, in UTC."""
        filesystem = self._filesystem()
        root = filesystem._strip_protocol(self.uri).rstrip("/") + "/"  # noqa: SLF001 - as above
        try:
            details = filesystem.find(root, detail=True)
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot list {self.uri}", error) from error
        return {path.removeprefix(root): _moment(detail) for path, detail in details.items()}

    def sync(self, names: Sequence[str]) -> None:
        """Make files of another writer durable; object stores need nothing."""
        if not self.is_local:
            return
        paths = [Path(self.uri) / name for name in names]
        try:
            for path in (*paths, *{path.parent for path in paths}):
                _fsync(path)
        except OSError as error:
            raise StorageError(f"cannot write to disk below {self.uri}", got=_reason(error)) from error

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading; raise `OSError` if it does not exist."""
        file: BinaryIO = self._filesystem().open(self._path(name), "rb")
        return file

    def has(self, name: str) -> bool:
        """Return whether a file exists; raise `StorageError` if the store cannot be queried."""
        try:
            return bool(self._filesystem().exists(self._path(name)))
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot check whether {name!r} exists below {self.uri}", error) from error

    def list_folder(self, folder: str) -> tuple[str, ...]:
        """Return the sorted names of the entries of a folder; empty if it does not exist."""
        filesystem = self._filesystem()
        try:
            entries = filesystem.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return ()
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot list {folder!r} below {self.uri}", error) from error
        return tuple(sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries))

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
        """Remove unreferenced files; raise `StorageError` if the store rejects it."""
        try:
            for name in names:
                self._filesystem().rm_file(self._path(name))
        except Exception as error:  # the clients of object stores have their own exceptions
            raise self.failed(f"cannot remove a file below {self.uri}", error) from error

    def make(self) -> None:
        """Create the folder of a local location; raise `StorageError` if it cannot be created or is not writable."""
        if not self.is_local:
            return
        try:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot create the folder {self.uri}", got=_reason(error), do="choose a writable folder"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    def _filesystem(self) -> fsspec.AbstractFileSystem:
        if self.is_local:
            return LocalFileSystem()
        protocol = self.uri.partition("://")[0]
        return fsspec.filesystem(protocol, **_fsspec_options(protocol, {**os.environ, **self.options}))


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
        _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def aws_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return storage options by names in lower case without `aws_`: Delta accepts `AWS_REGION`, `aws_region` and `region`."""
    return {name.lower().removeprefix("aws_"): value for name, value in options.items()}


def _fsspec_options(protocol: str, options: Mapping[str, str]) -> dict[str, Any]:
    if protocol not in {"s3", "s3a"}:
        return {}
    aws = aws_options(options)
    client = {"region_name": aws["region"]} if "region" in aws else {}
    tries = 1 + int(options.get("max_retries", _RETRIES))
    return {
        "key": aws.get("access_key_id"),
        "secret": aws.get("secret_access_key"),
        "token": aws.get("session_token"),
        "endpoint_url": aws.get("endpoint_url", aws.get("endpoint")),
        "client_kwargs": client,
        "config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": tries}},
        "use_listings_cache": False,  # other processes write too
    }


def _is_unavailable(error: BaseException) -> bool:
    """Return whether an error means that the store is unavailable; the libraries have no common type for this."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or _UNAVAILABLE.search(f"{type(error).__name__} {error}") is not None
    )


def _reason(error: Exception) -> str:
    """Return an error as one line; if DuckDB passes on a Python traceback, return its first exception."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    inner = _EXCEPTION_LINE.search(text) if "Traceback (most recent call last)" in text else None
    return " ".join(_COLOURS.sub("", text if inner is None else inner[0]).split())
