"""Small files beside the tables, on a local folder or an object store, through fsspec."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.core.errors import StorageError


@dataclass(frozen=True)
class Storage:
    """A place: a local path or a URI, with the object store's options in the `AWS_*` words that Delta uses."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether the place is a folder of this machine."""
        return "://" not in self.uri

    def at(self, *parts: str) -> Storage:
        """Return a place below this one."""
        return Storage("/".join([self.uri.rstrip("/"), *parts]), self.options)

    def filesystem(self) -> fsspec.AbstractFileSystem | None:
        """Return what DuckDB needs to reach the place, or `None` for a local folder."""
        return None if self.is_local else self._filesystem()

    def write_text(self, name: str, text: str) -> None:
        """Write a small file in one step: readers see all of it or none; it survives a crash once this returns."""
        self.write_bytes(name, text.encode())

    def read_text(self, name: str) -> str:
        """Read a small file; raise `StorageError` when it cannot be read."""
        return self.read_bytes(name).decode()

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file in one step, as `write_text` does."""
        try:
            if self.is_local:
                _write_local(Path(self.uri) / name, content)
            else:
                self._filesystem().pipe_file(self._path(name), content)
        except Exception as error:  # an object store's client has errors of its own
            raise StorageError(
                f"cannot write {name!r} below {self.uri}", got=_reason(error), do="check its space and permissions"
            ) from error

    def read_bytes(self, name: str) -> bytes:
        """Read a file; raise `StorageError` when it cannot be read."""
        try:
            content: bytes = self._filesystem().cat_file(self._path(name))
        except Exception as error:  # likewise
            raise StorageError(f"cannot read {name!r} below {self.uri}", got=_reason(error)) from error
        return content

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return bool(self._filesystem().exists(self._path(name)))

    def folders(self) -> frozenset[Path]:
        """Return the folders at and below a local place; an object store has none."""
        root = Path(self.uri)
        if not self.is_local or not root.is_dir():
            return frozenset()
        return frozenset({root, *(path for path in root.rglob("*") if path.is_dir())})

    def prune(self, but: frozenset[Path]) -> None:
        """Remove the folders at and below a local place that hold no file, but for those that were there before."""
        for folder in sorted(self.folders() - but, reverse=True):
            with suppress(OSError):  # it holds something
                folder.rmdir()

    def clear(self) -> None:
        """Remove the place and all below it, if it is there."""
        found = self._filesystem()
        if found.exists(self.uri):
            found.rm(self.uri, recursive=True)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files that nothing refers to; raise `StorageError` when the store refuses."""
        try:
            for name in names:
                self._filesystem().rm_file(self._path(name))
        except Exception as error:  # likewise
            raise StorageError(f"cannot remove a file below {self.uri}", got=_reason(error)) from error

    def make(self) -> None:
        """Make the folder, for a local place; raise `StorageError` when it cannot be made or written to."""
        if not self.is_local:
            return
        try:
            Path(self.uri).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make the folder {self.uri}", got=_reason(error), do="choose a folder you may write to"
            ) from error

    def _path(self, name: str) -> str:
        return f"{self.uri.rstrip('/')}/{name}"

    def _filesystem(self) -> fsspec.AbstractFileSystem:
        if self.is_local:
            return LocalFileSystem()
        protocol = self.uri.partition("://")[0]
        return fsspec.filesystem(protocol, **_fsspec_options(protocol, {**os.environ, **self.options}))


def _write_local(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _fsspec_options(protocol: str, options: Mapping[str, str]) -> dict[str, Any]:
    if protocol not in {"s3", "s3a"}:
        return {}
    client = {"region_name": options["AWS_REGION"]} if "AWS_REGION" in options else {}
    return {
        "key": options.get("AWS_ACCESS_KEY_ID"),
        "secret": options.get("AWS_SECRET_ACCESS_KEY"),
        "token": options.get("AWS_SESSION_TOKEN"),
        "endpoint_url": options.get("AWS_ENDPOINT_URL"),
        "client_kwargs": client,
    }


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
