"""Whole tables as Parquet files on this machine, as a caller may read them: made once for each version and policy.

Replicas of a machine share the folder. It has a limit: what was used least recently is removed, but not while its addresses are valid.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.schema import Schema
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import arrow_schema
from serve.access.signed_urls import VALID_S
from serve.http_errors import BusyError, OverloadError
from serve.queries.engine import Engine
from serve.queries.select import Statement, VisibleRelation

_LAYOUT = 1
"""Part of each name, so that files of another layout are not used."""
_FILE_ROWS = 1 << 20
_CONTENTS = "export.json"
_LEFT_OVER_S = 3_600.0


@dataclass(frozen=True)
class ExportedFile:
    """A Parquet file with some rows."""

    name: str
    size_bytes: int
    rows: int


@dataclass(frozen=True)
class Export:
    """The files of a version of a table as callers with the same rights see it."""

    name: str
    files: tuple[ExportedFile, ...]


class ExportedFiles:
    """The exports in a folder. Thread-safe."""

    def __init__(self, engine: Engine, folder: Path, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        """Use a folder of at most so many bytes. `clock` returns seconds since 1970."""
        self._engine = engine
        self._folder = folder
        self._most_bytes = most_bytes
        self._clock = clock
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def of(self, relation: VisibleRelation, schema: Schema) -> Export:
        """Return the files of a relation with its columns cast to a schema; make them if there are none.

        Raises `OverloadError` if they are larger than the limit, `BusyError` if others have to stay for a while.
        """
        seen = (_LAYOUT, relation.table, relation.identity, relation.fingerprint, schema.as_dict())
        digest = hashlib.sha256(repr(seen).encode()).hexdigest()[:20]
        name = f"{quote(relation.table, safe='')[:80]}-{relation.version}-{digest}"
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            known = self._known(name)
            if known is None:
                self._make(name, relation, schema)
                known = self._known(name)
            if known is None:
                raise BusyError("the files were removed by another server", do="try again")
            return known

    def path(self, export: str, file: str) -> Path | None:
        """Return the path of a file, or `None` if it is not there any more."""
        path = self._folder / export / file
        if path.parent.parent != self._folder or file == _CONTENTS or not path.is_file():
            return None
        return path

    def _known(self, name: str) -> Export | None:
        folder = self._folder / name
        try:
            contents = json.loads((folder / _CONTENTS).read_text())
            os.utime(folder)
        except FileNotFoundError:
            return None
        return Export(name, tuple(ExportedFile(**each) for each in contents))

    def _make(self, name: str, relation: VisibleRelation, schema: Schema) -> None:
        made = self._folder / f".{uuid.uuid4().hex}"
        made.mkdir(parents=True)
        try:
            files = self._write(made, relation, schema)
            (made / _CONTENTS).write_text(json.dumps([asdict(each) for each in files]))
            self._make_room(sum(each.size_bytes for each in files))
            try:
                made.rename(self._folder / name)
            except OSError:
                if not (self._folder / name).exists():  # another replica was quicker
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _write(self, folder: Path, relation: VisibleRelation, schema: Schema) -> list[ExportedFile]:
        types = relation.schema.as_dict()
        columns = ", ".join(
            quoted(name) if types[name] == kind else f"cast({quoted(name)} as {kind}) as {quoted(name)}"
            for name, kind in schema.as_dict().items()
        )
        fields = arrow_schema(schema)
        files: list[ExportedFile] = []
        with closing(self._engine.batches(Statement(f"select {columns} from ({relation.sql})"))) as batches:
            first = next(batches, None)
            while first is not None:
                path, rows = folder / f"{len(files):05}.parquet", 0
                with pq.ParquetWriter(path, fields, compression="zstd") as writer:
                    for batch in chain((first,), batches):
                        writer.write_table(pa.Table.from_batches([batch]).cast(fields))
                        rows += batch.num_rows
                        if rows >= _FILE_ROWS:
                            break
                files.append(ExportedFile(path.name, path.stat().st_size, rows))
                self._require_small(files)
                first = next(batches, None)
        return [each for each in files if each.rows]

    def _require_small(self, files: list[ExportedFile]) -> None:
        size = sum(each.size_bytes for each in files)
        if size > self._most_bytes:
            raise OverloadError(
                "the table is larger than what may be shared",
                got=f"more than {self._most_bytes} bytes",
                do="raise export_bytes",
            )

    def _make_room(self, needed: int) -> None:
        """Remove what was used least recently, until so many bytes fit. Raises `BusyError` if that would remove what is in use."""
        now = self._clock()
        exports = []
        for folder in self._folder.iterdir():
            age = now - folder.stat().st_mtime
            if folder.name.startswith("."):
                if age > _LEFT_OVER_S:
                    shutil.rmtree(folder, ignore_errors=True)  # of a server that was killed
                continue
            exports.append((folder.stat().st_mtime, sum(each.stat().st_size for each in folder.iterdir()), folder))
        total = needed + sum(size for _, size, _ in exports)
        for used_at, size, folder in sorted(exports):
            if total <= self._most_bytes:
                return
            if now - used_at > VALID_S:
                shutil.rmtree(folder, ignore_errors=True)
                total -= size
        if total > self._most_bytes:
            raise BusyError("the space for shared files is in use", do="try again later, or raise export_bytes")
