"""The filesystem of S3 for DuckDB: files of rows are described once, and small ones are read once.

DuckDB asks for the size of a file about fifteen times, and reads its metadata anew, each time that it scans it. A file of
rows is never changed under its name, so what the store or the log of its table says about it is kept, and the content of
small files too, also of those that this process has written. A write replaces what is known about the name: a retried
task writes the same names. Before a write, DuckDB asks whether the file, and a folder of its name, exist; the name of a
new file is known to be new.

A worker of Ray gets the sizes of committed files with its task, and uses the disk cache of the machine that it is on.
"""

from __future__ import annotations

import datetime as dt
import io
import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from s3fs import S3File

from pipeline.core.disk_cache import CacheAddress, address_here, cache_here
from pipeline.lake.s3_client import S3Client

MOST_FILES = 100_000
"""The number of files whose description is kept, in about 50 MB."""
MOST_SHIPPED = 10_000
"""The number of files whose sizes a worker gets with a task, in about 1 MB."""
SMALL_BYTES = 4 << 20
"""The size up to which a file is read by one request and kept, and of the cached blocks of larger ones."""
MOST_BYTES = 64 << 20
"""The size of all contents that are kept."""
_COMMITTED = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
"""When files of a table were modified, as far as DuckDB has to know: they are never modified again."""


class ObjectFiles(S3Client):
    """S3 for files that do not change, such as those of a table; not for files that are replaced or removed."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle for a worker: with the committed files that this process has used last, and the address of its cache."""
        return _in_worker, (dict(self.storage_options), self._kept().committed(MOST_SHIPPED), address_here())

    def know(self, sizes: Mapping[str, int]) -> None:
        """Note the sizes of committed files by their URIs, which are then not asked for."""
        for uri, size in sizes.items():
            name = self._strip_protocol(uri)
            known = self._kept().info(name)
            if known is None or int(known["size"]) != size:
                self._kept().forget(name)
                self._kept().describe(name, _described(name, size, _COMMITTED))

    @contextmanager
    def creating(self, folder: str, prefix: str) -> Iterator[None]:
        """Within the context, files with this prefix of their name, at any depth below a folder, are new or replaced."""
        new: Counter[tuple[str, str]] = self.__dict__.setdefault("_new", Counter())
        key = (f"{self._strip_protocol(folder)}/", prefix)
        new[key] += 1
        try:
            yield
        finally:
            new[key] -= 1

    def _is_new(self, name: str) -> bool:
        last, new = name.rpartition("/")[2], self.__dict__.get("_new", {})
        return any(count and name.startswith(f) and last.startswith(p) for (f, p), count in list(new.items()))

    async def _info(self, path: str, *args: Any, **options: Any) -> dict[str, Any]:
        name = self._strip_protocol(path)
        if self._is_new(name):
            raise FileNotFoundError(path)
        if (known := self._kept().info(name)) is not None:
            return known
        if not name.endswith(".parquet"):
            described: dict[str, Any] = await super()._info(path, *args, **options)
            return described
        bucket, key, _ = self.split_path(name)
        head = await self._call_s3("head_object", Bucket=bucket, Key=key)  # a missing file is no folder
        described = {**_described(name, head["ContentLength"], head["LastModified"]), "ETag": head["ETag"]}
        self._kept().describe(name, described)
        return described

    def isdir(self, path: str) -> bool:
        """Return whether there are files below a path; a file of rows is no folder."""
        return not path.endswith(".parquet") and bool(super().isdir(path))

    def mkdir(self, path: str, *args: Any, **options: Any) -> None:
        """Create a bucket; a store has no folders."""
        if "/" not in self._strip_protocol(path):
            super().mkdir(path, *args, **options)

    def _open(self, path: str, mode: str = "rb", *args: Any, **options: Any) -> Any:
        name = self._strip_protocol(path)
        if not name.endswith(".parquet"):
            return super()._open(path, mode, *args, **options)
        if mode == "wb":
            return NewObject(self, name, mode, self.default_block_size, s3_additional_kwargs=self.s3_additional_kwargs)
        if mode != "rb":
            return super()._open(path, mode, *args, **options)
        known = self.info(name)
        size, is_committed = int(known["size"]), known["LastModified"] == _COMMITTED
        if size > SMALL_BYTES:
            is_cached = is_committed and cache_here() is not None
            return CachedObject(self, name, size) if is_cached else super()._open(path, mode, *args, **options)
        content = self._kept().content(name)
        if content is None:
            content = self.block(name, size, 0) if is_committed else self.cat_file(name, max_concurrency=1)
            self._kept().fill(name, content)
        return ObjectContent(name, content, size)

    def block(self, name: str, size: int, number: int) -> bytes:
        """Return a block of a committed file of a size, if possible from the disk cache."""
        return self.blocks(name, size, range(number, number + 1))[0]

    def blocks(self, name: str, size: int, numbers: range) -> list[bytes]:
        """Return neighboring blocks of a committed file of a size; those that are not in the disk cache with one request."""
        cache, keys = cache_here(), [f"{self.endpoint_url} {name} {size} {number}" for number in numbers]
        found = [None if cache is None else cache.get(key) for key in keys]
        missing = [place for place, content in enumerate(found) if content is None]
        if missing:
            begin, end = numbers[missing[0]] * SMALL_BYTES, min(size, (numbers[missing[-1]] + 1) * SMALL_BYTES)
            content = self.cat_file(name, start=begin, end=end)
            for place in range(missing[0], missing[-1] + 1):
                at = (place - missing[0]) * SMALL_BYTES
                found[place] = block = content[at : at + SMALL_BYTES]
                if cache is not None:
                    cache.put(keys[place], block)
        return [block for block in found if block is not None]

    def written(self, name: str, size: int, content: bytes | None) -> None:
        """Note a file that was written, with its content if that is small."""
        self._kept().forget(name)
        self._kept().describe(name, _described(name, size, dt.datetime.now(dt.UTC)))
        if content is not None:
            self._kept().fill(name, content)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what is known about a file, or about all files."""
        self._kept().forget(None if path is None else self._strip_protocol(path))
        super().invalidate_cache(path)

    def _kept(self) -> KeptFiles:
        if "_kept_files" not in self.__dict__:  # the client of S3 calls methods while it is created
            self._kept_files = KeptFiles()
        return self._kept_files


def _in_worker(options: dict[str, Any], committed: dict[str, int], cache: CacheAddress | None) -> ObjectFiles:
    files = ObjectFiles(**options)
    files.know(committed)
    if cache is not None:
        cache.use()
    return files


def _described(name: str, size: int, modified: dt.datetime) -> dict[str, Any]:
    return {"name": name, "type": "file", "size": size, "LastModified": modified}


class NewObject(S3File):  # type: ignore[misc]  # s3fs has no types
    """A file that is being written; a small one is kept for reading."""

    _committed: tuple[int, bytes | None] | None = None

    def commit(self) -> None:
        """Send what is not sent yet; the file exists when this returns."""
        size = self.tell()
        is_small = self.buffer is not None and not self.parts and size <= SMALL_BYTES
        content = self.buffer.getvalue() if is_small else None
        super().commit()
        self._committed = (size, content)

    def close(self) -> None:
        """Commit, if that has not happened; what was known about the name is forgotten."""
        super().close()
        if self._committed is not None:
            self.fs.written(self.path, *self._committed)


class CachedObject(io.RawIOBase):
    """A large committed file, opened for reading: blocks of it are cached on the local disk."""

    def __init__(self, files: ObjectFiles, path: str, size: int) -> None:
        """Open the file without reading."""
        super().__init__()
        self.path, self.size = path, size
        self._files, self._at = files, 0

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return true."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, fewer only at the end of the file."""
        begin, end = self._at, self.size if size < 0 else min(self.size, self._at + size)
        if end <= begin:
            return b""
        numbers = range(begin // SMALL_BYTES, (end - 1) // SMALL_BYTES + 1)
        content = b"".join(self._files.blocks(self.path, self.size, numbers))
        self._at = end
        skipped = numbers[0] * SMALL_BYTES
        return content[begin - skipped : end - skipped]


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

    def committed(self, most: int) -> dict[str, int]:
        """Return the sizes of the committed files that were used last, by name."""
        with self._lock:
            last = itertools.islice(reversed(self._infos.items()), most)
            return {name: int(each["size"]) for name, each in last if each["LastModified"] == _COMMITTED}

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
