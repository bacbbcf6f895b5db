"""The log of a Delta table: the data files of a version, and those that commits after it added and removed."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from deltalake.fs import DeltaStorageHandler

from pipeline.connectors.extension_types import require_known_types
from pipeline.connectors.tables.store_options import resolved
from pipeline.core.clients import is_unavailable, message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError

PHYSICAL_NAME, COLUMN_ID = b"delta.columnMapping.physicalName", b"delta.columnMapping.id"
CHANGE_FEED = "delta.enableChangeDataFeed"
CHANGE_COLUMNS = pa.schema(
    [
        ("_change_type", pa.string()),
        ("_commit_version", pa.int64()),
        ("_commit_timestamp", pa.timestamp("us", "UTC")),
    ]
)
_READABLE = frozenset({"columnMapping", "deletionVectors", "timestampNtz", "typeWidening", "typeWidening-preview"})
_READABLE_LOG = frozenset({"v2Checkpoint", "vacuumProtocolCheck", "inCommitTimestamp"})
_BACKTRACE = re.compile(r" (?:stack backtrace|0): ")
_COMMITS_AT_ONCE = 16
Commit = Sequence[Mapping[str, Any]]
"""The actions of a commit."""
Change = Literal["", "insert", "delete", "recorded"]


@dataclass(frozen=True)
class DeltaLocation:
    """Where a table is, with the options of its store; credentials are references."""

    uri: str
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def place(self) -> Place:
        """The location, for errors."""
        return Place(self.uri)

    def open(self, version: int | None = None) -> DeltaTable:
        """Open a version of the table, by default the newest.

        Raises `SourceError` if there is none, and if it has a feature or a type that cannot be read.
        """
        with self.translated_errors("the Delta table cannot be read"):
            if "://" not in self.uri and not (Path(self.uri) / "_delta_log").is_dir():
                raise SourceError("there is no Delta table", do="check the location", place=self.place)
            try:
                table = DeltaTable(self.uri, version=version, storage_options=self._resolved() or None)
            except TableNotFoundError as error:
                raise SourceError("there is no Delta table", do="check the location", place=self.place) from error
            except DeltaError as error:
                if version is None or self.commit(version) is not None:
                    raise
                raise SourceError(
                    f"the Delta table has no version {version}, or no longer has it",
                    do="read the newest version: headwater run --full",
                    place=self.place,
                ) from error
            _require_readable(table, self.place)
        return table

    def filesystem(self) -> pa_fs.FileSystem:
        """Return the files below the table."""
        if "://" not in self.uri:
            return pa_fs.SubTreeFileSystem(self.uri, pa_fs.LocalFileSystem(use_mmap=True))
        return pa_fs.PyFileSystem(DeltaStorageHandler(self.uri, self._resolved()))

    def commit(self, version: int) -> Commit | None:
        """Return the actions of a commit; `None` if the log no longer has it."""
        with self.translated_errors("the log of the Delta table cannot be read"):
            try:
                with self.filesystem().open_input_stream(f"_delta_log/{version:020}.json") as file:
                    text = file.read()
            except FileNotFoundError:
                return None
        return [json.loads(line) for line in text.splitlines() if line.strip()]

    def commits(self, versions: Iterable[int]) -> dict[int, Commit | None]:
        """Return the actions of commits by their version, in order; `None` for one that the log no longer has."""
        numbers = list(versions)
        with ThreadPoolExecutor(_COMMITS_AT_ONCE) as pool:
            return dict(zip(numbers, pool.map(self.commit, numbers), strict=True))

    @contextmanager
    def translated_errors(self, problem: str) -> Iterator[None]:
        """Translate the errors of the store and of delta-rs."""
        try:
            yield
        except SourceError:
            raise
        except (DeltaError, OSError, ValueError, pa.ArrowException) as error:
            kind = SourceUnavailableError if "://" in self.uri and is_unavailable(error) else SourceError
            text = _BACKTRACE.split(message_of(error))[0]
            raise kind(problem, got=text, place=self.place) from error

    def _resolved(self) -> dict[str, str]:
        return resolved(self.options)


def _require_readable(table: DeltaTable, place: Place) -> None:
    unknown = sorted(set(table.protocol().reader_features or ()) - _READABLE - _READABLE_LOG)
    if unknown:
        raise SourceError(
            "the Delta table has features that cannot be read",
            got=", ".join(unknown),
            do="remove them (ALTER TABLE … DROP FEATURE), or read a copy of the table without them",
            place=place,
        )
    require_known_types(arrow_schema_of(table), place)


@dataclass(frozen=True)
class DataFileRead:
    """The rows of a data file to read: those alive at one version, without those alive at another."""

    path: str
    """Below the table."""
    size_bytes: int
    rows: int | None
    values: Mapping[str, str | None]
    """The partition values as in the log, by the physical names of the columns."""
    commit: int
    change: Change = ""
    """For the change data feed: what happened to the rows; with `recorded`, the file says it for each row."""
    time_ms: int | None = None
    alive_at: int | None = None
    """The version whose deletion vector applies; `None` for all rows."""
    not_alive_at: int | None = None

    def stamp(self, table_id: str, version: int) -> str:
        """Return the text that identifies the rows, with the table and the version whose columns they have."""
        return json.dumps({**asdict(self), "table": table_id, "version": version})

    @classmethod
    def of(cls, stamp: str) -> tuple[DataFileRead, str, int]:
        """Return what `stamp` was called with."""
        value = json.loads(stamp)
        table, version = value.pop("table"), value.pop("version")
        return cls(**value), table, version


def files_of_version(table: DeltaTable, *, as_changes: bool, time_ms: int | None) -> tuple[DataFileRead, ...]:
    """Return the data files of a version, ordered by path."""
    physical = {each.name: physical_name(each) for each in arrow_schema_of(table)}
    actions = pa.RecordBatchReader.from_stream(table.get_add_actions()).read_all()
    has_vectors = _has_vectors(table)
    reads = [
        DataFileRead(
            _relative(action["path"], Place(table.table_uri)),
            int(action["size_bytes"]),
            action["num_records"],
            {physical[name]: text for name, text in values.items()},
            table.version(),
            "insert" if as_changes else "",
            time_ms,
            table.version() if has_vectors else None,
        )
        for action, values in zip(actions.to_pylist(), _partition_texts(actions), strict=True)
    ]
    return tuple(sorted(reads, key=lambda read: read.path))


def _partition_texts(actions: pa.Table) -> list[dict[str, str | None]]:
    if "partition" not in actions.column_names:
        return [{}] * actions.num_rows
    struct = actions.column("partition").combine_chunks()
    columns = {each.name: struct.field(n).cast(pa.string()).to_pylist() for n, each in enumerate(struct.type)}
    return [{name: texts[row] for name, texts in columns.items()} for row in range(actions.num_rows)]


def added_by(commit: Commit, version: int, place: Place) -> tuple[DataFileRead, ...]:
    """Return the data files that a commit added, ordered by path."""
    adds = [action["add"] for action in commit if "add" in action and action["add"].get("dataChange", True)]
    reads = [_read(add, version, place) for add in adds]
    return tuple(
        sorted(
            (
                replace(read, alive_at=version if add.get("deletionVector") else None)
                for add, read in zip(adds, reads, strict=True)
            ),
            key=lambda read: read.path,
        )
    )


def removes_rows(commit: Commit) -> bool:
    """Return whether a commit deleted or updated rows."""
    return any("remove" in action and action["remove"].get("dataChange", True) for action in commit)


def changes_by(commit: Commit, version: int, place: Place) -> tuple[DataFileRead, ...]:
    """Return the data files with the changes of a commit: those it recorded, otherwise those it removed and added."""
    time_ms = commit_time_ms(commit)
    recorded = [action["cdc"] for action in commit if "cdc" in action]
    if recorded:
        reads = [replace(_read(each, version, place), change="recorded", time_ms=time_ms) for each in recorded]
        return tuple(sorted(reads, key=lambda read: read.path))
    removed = _by_path(commit, "remove", version, place)
    added = _by_path(commit, "add", version, place)
    deletes = [
        replace(
            read,
            change="delete",
            time_ms=time_ms,
            alive_at=version - 1 if has_vector else None,
            not_alive_at=version if path in added else None,
        )
        for path, (read, has_vector) in removed.items()
    ]
    inserts = [
        replace(
            read,
            change="insert",
            time_ms=time_ms,
            alive_at=version if has_vector else None,
            not_alive_at=version - 1 if path in removed else None,
        )
        for path, (read, has_vector) in added.items()
    ]
    return tuple(sorted([*deletes, *inserts], key=lambda read: (read.change, read.path)))


def _by_path(commit: Commit, kind: str, version: int, place: Place) -> dict[str, tuple[DataFileRead, bool]]:
    actions = [action[kind] for action in commit if kind in action and action[kind].get("dataChange", True)]
    reads = [_read(action, version, place) for action in actions]
    return {read.path: (read, bool(action.get("deletionVector"))) for action, read in zip(actions, reads, strict=True)}


def _read(action: Mapping[str, Any], version: int, place: Place) -> DataFileRead:
    rows = json.loads(action.get("stats") or "{}").get("numRecords")
    values = action.get("partitionValues") or {}
    return DataFileRead(_relative(action["path"], place), int(action.get("size") or 0), rows, values, version)


def _relative(path: str, place: Place) -> str:
    """Return the path of a data file below the table; it is encoded in the log."""
    plain = unquote(path)
    if "://" in plain or plain.startswith("/"):
        raise SourceError(
            "the Delta table has data files of another table",
            got=plain,
            do="read the other table: a shallow clone cannot be read",
            place=place,
        )
    return plain


def commit_time_ms(commit: Commit) -> int | None:
    """Return when a commit was made, if it says so."""
    info: Mapping[str, Any] = next((action["commitInfo"] for action in commit if "commitInfo" in action), {})
    time_ms = info.get("inCommitTimestamp", info.get("timestamp"))
    return None if time_ms is None else int(time_ms)


def turns_feed_off(commit: Commit) -> bool:
    """Return whether the change data feed is off after a commit that changes the properties of the table."""
    properties = [action["metaData"].get("configuration", {}) for action in commit if "metaData" in action]
    return any(each.get(CHANGE_FEED, "false").lower() != "true" for each in properties)


def arrow_schema_of(table: DeltaTable) -> pa.Schema:
    """Return the columns of a table; the metadata of a field has its physical name, if it has one."""
    return pa.schema(table.schema().to_arrow())


def physical_name(column: pa.Field) -> str:
    """Return the name of a column in data files and in the log."""
    return str((column.metadata or {}).get(PHYSICAL_NAME, column.name.encode()).decode())


def _has_vectors(table: DeltaTable) -> bool:
    return "deletionVectors" in (table.protocol().reader_features or ())


@functools.lru_cache(maxsize=4)
def opened(location: DeltaLocation, table_id: str, version: int) -> DeltaTable:
    """Return a version of a table, which is opened once by each process."""
    table = location.open(version)
    if str(table.metadata().id) != table_id:
        raise SourceError("the Delta table was created again while it was read", do="run again", place=location.place)
    return table


@functools.lru_cache(maxsize=4)
def alive_rows(location: DeltaLocation, table_id: str, version: int) -> Mapping[str, pa.Array]:
    """Return for each data file with a deletion vector, by its path in the table, whether each row is alive."""
    table = opened(location, table_id, version)
    with location.translated_errors("the deletion vectors of the Delta table cannot be read"):
        vectors = pa.RecordBatchReader.from_stream(table.deletion_vectors()).read_all()
    root = f"{unquote(table.table_uri).removeprefix('file://').rstrip('/')}/"
    alive = {}
    for uri, row in zip(vectors.column("filepath").to_pylist(), range(vectors.num_rows), strict=True):
        path = unquote(uri).removeprefix("file://")
        if not path.startswith(root):
            problem = "a deletion vector belongs to a file outside the Delta table"
            raise SourceError(problem, got=path, do="copy the table as a whole", place=location.place)
        alive[path.removeprefix(root)] = pa.array(vectors.column("selection_vector")[row].values)
    return alive


def parsed_value(text: str | None, kind: pa.DataType) -> pa.Scalar:
    """Return a partition value; the empty text is null, and a time without an offset is in UTC."""
    if text and pa.types.is_timestamp(kind) and kind.tz is not None and not re.search(r"(Z|[+-]\d\d:?\d\d)$", text):
        text += "Z"
    return pa.scalar(text or None, pa.string()).cast(kind)
