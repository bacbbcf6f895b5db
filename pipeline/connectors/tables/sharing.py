"""Tables that a provider shares by Delta Sharing, as a source.

Delivery: each row of an append-only table once; with the change data feed, each change once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema as DeltaSchema

from pipeline.connectors.extension_types import require_known_types
from pipeline.connectors.rest.api import api_calls
from pipeline.connectors.tables.conforming import by_name, conformed
from pipeline.connectors.tables.delta_log import CHANGE_COLUMNS, parsed_value
from pipeline.connectors.tables.names import require_distinct
from pipeline.connectors.tables.reader import TableReader
from pipeline.connectors.tables.sharing_protocol import (
    SharedAnswer,
    SharedTable,
    ask,
    ask_again,
    download,
    newest_version,
)
from pipeline.connectors.tables.versions import VersionFiles, VersionProgress, take
from pipeline.core import scratch
from pipeline.core.credentials import is_reference
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, SourceUnavailableError, quantity
from pipeline.core.findings import Finding, FindingState
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.kernel.types import from_arrow

_BATCH_ROWS = 1 << 17
_CHANGES = {"add": "insert", "remove": "delete", "cdf": "recorded", "file": "insert"}


@dataclass(frozen=True)
class SharedFile:
    """A data file of a shared table. Its address is asked for when it is read, because it expires."""

    id: str
    size_bytes: int
    rows: int | None
    values: Mapping[str, str | None]
    version: int
    change: str = ""
    time_ms: int | None = None

    @classmethod
    def of(cls, each: Mapping[str, Any], version: int, *, as_changes: bool) -> SharedFile:
        """Return a file that a server lists."""
        return cls(
            str(each["id"]),
            int(each.get("size") or 0),
            json.loads(each.get("stats") or "{}").get("numRecords"),
            each.get("partitionValues") or {},
            int(each.get("version", version)),
            _CHANGES[str(each["kind"])] if as_changes else "",
            each.get("timestamp"),
        )


@dataclass(frozen=True)
class SharedReader(TableReader):
    """Reads a shared table. Create it with `delta_sharing`."""

    table: SharedTable
    changes: bool = False
    folder: str = field(default=".", compare=False)

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the server is not part of it."""
        return fingerprint("delta sharing", self.table.share, self.table.schema, self.table.table, self.changes)

    @property
    def _place(self) -> Place:
        return Place(self.table.uri)

    def within(self, folder: Path) -> SharedReader:
        """Return the reader with a relative path of its profile resolved against a folder."""
        if is_reference(self.table.profile):
            return self
        return self.replacing(table=replace(self.table, profile=str(folder / self.table.profile)))

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the data files of the newest version, or those that were added since the version of a cursor."""
        newest = newest_version(self.table)
        progress = None if cursor is None else VersionProgress.of(cursor, "delta sharing")
        if progress is not None and cursor is not None:
            if progress.version == newest and progress.files is None:
                return ReadPlan((), cursor)
            if progress.version > newest:
                why = f"version {progress.version} was read, and the newest version is {newest}"
                return ReadPlan((), cursor, changed=why)
        try:
            answer, listed = self._listed(progress, newest)
        except SourceUnavailableError:
            raise
        except SourceError as error:
            if cursor is None or self.changes:
                raise
            why = f"the table has version {newest}, and its provider shares no history of it ({error.got})"
            return ReadPlan((), cursor, changed=why)
        table_id = str(answer.metadata["id"])
        self._require_columns(answer)
        if progress is not None and cursor is not None and progress.table != table_id:
            return ReadPlan((), cursor, changed="the shared table was created again")
        removed = next((each for each in listed if not self.changes and each.version in _removals(answer)), None)
        if removed is not None and cursor is not None:
            return ReadPlan(
                (), cursor, changed=f"version {removed.version} of the shared table deleted or updated rows"
            )
        newest = newest if progress else answer.version  # it may be newer than what was asked before
        taken = take(listed, progress or VersionProgress(table_id, newest, 0), bound)
        splits = tuple(self._split(version, file, f"{table_id} {newest}") for version, file in taken.files)
        after = taken.progress if taken.has_more else replace(taken.progress, version=newest)
        new = f"{quantity(len(splits), 'data file')} up to version {after.version}" if splits else ""
        return ReadPlan(splits, after.cursor("delta sharing"), new=new, has_more=taken.has_more)

    def _listed(
        self, progress: VersionProgress | None, newest: int
    ) -> tuple[SharedAnswer, list[VersionFiles[SharedFile]]]:
        if progress is None:
            answer = ask(self.table, "query")
            return answer, [self._snapshot(answer, answer.version)]
        listed = []
        first = progress.version + (progress.files is None or progress.is_snapshot)
        if progress.is_snapshot and progress.files is not None:
            answer = ask(self.table, "query", version=progress.version)
            listed.append(self._snapshot(answer, progress.version))
            if first > newest:
                return answer, listed  # servers refuse a request that begins after the newest version
        request, options = self._request(first, newest)
        answer = ask(self.table, request, **options)
        files = [SharedFile.of(each, newest, as_changes=self.changes) for each in answer.files]
        for version in sorted({file.version for file in files}):
            own = (file for file in files if file.version == version)
            listed.append(VersionFiles(version, tuple(sorted(own, key=lambda file: (file.change, file.id)))))
        return answer, listed

    def _snapshot(self, answer: SharedAnswer, version: int) -> VersionFiles[SharedFile]:
        files = (SharedFile.of(each, version, as_changes=self.changes) for each in answer.files)
        placed = (replace(file, version=version, time_ms=None) for file in files)
        return VersionFiles(version, tuple(sorted(placed, key=lambda file: file.id)), is_snapshot=True)

    def _request(self, first: int, newest: int) -> tuple[str, dict[str, int]]:
        """Return the request for what was added or changed in some versions."""
        return "changes" if self.changes else "query", {"startingVersion": first, "endingVersion": newest}

    def _require_columns(self, answer: SharedAnswer) -> None:
        columns = self._columns(answer)
        require_distinct(columns.names, self._place, "ask the provider to rename one of them")
        require_known_types(columns, self._place)

    def _split(self, version: VersionFiles[SharedFile], file: SharedFile, planned: str) -> SourceSplit:
        change = f"?{file.change}={file.version}" if file.change else ""
        stamp = json.dumps({**asdict(file), "planned": planned, "is_snapshot": version.is_snapshot})
        return SourceSplit(SourceObject(f"{self.table.uri}/{file.id}{change}", file.size_bytes, stamp))

    def _answer(self, source_object: SourceObject) -> tuple[SharedFile, SharedAnswer]:
        stamp = json.loads(source_object.stamp)
        planned, is_snapshot = stamp.pop("planned"), stamp.pop("is_snapshot")
        file = SharedFile(**stamp)
        if not is_snapshot:
            request, options = self._request(file.version, int(planned.rpartition(" ")[2]))
            return file, ask_again(self.table, planned, request, **options)
        answer = ask_again(self.table, planned, "query")
        if _url(answer, file) is None:
            answer = ask_again(self.table, planned, "query", version=file.version)
        return file, answer

    def _columns(self, answer: SharedAnswer) -> pa.Schema:
        try:
            columns = pa.schema(DeltaSchema.from_json(answer.metadata["schemaString"]).to_arrow())
        except (KeyError, ValueError) as error:
            raise SourceError(
                "the columns of the shared table are not valid", got=str(error), place=self._place
            ) from error
        return pa.schema([*columns, *CHANGE_COLUMNS]) if self.changes else columns

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns of the table."""
        return from_arrow(self._columns(self._answer(source_object)[1]))

    def batches(self, split: SourceSplit) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a data file with the columns of the table."""
        file, answer = self._answer(split.source_object)
        url, schema, place = _url(answer, file), self._columns(answer), Place(split.source_object.uri)
        if url is None:
            raise SourceError("the provider no longer shares a data file", do="run again", place=place)
        constants = _constants(schema, file)
        with scratch.folder("share") as folder, _translated(place):
            parquet = pq.ParquetFile(download(self.table, url, folder), coerce_int96_timestamp_unit="us")
            for batch in parquet.iter_batches(_BATCH_ROWS):
                yield conformed(batch, schema, by_name, constants, place)

    def check(self) -> Sequence[Finding]:
        """Return the version of the table; raise `SourceError` if it is not shared."""
        return (Finding(self.table.uri, FindingState.OK, f"version {newest_version(self.table)}"),)


def _removals(answer: SharedAnswer) -> frozenset[int]:
    return frozenset(int(each["version"]) for each in answer.files if each["kind"] == "remove")


def _url(answer: SharedAnswer, file: SharedFile) -> str | None:
    kinds = {kind for kind, change in _CHANGES.items() if not file.change or change == file.change}
    return next((str(each["url"]) for each in answer.files if each["id"] == file.id and each["kind"] in kinds), None)


def _constants(schema: pa.Schema, file: SharedFile) -> Mapping[str, pa.Scalar]:
    values = {each.name: parsed_value(file.values[each.name], each.type) for each in schema if each.name in file.values}
    if file.change:
        time = None if file.time_ms is None else file.time_ms * 1000
        values["_commit_version"] = pa.scalar(file.version, pa.int64())
        values["_commit_timestamp"] = pa.scalar(time, pa.timestamp("us", "UTC"))
        if file.change != "recorded":
            values["_change_type"] = pa.scalar(file.change, pa.string())
    return values


@contextmanager
def _translated(place: Place) -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise SourceError("a shared data file cannot be read as Parquet", got=str(error), place=place) from error


def delta_sharing(
    profile: str | Path,
    share: str,
    schema: str,
    table: str,
    *,
    changes: bool = False,
    timeout: str | timedelta = "10 minutes",
    most_file_bytes: int = 1 << 30,
    allowed_hosts: tuple[str, ...] = (),
) -> SharedReader:
    """Read a table that a provider shares by Delta Sharing.

        raw_trades = source(delta_sharing("env:MARKET_PROFILE", "market", "public", "trades"))

    `profile` is the profile file that the provider issued, or a reference to its content. The first run reads the newest
    version, later runs the data files that were added since, if the provider shares the history of the table; otherwise, and if
    rows were deleted or updated, the table is read again. With `changes=True`, they read the change data feed, as `delta_table`
    does. `allowed_hosts` are hosts of data files that have private addresses.

    Raises `DefinitionError` for invalid options.
    """
    calls = api_calls(None, timeout, timeout, most_file_bytes, allowed_hosts)
    return SharedReader(SharedTable(str(profile), share, schema, table, calls), changes)
