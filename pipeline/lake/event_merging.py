"""Merges changes whose rows depend on more than the last one of a key: all changes are kept in files beside the table.

The rows of the keys that have new changes are computed again from all changes of these keys, and replace those in the
table. So the result depends only on the set of all changes, not on their order, nor on how they are divided into merges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import duckdb

from pipeline.core.errors import DefinitionError
from pipeline.core.merge_options import END_AT, START_AT, Merge
from pipeline.core.schema import Schema
from pipeline.core.staging import StagedFile
from pipeline.kernel.change_events import ROW, TRUNCATE, EventColumns
from pipeline.kernel.engine import connect, one, schema_of
from pipeline.kernel.scan import no_rows
from pipeline.kernel.sql_text import listed
from pipeline.kernel.types import stored
from pipeline.lake.merge_spec import MergeResult, MergeSpec, merge_connection, require_columns
from pipeline.lake.merging import candidates, conflict_rows, parquet, read_keys, rewrite
from pipeline.lake.stager import DeltaStager

MAX_EVENT_FILES = 8
"""The number of files of changes, beyond which the smaller ones are combined."""
_LARGE_BYTES = 128 << 20


@dataclass(frozen=True)
class EventMergeResult:
    """What to commit, and the columns of the table."""

    merged: MergeResult
    schema: Schema


def merge_events(work: MergeSpec, quarantine: DeltaStager) -> EventMergeResult:
    """Compute the rows of all keys that have new changes, and replace those in the table. Nothing is committed.

    `tombstones` of the result are the files with all changes. A change that has the sequence of another one of its key
    and is another one is staged for the quarantine. Memory is limited by `limits`; larger data spills to disk.

    Raises `DefinitionError` if rows lack a column, or have a reserved name, and `StorageError` if the store fails.
    """
    how = work.how
    if how is None:
        raise ValueError("changes that are merged have a sequence")
    columns = EventColumns(how, work.key, work.schema)
    _require(work, how)
    do = f"check apply_as_deletes={how.apply_as_deletes!r} and apply_as_truncates={how.apply_as_truncates!r}"
    with merge_connection(work, f"the changes of table {work.table.name!r} cannot be applied", do) as con:
        return _Merging(con, work, columns, quarantine).merged()


def target_schema(how: Merge | None, key: tuple[str, ...], rows: Schema) -> Schema:
    """Return the columns of a table for the columns of the rows that are merged into it."""
    if how is None or not how.needs_events:
        return rows
    with connect() as con:
        columns = EventColumns(how, key, rows)
        events = columns.events(f"({no_rows(rows)})")
        return stored(schema_of(con, f"select * exclude (is_new) from ({columns.rows(events)})"))


@dataclass(frozen=True)
class _Merging:
    con: duckdb.DuckDBPyConnection
    work: MergeSpec
    columns: EventColumns
    quarantine: DeltaStager

    @property
    def _known(self) -> tuple[StagedFile, ...]:
        seen = self.work.seen
        return () if seen is None or seen.manifest is None else tuple(seen.manifest.tombstones)

    def merged(self) -> EventMergeResult:
        """Return what to commit."""
        self._collect()
        conflicts, quarantined = self._conflicts()
        self._resolve()
        work, columns = self.work, self.columns
        schema = stored(schema_of(self.con, "select * exclude (is_new) from _result"))
        new, deletes, events = one(
            self.con,
            "select (select count(*) from _result where is_new), count(*) filter (where is_new and e <> 0), "
            "count(*) filter (where is_new) from _events",
        )
        staged = DeltaStager(work.table.storage, f"{work.run_id}-rows", work.table.partition_by)
        names = listed(schema.names)
        files = staged.stage(self.con, f"select {names} from _result", 0)
        kept, removed = self._replaced(replace(work, staged=files, schema=schema))
        work.table.storage.remove([file.path for file in work.staged])
        remembered = self._remembered(columns)
        superseded = int(events) - int(new) - int(deletes) - conflicts
        return EventMergeResult(
            MergeResult(kept, removed, remembered, int(new), superseded, int(deletes), quarantined, conflicts), schema
        )

    def _collect(self) -> None:
        """Create `_events` with the new events and all earlier ones of their keys, and `_rows` with these keys."""
        con, columns = self.con, self.columns
        rows = f"({no_rows(self.work.schema)})"
        if self.work.staged:
            files = parquet([self.work.uri(file) for file in self.work.staged])
            rows = f"({no_rows(self.work.schema)} union all by name from {files})"
        con.execute(f"create temp table _events as {columns.events(rows)}")
        earlier = self._earlier()
        how = self.columns.merge
        everything = how.from_snapshots or one(con, f"select count(*) from _events where e = {TRUNCATE}")[0]
        keys = f"select {columns.keys} from _events where e <> {TRUNCATE}"
        if everything and earlier:
            keys += f" union all select {columns.keys} from {earlier} where e <> {TRUNCATE}"
        con.execute(f"create temp table _rows as select distinct {columns.keys} from ({keys})")
        if earlier:
            again = f"select * from {earlier} semi join _rows using ({columns.keys})"
            truncates = f"select * from {earlier} where e = {TRUNCATE}"
            con.execute(
                f"insert into _events by name select *, false as is_new from ({again} union all by name {truncates})"
            )

    def _earlier(self) -> str:
        """Return the relation of all earlier events; empty if there are none."""
        return self._relation(self._known) if self._known else ""

    def _relation(self, known: Sequence[StagedFile]) -> str:
        """Return the relation of the events in files; columns that they do not have are null."""
        nothing = f"select * exclude (is_new) from ({self.columns.events(f'({no_rows(self.work.schema)})')})"
        files = parquet([self.work.uri(file) for file in known])
        return f"(select {self.columns.all_columns()} from ({nothing} union all by name from {files}))"

    def _conflicts(self) -> tuple[int, tuple[StagedFile, ...]]:
        """Create `_valid` with each event once, and quarantine the others of an equal sequence that are different."""
        con, columns = self.con, self.columns
        same = f"(partition by {columns.keys}, s, e order by {columns.row_text()} desc, is_new, u)"
        con.execute(
            f"create temp table _placed as select *, row_number() over {same} as place, {columns.row_text()} as content, "
            f"first_value({columns.row_text()}) over {same} as winner, first_value(is_new) over {same} as winner_is_new "
            f"from _events where e = {ROW}"
        )
        con.execute(
            f"create temp table _valid as select * exclude (place, content, winner, winner_is_new) from _placed where place = 1 "
            f"union all by name select * from _events where e <> {ROW} "
            f"qualify row_number() over (partition by {columns.keys}, s, e order by is_new) = 1"
        )
        lost = "content <> winner and (is_new or winner_is_new)"
        count, new = one(con, f"select count(*), count(*) filter (where is_new) from _placed where {lost}")
        if not count:
            return 0, ()
        losers = (
            f"(select {columns.row_json()} as json, null::varchar as source, null::bigint as position "
            f"from _placed where {lost})"
        )
        return int(new), self.quarantine.stage(con, conflict_rows(self.work.run_id, losers), 0)

    def _resolve(self) -> None:
        """Create `_result` with the rows of the affected keys."""
        self.con.execute(f"create temp table _result as {self.columns.resolved('select * from _valid')}")

    def _replaced(self, work: MergeSpec) -> tuple[tuple[StagedFile, ...], frozenset[str]]:
        """Remove the rows of the affected keys from the table."""
        con = self.con
        old = [] if work.seen is None else candidates(con, work, work.seen)
        uris = [*(work.uri(file) for file in work.staged), *old]
        con.execute("create temp table _removed_rows (file bigint, row bigint, is_delete boolean)")
        if old:
            con.execute(
                f"insert into _removed_rows select file, row, false from ({read_keys(work, old, len(work.staged))}) "
                f"semi join _rows using ({work.key_columns})"
            )
        return rewrite(con, work, uris)

    def _remembered(self, columns: EventColumns) -> tuple[StagedFile, ...]:
        """Write the new events; combine small files of events if there are too many."""
        known, every = self._known, columns.all_columns()
        rows = f"select {every} from _events where is_new"
        if not one(self.con, f"select count(*) from ({rows})")[0]:
            return known
        if len(known) + 1 > MAX_EVENT_FILES:
            small = [file for file in known if file.size_bytes < _LARGE_BYTES]
            combined = small if len(small) > MAX_EVENT_FILES // 2 or not columns.forgets else list(known)
            if combined:
                rows = columns.needed(f"{rows} union all by name select * from {self._relation(combined)}")
                known = tuple(file for file in known if file not in combined)
        stager = DeltaStager(self.work.table.storage.at("_headwater"), f"{self.work.run_id}-events")
        written = stager.stage(self.con, f"select * from ({rows}) order by {columns.keys}", 0)
        return (*known, *(StagedFile(f"_headwater/{f.path}", f.size_bytes, f.rows, {}, "") for f in written))


def _require(work: MergeSpec, how: Merge) -> None:
    named = (*how.stored.names, *how.ignored_nulls.names, *how.tracked.names)
    extra = () if how.unavailable is None else (how.unavailable,)
    require_columns(work, dict.fromkeys((*work.key, *how.sequence_by, *extra, *named)))
    for name in work.schema.names:
        if how.scd_type == 2 and name.upper() in {START_AT, END_AT}:  # noqa: PLR2004 - the standard number of the type
            raise DefinitionError(
                f"table {work.table.name!r} has history and a column {name!r}, which is a reserved name",
                do="rename the column",
            )
