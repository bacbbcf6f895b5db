"""Iceberg tables as a source: the data files of a snapshot, and those that later snapshots append.

Delivery: each row of an append-only table once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.connectors.tables.iceberg_scan import IcebergFile, appended_files, rows_of, snapshot_files
from pipeline.connectors.tables.names import require_distinct
from pipeline.connectors.tables.reader import TableReader
from pipeline.connectors.tables.store_options import references, resolved
from pipeline.connectors.tables.versions import VersionFiles, VersionProgress, take
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import HeadwaterError, Place, SourceError, SourceUnavailableError, quantity
from pipeline.core.extras import imports_of
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.types import from_arrow

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table
    from pyiceberg.table.snapshots import Snapshot

_SNAPSHOTS_AT_ONCE = 8


@dataclass(frozen=True)
class IcebergLocation:
    """A table of a catalog, or the location of a table or of its metadata file."""

    table: str
    catalog: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """The properties of the catalog and the store; credentials are references."""

    @property
    def place(self) -> Place:
        """The table, for errors."""
        return Place(self.table)

    def load(self) -> Table:
        """Load the metadata of the table; raise `SourceError` if it cannot be read."""
        with imports_of("iceberg", "an Iceberg source"):
            from pyiceberg.table import StaticTable  # noqa: PLC0415 - an extra
        properties = resolved(self.catalog)
        with self.translated_errors("the Iceberg table cannot be loaded"):
            if "type" in properties or "uri" in properties:
                return catalog_of(properties).load_table(self.table)
            return StaticTable.from_metadata(self.table, properties)

    def table_names(self, most: int) -> list[str]:
        """Return the names of the tables of the catalog; of more than `most`, at least as many."""
        problem = "the Iceberg catalog cannot be listed"
        with self.translated_errors(problem), catalog_of(resolved(self.catalog)) as catalog:
            names, namespaces = list[str](), list(catalog.list_namespaces())
            while namespaces and len(names) < most:
                namespace = namespaces.pop(0)
                names += [".".join(each) for each in catalog.list_tables(namespace)]
                inner = catalog.list_namespaces(namespace)
                namespaces += [each for each in inner if len(each) > len(namespace)]
        return names

    @contextmanager
    def translated_errors(self, problem: str) -> Iterator[None]:
        """Translate the errors of catalogs, stores and pyiceberg."""
        try:
            yield
        except HeadwaterError:
            raise
        except Exception as error:  # pyiceberg and the clients of stores have no common type
            kind = SourceUnavailableError if is_unavailable(error) else SourceError
            raise kind(problem, got=self.without_secrets(message_of(error)), place=self.place) from error

    def without_secrets(self, text: str) -> str:
        """Return a text without the values of credentials."""
        for value in resolved(self.catalog, only_secrets=True).values():
            text = text.replace(value, "…")
        return text


@dataclass(frozen=True)
class IcebergReader(TableReader):
    """Reads an Iceberg table. Create it with `iceberg_table`."""

    location: IcebergLocation
    snapshot: int | None = None

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the location of the table is not part of it."""
        return fingerprint("iceberg", self.snapshot)

    def within(self, folder: Path) -> IcebergReader:
        """Return the reader with the relative path of a table resolved against a folder."""
        if self.location.catalog or "://" in self.location.table:
            return self
        return self.replacing(location=replace(self.location, table=str(folder / self.location.table)))

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the data files of the newest snapshot, or those that were appended since the snapshot of a cursor.

        Raises `SourceError` for a table that cannot be read, and for two columns whose names differ only in case.
        """
        table = self.location.load()
        require_distinct(table.schema().column_names, self.location.place, "rename one of them in the table")
        uuid = str(table.metadata.table_uuid)
        newest = self._newest(table, bound)
        progress = None if cursor is None else VersionProgress.of(cursor, "iceberg")
        if newest is None:
            why = "" if progress is None or progress.version < 0 else "the Iceberg table is empty"
            return ReadPlan((), cursor or VersionProgress(uuid, -1).cursor("iceberg"), changed=why)
        lineage = _lineage(table, newest)
        if progress is not None and cursor is not None:
            why = self._why_invalid(progress, uuid, lineage)
            if why:
                return ReadPlan((), cursor, changed=why)
        with self.location.translated_errors("the manifests of the Iceberg table cannot be read"):
            listed = self._listed(table, progress, newest, lineage)
            taken = take(listed, progress or VersionProgress(uuid, newest.snapshot_id, 0), bound)
        splits = tuple(
            SourceSplit(SourceObject(file.path, file.size_bytes, self._stamp(uuid, each, newest.snapshot_id)))
            for each, file in taken.files
        )
        new = quantity(len(splits), "data file") if splits else ""
        return ReadPlan(splits, taken.progress.cursor("iceberg"), new=new, has_more=taken.has_more)

    def _newest(self, table: Table, bound: Bound) -> Snapshot | None:
        if self.snapshot is not None:
            pinned = table.metadata.snapshot_by_id(self.snapshot)
            if pinned is None:
                problem = f"the Iceberg table has no snapshot {self.snapshot}, or no longer has it"
                raise SourceError(problem, do="read another one, or none", place=self.location.place)
            return pinned
        if bound.until is not None:
            return table.snapshot_as_of_timestamp(int(bound.until.timestamp() * 1000))
        return table.current_snapshot()

    def _why_invalid(self, progress: VersionProgress, uuid: str, lineage: Mapping[int, Snapshot]) -> str:
        """Return why the rows that were read are no longer valid; empty if they are."""
        if progress.table != uuid:
            return "the Iceberg table was created again"
        if progress.version < 0:
            return ""
        if progress.version not in lineage:
            return f"the Iceberg table no longer has snapshot {progress.version}, or was rolled back"
        for number, snapshot in _after(lineage, progress.version):
            operation = "" if snapshot.summary is None else snapshot.summary.operation.value
            if operation not in {"append", "replace"}:
                return f"snapshot {number} of the Iceberg table deleted or updated rows ({operation})"
        return ""

    def _listed(
        self, table: Table, progress: VersionProgress | None, newest: Snapshot, lineage: Mapping[int, Snapshot]
    ) -> list[VersionFiles[IcebergFile]]:
        if progress is None or progress.version < 0:
            return [VersionFiles(newest.snapshot_id, snapshot_files(table, newest.snapshot_id), is_snapshot=True)]
        listed = []
        if progress.files is not None:
            files_of = snapshot_files if progress.is_snapshot else appended_files
            files = files_of(table, progress.version)
            listed.append(VersionFiles(progress.version, files, progress.is_snapshot))
        newer = _after(lineage, progress.version)
        with ThreadPoolExecutor(_SNAPSHOTS_AT_ONCE) as pool:
            appended = pool.map(lambda each: appended_files(table, each[0]) if _is_append(each[1]) else (), newer)
            return [*listed, *(VersionFiles(each[0], files) for each, files in zip(newer, appended, strict=True))]

    def _stamp(self, uuid: str, version: VersionFiles[IcebergFile], newest: int) -> str:
        files = "all" if version.is_snapshot else "appended"
        return json.dumps({"table": uuid, "snapshot": version.version, "files": files, "newest": newest})

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns of the table."""
        from pyiceberg.io.pyarrow import schema_to_pyarrow  # noqa: PLC0415 - an extra

        stamp = json.loads(source_object.stamp)
        return from_arrow(schema_to_pyarrow(_loaded(self.location, stamp["table"], stamp["newest"]).schema()))

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a data file that are not deleted, with the columns of the table."""
        uri, stamp = split.source_object.uri, json.loads(split.source_object.stamp)
        with self.location.translated_errors("a data file of the Iceberg table cannot be read"):
            table = _loaded(self.location, stamp["table"], stamp["newest"])
            files = _files(self.location, stamp["table"], stamp["newest"], stamp["snapshot"], stamp["files"])
            if uri not in files:
                problem = "the Iceberg table no longer has a data file that was planned"
                raise SourceError(problem, do="run again", place=Place(uri))
            yield from rows_of(table, files[uri], Place(uri))

    def check(self) -> Sequence[Finding]:
        """Return the newest snapshot; raise `SourceError` if the table cannot be read."""
        newest = self._newest(self.location.load(), UNBOUNDED)
        detail = "empty" if newest is None else f"snapshot {newest.snapshot_id}"
        return (Finding(self.location.table, FindingState.OK, detail),)


def catalog_of(properties: dict[str, str]) -> Catalog:
    """Return the catalog of pyiceberg's properties."""
    with imports_of("iceberg", "an Iceberg catalog"):
        from pyiceberg.catalog import load_catalog  # noqa: PLC0415 - an extra
    return load_catalog(properties.get("name", "default"), **{k: v for k, v in properties.items() if k != "name"})


def _is_append(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and snapshot.summary.operation.value == "append"


def _lineage(table: Table, newest: Snapshot) -> dict[int, Snapshot]:
    """Return a snapshot and those that it was made from, the newest first, as far as the table still has them."""
    lineage: dict[int, Snapshot] = {}
    snapshot: Snapshot | None = newest
    while snapshot is not None:
        lineage[snapshot.snapshot_id] = snapshot
        parent = snapshot.parent_snapshot_id
        snapshot = None if parent is None else table.metadata.snapshot_by_id(parent)
    return lineage


def _after(lineage: Mapping[int, Snapshot], number: int) -> list[tuple[int, Snapshot]]:
    """Return the snapshots after one, the oldest first."""
    newer: list[tuple[int, Snapshot]] = []
    for each, snapshot in lineage.items():
        if each == number:
            break
        newer.insert(0, (each, snapshot))
    return newer


@functools.lru_cache(maxsize=4)
def _loaded(location: IcebergLocation, uuid: str, newest: int) -> Table:
    """Return the table with its columns when `newest` was planned; each process loads it once."""
    table = location.load()
    if str(table.metadata.table_uuid) != uuid:
        raise SourceError("the Iceberg table was created again while it was read", do="run again", place=location.place)
    del newest
    return table


@functools.lru_cache(maxsize=64)
def _files(location: IcebergLocation, uuid: str, newest: int, snapshot: int, files: str) -> Mapping[str, IcebergFile]:
    files_of = snapshot_files if files == "all" else appended_files
    return {file.path: file for file in files_of(_loaded(location, uuid, newest), snapshot)}


def iceberg_table(
    table: str | Path, *, catalog: Mapping[str, str] | None = None, snapshot: int | None = None
) -> IcebergReader:
    """Read an Iceberg table of a catalog, or by its location.

        raw_orders = source(iceberg_table("sales.orders", catalog={"type": "rest", "uri": "https://catalog.example.com"}))

    The first run reads the newest snapshot, or `snapshot` alone. Later runs read the data files that were appended since;
    if rows were deleted or updated, the table is read again. `catalog` are the properties of pyiceberg for the catalog and
    its store, and its `name` if the tables of an SQL catalog have one; credentials are `env:NAME` or `file:PATH`. Without `type` or `uri`, `table` is the location of the table's
    metadata file, or its folder if that has a `version-hint.text`.

    Raises `DefinitionError` for a credential that is written out.
    """
    return IcebergReader(IcebergLocation(str(table), references(catalog or {})), snapshot)
