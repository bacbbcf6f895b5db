"""Source tasks: read ranges of a log, reject invalid and late rows, and prepare the other rows for the operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

from pipeline.batch.validating_pass import REJECTED
from pipeline.batch.work import InputQuery, RowProducer, Split
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.functions import FunctionTransform
from pipeline.core.sources import POSITION, SOURCE, ReadyOffsets, Tail
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import arrow, connect, first_line, one
from pipeline.kernel.frames import call
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import literal, quoted, unused_name
from pipeline.kernel.types import as_stored
from pipeline.streaming.operators.operator import Prepared
from pipeline.streaming.operators.shard import rows_by_shard
from pipeline.streaming.planning.inputs import StreamInput

if TYPE_CHECKING:
    import fsspec

_BLOCK = "_taken_rows"
REJECTS_QUERY = (
    "select null::varchar as reasons, null::varchar as _source, null::bigint as _position, null::varchar as row"
)
"""The columns of rejected rows."""
NO_TIME, AHEAD = "no event time", "too far ahead of the clock"


@dataclass(frozen=True)
class SourceBatch:
    """The rows of one input that one source task read in a micro-batch."""

    name: str
    rows_in: int
    bytes_in: int
    latest: Mapping[str, int] = field(default_factory=dict)
    """The latest event time of each partition that had rows."""
    rejected: int = 0
    late: int = 0
    ahead: int = 0
    """Rows without an event time, or with one too far in the future."""
    quarantined: pa.Table | None = None
    discarded: Mapping[str, int] = field(default_factory=dict)
    """The number of values that were replaced by null, by column."""
    ready: Sequence[pa.Table] = ()
    """The prepared rows of each shard; for a stream without state, one table with its output."""


@dataclass(frozen=True)
class SourceRequest:
    """What a source task must read in a micro-batch, and how it prepares the rows."""

    source_splits: Mapping[str, tuple[SourceSplit, ...]]
    """By input."""
    prepared: Mapping[str, Prepared]
    shards: int
    now: int
    """Microseconds since 1970."""


@dataclass(frozen=True)
class SourceTaskConfig:
    """The configuration of a source task: the inputs, the looked-up tables, and its limits."""

    inputs: tuple[StreamInput, ...]
    lookups: Mapping[str, Scan] = field(default_factory=dict)
    limits: Limits = field(default_factory=lambda: Limits(threads=1))
    filesystem: fsspec.AbstractFileSystem | None = None
    has_state: bool = True
    function: FunctionTransform | None = None
    """The function that computes the rows of a block, for a stream without a statement."""
    place: Place = field(default_factory=lambda: Place(""))


class SourceTask:
    """A worker that reads some partitions of the inputs, with a single-threaded DuckDB instance."""

    def __init__(self, config: SourceTaskConfig, offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Open the tails of the partitions at their offsets, by input; raise `SourceError` for a deleted offset."""
        self._stack, self._open_tails = ExitStack(), ExitStack()
        self._config = config
        self._inputs = {stream_input.name: stream_input for stream_input in config.inputs}
        self._lookups: Mapping[str, Scan] = {}
        self._tails: dict[str, Tail] = {}
        with ExitStack() as opening:
            self._con = opening.enter_context(connect(config.limits, filesystem=config.filesystem, keep=False))
            opening.callback(self._close_tails)
            self.add(offsets)
            self.update_lookups(config.lookups)
            self._stack = opening.pop_all()

    def read_from(self, offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Read from other offsets, and possibly other partitions, instead; raise `SourceError` for a deleted offset."""
        self._close_tails()
        self.add(offsets)

    def _close_tails(self) -> None:
        self._open_tails.close()
        self._open_tails, self._tails = ExitStack(), {}

    def close(self) -> None:
        """Stop reading."""
        self._stack.close()

    def update_lookups(self, lookups: Mapping[str, Scan]) -> None:
        """Use other versions of the looked-up tables."""
        changed = {name: scan for name, scan in lookups.items() if self._lookups.get(name) != scan}
        for name, scan in changed.items():
            self._con.execute(f"drop table if exists {quoted(f'_held_{name}')}")
            self._con.execute(f"create temp table {quoted(f'_held_{name}')} as {scan.query()}")
            self._con.execute(f"create or replace temp view {quoted(name)} as from {quoted(f'_held_{name}')}")
        self._lookups = {**self._lookups, **changed}

    def add(self, offsets: Mapping[str, Mapping[str, int]]) -> None:
        """Add partitions, by input."""
        for name, partition_offsets in offsets.items():
            if name in self._tails:
                self._tails[name].add(partition_offsets)
            else:
                self._tails[name] = self._open_tails.enter_context(self._inputs[name].log.tail(partition_offsets))

    def ready(self, timeout_s: float) -> dict[str, ReadyOffsets]:
        """Return the ready offsets of each input; wait up to `timeout_s` if no input has any."""
        ready_offsets = {name: tail.ready(0) for name, tail in self._tails.items()}
        if any(ready.rows for ready in ready_offsets.values()) or not ready_offsets or timeout_s <= 0:
            return ready_offsets
        share = timeout_s / len(self._tails)
        return {name: tail.ready(share) for name, tail in self._tails.items()}

    def take(self, request: SourceRequest) -> list[SourceBatch]:
        """Read the splits of each input and prepare their rows."""
        try:
            return [
                self._take(self._inputs[name], source_splits, request)
                for name, source_splits in request.source_splits.items()
                if source_splits
            ]
        except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as error:
            ranges = ", ".join(
                str(source_split) for source_splits in request.source_splits.values() for source_split in source_splits
            )
            raise DefinitionError(
                "a row cannot be converted as the definition requires",
                got=first_line(error),
                do=f"check {ranges}: declare another type, or use try_cast",
                place=self._config.place,
            ) from error

    def _take(
        self, stream_input: StreamInput, source_splits: tuple[SourceSplit, ...], request: SourceRequest
    ) -> SourceBatch:
        at = datetime.fromtimestamp(request.now / 1e6, UTC).isoformat()
        producer = stream_input.producer(self._tails[stream_input.name].reader(source_splits), at)
        split = Split(0, source_splits=source_splits)
        input_query = self._read(stream_input, producer, split)
        prepared = request.prepared[stream_input.name]
        taken = self._classify(stream_input, prepared, request, input_query)
        has_rejects = taken.late or taken.ahead
        why = _reason_column(stream_input)
        rows = f"select * exclude ({why}) from {_BLOCK} where {why} is null" if has_rejects else f"from {_BLOCK}"
        self._con.execute(f"create or replace temp view {quoted(stream_input.name)} as {rows}")
        return replace(taken, discarded=input_query.discarded, ready=self._ready(prepared, request.shards))

    def _read(self, stream_input: StreamInput, producer: RowProducer, split: Split) -> InputQuery:
        """Load the rows of a split into `_taken_rows` by the fast path, or by the validating pass if a row is invalid."""
        columns = ", ".join(map(quoted, stream_input.read_columns))
        self._con.execute(f"drop table if exists {REJECTED}; drop table if exists _read_rows")
        with producer.for_fast_path(self._con, split) as input_query:
            if input_query is not None and not input_query.rejected and self._has_no_rejects(input_query, columns):
                return input_query
        self._con.execute(f"drop table if exists {REJECTED}; drop table if exists _read_rows")
        with producer.for_validation(self._con, split) as input_query:
            self._con.execute(f"create or replace temp table {_BLOCK} as select {columns} from ({input_query.query})")
            return input_query

    def _has_no_rejects(self, input_query: InputQuery, columns: str) -> bool:
        try:
            rows = one(
                self._con, f"create or replace temp table {_BLOCK} as select {columns} from ({input_query.query})"
            )[0]
            return rows == input_query.rows_in and not any(
                one(self._con, errors)[0] for errors in input_query.error_queries
            )
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise
        except duckdb.Error:
            return False

    def _classify(
        self, stream_input: StreamInput, prepared: Prepared, request: SourceRequest, input_query: InputQuery
    ) -> SourceBatch:
        """Classify the rows of a split: find late and invalid rows, and the latest event time of the others."""
        if stream_input.time is None:
            rejected = [f"select reasons, _source, _position, row from {REJECTED}"] if input_query.rejected else []
            return SourceBatch(
                stream_input.name,
                input_query.rows_in,
                input_query.bytes_in,
                {},
                input_query.rejected,
                quarantined=self._quarantined(rejected),
            )
        time = quoted(stream_input.time.column)
        bound = request.now + int(stream_input.time.ahead.total_seconds() * 1e6)
        ahead = f"coalesce(epoch_us({time}) > {bound}, false)"
        late, partly = (f"coalesce({c}, false)" if c else "false" for c in (prepared.late, prepared.partly_late))
        bad = f"({time} is null or {ahead})"
        stats = self._con.execute(
            f"select {stream_input.partition}, max(epoch_us({time})) filter (not {ahead}), "
            f"count(*) filter ({bad}), count(*) filter (not {bad} and {late}), "
            f"count(*) filter (not {bad} and not {late} and {partly}) from {_BLOCK} group by 1"
        ).fetchall()
        invalid, too_late, partly_late_rows = (sum(int(row[n]) for row in stats) for n in (2, 3, 4))
        latest = {str(row[0]): int(row[1]) for row in stats if row[1] is not None}
        quarantined, why = [], _reason_column(stream_input)
        if invalid or too_late:
            cases = [f"when {time} is null then {literal(NO_TIME)}", f"when {ahead} then {literal(AHEAD)}"]
            cases += [f"when {late} then {literal(prepared.late_reason or 'late')}"] if prepared.late else []
            self._con.execute(
                f"create or replace temp table {_BLOCK} as select *, case {' '.join(cases)} end as {why} from {_BLOCK}"
            )
            shown = ", ".join(f"{quoted(n)} := {quoted(n)}" for n in stream_input.read_columns)
            quarantined.append(
                f"select {why}, {SOURCE}::varchar, {POSITION}::bigint, to_json(struct_pack({shown}))::varchar "
                f"from {_BLOCK} where {why} is not null"
            )
        if partly_late_rows:
            quarantined.append(self._notes(stream_input, prepared, has_why=bool(quarantined)))
        if input_query.rejected:
            quarantined.append(f"select reasons, _source, _position, row from {REJECTED}")
        return SourceBatch(
            stream_input.name,
            input_query.rows_in,
            input_query.bytes_in,
            latest,
            input_query.rejected,
            too_late,
            invalid,
            self._quarantined(quarantined),
        )

    def _quarantined(self, selects: Sequence[str]) -> pa.Table | None:
        """Return the rows of some SELECTs of quarantined rows; `None` without any."""
        if not selects:
            return None
        return arrow(self._con, " union all ".join([f"{REJECTS_QUERY} where false", *selects]))

    def _notes(self, stream_input: StreamInput, prepared: Prepared, *, has_why: bool) -> str:
        """Return a SELECT of the notes about rows that are too late for some of their windows."""
        shown = ", ".join(f"{quoted(n)} := {quoted(n)}" for n in stream_input.read_columns)
        counts = f"{_reason_column(stream_input)} is null and " if has_why else ""
        return (
            f"select {literal(prepared.note)}, {SOURCE}::varchar, {POSITION}::bigint, "
            f"to_json(struct_pack({shown}))::varchar from {_BLOCK} where {counts}coalesce({prepared.partly_late}, false)"
        )

    def _ready(self, prepared: Prepared, shards: int) -> list[pa.Table]:
        if self._config.function is not None:
            blocks = {name: arrow(self._con, f"from {quoted(name)}") for name in self._config.function.inputs}
            return [call(self._config.function, blocks, self._config.place)]
        if not self._config.has_state:
            return [arrow(self._con, as_stored(self._con, prepared.select))]
        return rows_by_shard(self._con, prepared, shards)


def _reason_column(stream_input: StreamInput) -> str:
    """Return the name of the column with the reason for rejecting a row; it differs from all columns of the input."""
    return unused_name("_why", stream_input.read_columns)
