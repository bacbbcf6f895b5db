"""The filesystem of S3 for DuckDB: files of rows are described once, and small ones are read once.

DuckDB asks for the size of a file about fifteen times, and reads its metadata anew, each time that it scans it. A file of
rows is never changed under its name, so what the store says about it is kept, and the content of small files too. A write
by this filesystem forgets what is known about the name: a retried task writes the same names.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from typing import Any

from s3fs import S3FileSystem

MOST_FILES = 100_000
"""The number of files whose description is kept, in about 50 MB."""
SMALL_BYTES = 4 << 20
"""The size up to which a file is read by one request and kept."""
MOST_BYTES = 64 << 20
"""The size of all contents that are kept."""


class ObjectFiles(S3FileSystem):  # type: ignore[misc]  # s3fs has no types
    """S3 for files that do not change, such as those of a table; not for files that are replaced or removed."""

    async def _info(self, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if (known := self._kept().info(name)) is not None:
            return known
        if not name.endswith(".parquet"):
            described: dict[str, Any] = await super()._info(path, *args, **options)
            return described
        bucket, key, _ = self.split_path(name)
        head = await self._call_s3("head_object", Bucket=bucket, Key=key)  # a missing file is no folder
        described = {"ETag": head["ETag"], "LastModified": head["LastModified"], "size": head["ContentLength"]}
        described |= {"name": name, "type": "file"}
        self._kept().describe(name, described)
        return described

    async def _isdir(self, path: str) -> bool:
        return not path.endswith(".parquet") and await super()._isdir(path)

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        name = self._strip_protocol(path)
        if mode == "rb" and name.endswith(".parquet") and (size := int(self.info(name)["size"])) <= SMALL_BYTES:
            content = self._kept().content(name)
            if content is None:
                content = self.cat_file(name, max_concurrency=1)
                self._kept().fill(name, content)
            return ObjectContent(name, content, size)
        return super()._open(path, mode, *args, **options)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what is known about a file, or about all files."""
        self._kept().forget(None if path is None else self._strip_protocol(path))
        super().invalidate_cache(path)

    def _kept(self) -> KeptFiles:
        if "_kept_files" not in self.__dict__:  # the client of S3 calls methods while it is created
            self._kept_files = KeptFiles()
        return self._kept_files


class ObjectContent(io.BytesIO):
    """The content of a file, opened for reading."""

    def __init__(self, path: str, content: bytes, size: int) -> None:
        """Open the content."""
        super().__init__(content)
        self.path, self.size = path, size


class KeptFiles:
    """Descriptions and contents of files, of which the ones used least recently are forgotten. Thread-safe."""

    def __init__(self) -> None:
        """Keep nothing."""
        self._infos: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._contents: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def info(self, name: str) -> dict[str, Any] | None:
        """Return a description, or `None` if it is not kept."""
        with self._lock:
            if name in self._infos:
                self._infos.move_to_end(name)
            return self._infos.get(name)

    def content(self, name: str) -> bytes | None:
        """Return a content, or `None` if it is not kept."""
        with self._lock:
            if name in self._contents:
                self._contents.move_to_end(name)
            return self._contents.get(name)

    def describe(self, name: str, described: dict[str, Any]) -> None:
        """Keep a description."""
        with self._lock:
            self._infos[name] = described
            if len(self._infos) > MOST_FILES:
                self._infos.popitem(last=False)

    def fill(self, name: str, content: bytes) -> None:
        """Keep a content."""
        with self._lock:
            self._bytes += len(content) - len(self._contents.pop(name, b""))
            self._contents[name] = content
            while self._bytes > MOST_BYTES:
                self._bytes -= len(self._contents.popitem(last=False)[1])

    def forget(self, name: str | None) -> None:
        """Forget a file, or all files."""
        with self._lock:
            if name is None:
                self._infos.clear()
                self._contents.clear()
                self._bytes = 0
            else:
                self._infos.pop(name, None)
                self._bytes -= len(self._contents.pop(name, b""))
