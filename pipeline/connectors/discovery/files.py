"""The data files below a folder or a bucket, grouped by pattern; tables and database files among them; and some rows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa

from pipeline.connectors.discovery.databases import DatabaseDiscovery, file_discovery
from pipeline.connectors.discovery.system import SystemAddress, first_rows
from pipeline.connectors.files.compression import COMPRESSED_SUFFIXES
from pipeline.connectors.files.definition import files
from pipeline.connectors.files.remote_clients import RemoteClient
from pipeline.connectors.files.source import Files
from pipeline.connectors.files.stores import is_remote
from pipeline.core import scratch
from pipeline.core.clients import message_of
from pipeline.core.discovery import Discoverable, DiscoveredObject, DiscoveryLimits, ReaderCall, matching_names
from pipeline.core.errors import Place, SourceError, few, quantity
from pipeline.kernel.engine import connect
from pipeline.kernel.sql_text import literal

_FORMATS = {
    ".csv": "CSV",
    ".tsv": "CSV",
    ".json": "JSON",
    ".ndjson": "JSON",
    ".jsonl": "JSON",
    ".parquet": "Parquet",
    ".avro": "Avro",
    ".orc": "ORC",
    ".xlsx": "Excel",
}
_DATABASES = {".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite", ".duckdb": "duckdb"}
_CHANGING = re.compile(r"part-.*|\d[\d_.:T-]*|[0-9a-f]{8}-[0-9a-f-]{27}", re.IGNORECASE)
"""What differs between the names of files of one kind: numbers, dates, the names that engines give to parts."""
_PROFILE = ".share"
_MOST_FILES = 10_000
_TEXT = ("CSV", "JSON")


@dataclass(frozen=True)
class _ListedFile:
    path: str
    """Below the location that is looked at."""
    size_bytes: int


@dataclass(frozen=True)
class FileDiscovery:
    """See `Discoverable`."""

    location: str
    options: tuple[tuple[str, str], ...] = ()
    is_single: bool = False
    only: str = ""
    """The object that was asked for; empty for all."""

    @property
    def uri(self) -> str:
        """The location."""
        return self.location

    def objects(self, limits: DiscoveryLimits) -> Sequence[DiscoveredObject]:
        """Return the groups of files, the tables, and the tables of database files."""
        if self.is_single:
            name = self.location.rstrip("/").rpartition("/")[2]
            return [self._files(name, self.location, [_ListedFile("", self._size())])]
        listed = self._listed()
        every = {each.name: each for each in sorted(self._groups(listed, limits), key=lambda each: each.name)}
        if not every:
            raise SourceError(
                "there are no data files",
                got=f"{quantity(len(listed), 'file')}: {few(sorted({Path(f.path).suffix or f.path for f in listed}))}",
                do="look at a folder with data files, or at a file",
                place=Place(self.location),
            )
        wanted = [every[name] for name in matching_names(every, self.only)]
        if not wanted:
            raise SourceError("there is no such file or table", got=repr(self.only), place=Place(self.location))
        if len(listed) == _MOST_FILES:
            note = f"only {_MOST_FILES:,} files of the location were listed, so there may be more"
            wanted = [replace(each, notes=(*each.notes, note)) for each in wanted]
        return wanted[: limits.objects + 1]

    def _groups(self, listed: Sequence[_ListedFile], limits: DiscoveryLimits) -> list[DiscoveredObject]:
        tables = sorted({path for file in listed if (path := _table_root(file.path)) is not None})
        objects = [self._table(path, listed) for path in tables]
        groups: dict[str, list[_ListedFile]] = {}
        for file in listed:
            if not any(file.path.startswith(f"{table}/" if table else "") for table in tables):
                groups.setdefault(_pattern(file.path), []).append(file)
        for pattern, members in groups.items():
            suffix = Path(pattern).suffix.lower()
            if suffix in _DATABASES and not is_remote(self.location):
                for member in members:
                    objects += self._database(member.path, _DATABASES[suffix], limits)
            elif format_of(pattern) is not None:
                objects.append(self._files(pattern, _joined(self.location, pattern), members))
        return objects

    def _table(self, path: str, listed: Sequence[_ListedFile]) -> DiscoveredObject:
        location = _joined(self.location, path).rstrip("/")
        given = (("options", dict(self.options)),) if self.options else ()
        size = sum(file.size_bytes for file in listed if file.path.startswith(f"{path}/" if path else ""))
        name = path or self.location.rstrip("/").rpartition("/")[2]
        return DiscoveredObject(name, "Delta table", ReaderCall("delta_table", (location,), given), size_bytes=size)

    def _database(self, path: str, system: str, limits: DiscoveryLimits) -> list[DiscoveredObject]:
        database = file_discovery(_joined(self.location, path), system)
        return [replace(each, name=f"{path}:{each.name}") for each in database.objects(limits)]

    def _files(self, name: str, pattern: str, members: Sequence[_ListedFile]) -> DiscoveredObject:
        kind = format_of(name) or format_of(pattern) or "data"
        call = ReaderCall("files", (pattern,), (("options", dict(self.options)),) if self.options else ())
        if kind == "CSV":
            call = call.having(**self._csv_options(members[0].path, Path(pattern).suffix))
        folders = [part.partition("=")[0] for part in name.split("/")[:-1] if "=" in part]
        size = sum(member.size_bytes for member in members)
        what = f"{kind} {'file' if len(members) == 1 else 'files'}"
        parts = f"by the folders {', '.join(f'{each}=' for each in folders)}" if folders else ""
        notes: tuple[str, ...] = (quantity(len(members), "file"),) if len(members) > 1 else ()
        notes += ("the values of the folders are in `_source` only",) if folders else ()
        return DiscoveredObject(name, what, call, size_bytes=size, partitioning=parts, notes=notes)

    def _csv_options(self, path: str, suffix: str) -> dict[str, object]:
        """Return the delimiter of a CSV file, if it is not the usual one."""
        with self._head(path, 1 << 16) as head, connect() as con:
            try:
                row = con.execute(f"select Delimiter from sniff_csv({literal(str(head))})").fetchone()
            except duckdb.Error:
                return {}
        usual = "\t" if suffix.lower() == ".tsv" else ","
        return {"delimiter": row[0]} if row and row[0] != usual and row[0] in {";", "|", "\t"} else {}

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return the first rows of a group of files, or of a table."""
        call = discovered.reader
        if call.function in {"sqlite", "duckdb_file"}:
            database: DatabaseDiscovery = file_discovery(str(call.arguments[0]), call.function.partition("_")[0])
            return database.sample(DiscoveredObject(str(call.arguments[1]), "table", call), limits)
        if call.function == "delta_table":
            from pipeline.connectors.tables.delta import delta_table  # noqa: PLC0415 - only here

            return first_rows(delta_table(str(call.arguments[0]), options=dict(self.options)), limits)
        given = cast("dict[str, Any]", dict(call.options))
        reader = files(str(call.arguments[0]), **given)
        first = reader.plan(None).splits[0].source_object
        is_text = discovered.kind.startswith(_TEXT)
        if not is_text or first.size_bytes <= limits.size_bytes:
            return first_rows(reader, limits)
        return self._sample_of_head(reader, first.uri, given, limits)

    def _sample_of_head(self, reader: Files, uri: str, given: dict[str, Any], limits: DiscoveryLimits) -> pa.Table:
        """Return the rows at the beginning of a large text file."""
        if Path(uri).suffix.lower() in COMPRESSED_SUFFIXES:
            raise SourceError(
                "a large compressed file cannot be looked at in part",
                got=uri,
                do=f"allow more bytes (--bytes), now {limits.size_bytes:,}, or look at a smaller file",
            )
        path = uri.removeprefix(self.location.rstrip("/")).lstrip("/")
        with self._head(path if uri.startswith(self.location) else "", limits.size_bytes) as head:
            options = {name: value for name, value in given.items() if name != "options"}
            return first_rows(files(head, format=reader.format, **options), limits)

    @contextmanager
    def _head(self, path: str, size_bytes: int) -> Iterator[Path]:
        """Yield a copy of the beginning of a file, up to the end of a line."""
        location = _joined(self.location, path) if path else self.location
        with scratch.folder("head") as folder:
            head = Path(folder) / Path(location).name
            if is_remote(location):
                client = RemoteClient.of(location, dict(self.options))
                with client.connected() as connection, connection.open(client.path(location), "rb") as file:
                    data = file.read(size_bytes)
            else:
                with Path(location).open("rb") as file:
                    data = file.read(size_bytes)
            is_cut = len(data) == size_bytes and b"\n" in data
            head.write_bytes(data[: data.rfind(b"\n") + 1] if is_cut else data)
            yield head

    def _listed(self) -> list[_ListedFile]:
        try:
            return list(self._remote_files() if is_remote(self.location) else self._local_files())
        except OSError as error:
            problem = "the location cannot be listed"
            raise SourceError(problem, got=message_of(error), place=Place(self.location)) from error

    def _local_files(self) -> Iterator[_ListedFile]:
        root, count = Path(self.location), 0
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(each for each in folders if not each.startswith(".") or each == "_delta_log")
            for name in sorted(each for each in names if not each.startswith(".")):
                path = Path(folder) / name
                count += 1
                if count > _MOST_FILES:
                    return
                yield _ListedFile(path.relative_to(root).as_posix(), path.stat().st_size)

    def _remote_files(self) -> Iterator[_ListedFile]:
        client, count = RemoteClient.of(self.location, dict(self.options)), 0
        root = client.path(self.location).rstrip("/")
        with client.connected() as connection:
            for folder, _, names in connection.walk(root, detail=True):
                for name, details in sorted(names.items()):
                    count += 1
                    if count > _MOST_FILES:
                        return
                    if name:
                        path = f"{folder}/{name}".removeprefix(root).lstrip("/")
                        yield _ListedFile(path, int(details.get("size") or 0))

    def _size(self) -> int:
        return int(files(self.location, options=dict(self.options) or None).source_objects()[0].size_bytes)


def format_of(name: str) -> str | None:
    """Return the format of a data file by its name; `None` for another file."""
    suffixes = [each.lower() for each in Path(name).suffixes]
    while suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1]) if suffixes else None


def _table_root(path: str) -> str | None:
    head, mark, _ = f"/{path}".partition("/_delta_log/")
    return head.lstrip("/") if mark else None


def _pattern(path: str) -> str:
    """Return the pattern of the files that belong together: same folders except partitions, same name except numbers."""
    *folders, name = path.split("/")
    stem, dot, suffix = name.partition(".")
    general = [f"{each.partition('=')[0]}=*" if "=" in each else each for each in folders]
    return "/".join([*general, f"{_CHANGING.sub('*', stem)}{dot}{suffix}"])


def _joined(location: str, path: str) -> str:
    return f"{location.rstrip('/')}/{path}" if path else location


def discoverable(address: SystemAddress) -> Discoverable:
    """Return what looks at a file, a folder or a bucket.

    A file of SQLite or DuckDB is a database, and `*.share` is a profile of Delta Sharing.
    """
    location = address.uri.removeprefix("file://")
    suffix = Path(location).suffix.lower()
    if suffix == _PROFILE:
        from pipeline.connectors.discovery import tables  # noqa: PLC0415 - only here

        return tables.discoverable(SystemAddress(f"delta-sharing://{location}", address.options))
    if not is_remote(location):
        if not Path(location).exists():
            raise SourceError("there is no such file or folder", do="check the path", place=Place(location))
        if suffix in _DATABASES and Path(location).is_file():
            return file_discovery(location, _DATABASES[suffix], address.options.get("table", ""))
    if format_of(location) is not None and not Path(location).is_dir():
        return one_file(SystemAddress(location, address.options))
    options = {name: value for name, value in address.options.items() if name != "table"}
    return FileDiscovery(location, tuple(sorted(options.items())), only=address.options.get("table", ""))


def one_file(address: SystemAddress) -> FileDiscovery:
    """Return what looks at one file."""
    options = {name: value for name, value in address.options.items() if name != "table"}
    return FileDiscovery(address.uri, tuple(sorted(options.items())), is_single=True)
