"""Row producers for each kind of definition: source splits, a SQL statement, a function of frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa

from pipeline.batch.misfits import Misfits, misfits_set_aside
from pipeline.batch.type_changes import TypeRule
from pipeline.batch.validating_pass import REJECTED, REJECTED_COLUMNS
from pipeline.batch.work import STOP, InputQuery, SharedRead, Split
from pipeline.core.definitions import LogTransform, Transform
from pipeline.core.errors import DefinitionError, Place, SchemaError, SourceError, SplitError
from pipeline.core.event_time import EventTime
from pipeline.core.functions import FunctionTransform
from pipeline.core.schema import Schema, compare
from pipeline.core.sources import (
    INGESTED_AT,
    MISFIT,
    POSITION,
    SOURCE,
    Scannable,
    ScannableTogether,
    ScanQuery,
    SplitReader,
)
from pipeline.core.splits import SourceSplit
from pipeline.kernel.engine import arrow, empty, expect_columns, one
from pipeline.kernel.frames import call
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql_text import listed, literal, quoted, unused_name
from pipeline.kernel.types import from_arrow

BLOCK_BYTES = 128 << 20
"""The size of the files in one block of a function."""
TOGETHER_FILES = 2000
TOGETHER_BYTES = 64 << 20
"""The maximum number and total size of small files in one scan; more files make the statement longer."""
_ROWS = "_rows"
_READ = "_read_rows"


@dataclass(frozen=True)
class SourceProducer:
    """Produces the rows of source splits, with their provenance."""

    reader: SplitReader
    schema: Schema
    at: str
    may_skip: bool = False
    """Whether a split that cannot be read is quarantined after a retry."""
    event_time: EventTime | None = None
    """The event time of the source, which may be converted from a number."""
    shared: SharedRead | None = None
    """The rows that this run has already read for several tables."""
    types: TypeRule | None = None
    """What happens to values that the type of their column cannot represent; `None`: their rows are quarantined."""

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Read the source splits in order, and collect rejected rows separately."""
        discarded: Counter[str] = Counter()
        expect_columns(con, len(self.schema.columns))
        con.register("_none", empty(con, self.all_columns))
        con.execute(f"create temp table {_READ} as from _none")
        for block in self.blocks(con, split, discarded):
            con.register("_block", block)
            con.execute(f"insert into {_READ} from _block")
            con.unregister("_block")
        good, bad = (one(con, f"select count(*) from {name}")[0] for name in (_READ, REJECTED))
        yield InputQuery(
            f"select * from {_READ}",
            rows_in=good + bad,
            bytes_in=split.size_bytes,
            rejected=bad,
            discarded=dict(discarded),
        )

    def blocks(self, con: duckdb.DuckDBPyConnection, split: Split, discarded: Counter[str]) -> Iterator[pa.Table]:
        """Yield the rows of the source splits with their provenance, and insert rejected rows into `_rejected`.

        The number of values that are replaced by null is added to `discarded`, by column.

        Several splits are scanned, small ones together. If a scan is not valid, the invalid splits are located by
        bisection, and only these are read.
        """
        con.execute(f"create temp table {REJECTED} {REJECTED_COLUMNS}")
        if split.crashes_workers:
            for source_split in split.source_splits:
                _reject(con, source_split, "unreadable: workers that read it crash")
            yield empty(con, self.all_columns)
            return
        shared = self._shared(split)
        if shared is not None:
            for file in shared.files:
                yield arrow(con, self._over_shared(replace(shared, files=(file,)), split).query)
            if not shared.files:
                yield empty(con, self.all_columns)
            return
        waiting = [list(source_splits) for source_splits in reversed(self.groups(split.source_splits))]
        while waiting:
            source_splits = waiting.pop()
            rows = self._scanned(con, source_splits) if len(split.source_splits) > 1 else None
            if rows is not None:
                yield rows
            elif len(source_splits) > 1:
                waiting += [source_splits[len(source_splits) // 2 :], source_splits[: len(source_splits) // 2]]
            else:
                yield from self._read(con, source_splits[0], split, discarded)

    def _scanned(self, con: duckdb.DuckDBPyConnection, source_splits: Sequence[SourceSplit]) -> pa.Table | None:
        """Return the rows of source splits that are scanned together, or `None` if the scan is not valid."""
        if not isinstance(self.reader, Scannable):
            return None
        try:
            with self._scan_of(con, source_splits) as scan:
                if scan is None:
                    return None
                rows = arrow(con, scan.query)
                return None if rows.num_rows != scan.rows or one(con, scan.error_query)[0] else rows
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise
        except (duckdb.Error, SourceError, SchemaError):
            return None  # reading the invalid split separately raises its error

    def _read(
        self, con: duckdb.DuckDBPyConnection, source_split: SourceSplit, split: Split, discarded: Counter[str]
    ) -> Iterator[pa.Table]:
        """Yield the rows of a source split, and insert rejected rows into `_rejected`."""
        try:
            reading = self.reader.read(source_split, self._contract)
        except SplitError:
            raise
        except SourceError as error:
            if not (self.may_skip and split.is_last_try):
                raise _unreadable(source_split, error) from error
            _reject(con, source_split, f"unreadable: {error.problem}")
            return
        if self.types is not None:
            kept = self.types.applied(reading, self._contract, source_split.source_object.uri)
            reading = kept.reading
            discarded.update(kept.discarded)
        con.register("_read", reading.rows)
        con.register("_bad", reading.rejected)
        source = literal(source_split.source_object.uri)
        con.execute(f"insert into {REJECTED} select reason, {source}, {POSITION}, row from _bad")
        if self._has_no_time is not None:
            con.execute(
                f"insert into {REJECTED} select {literal(f'not a time: {self.event_time}')}, {source}, {POSITION}, "
                f"to_json(struct_pack({listed(self.schema.names)}))::varchar from _read where {self._has_no_time}"
            )
        where = "" if self._has_no_time is None else f" where not {self._has_no_time}"
        yield arrow(con, f"select {self._columns(source)} from _read{where}")
        con.unregister("_read")
        con.unregister("_bad")

    @contextmanager
    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery | None]:
        """Return one query over all source splits, if each can be scanned; small ones are scanned together."""
        if split.is_last_try or not isinstance(self.reader, Scannable):
            yield None
            return
        shared = self._shared(split)
        if shared is not None:
            yield self._over_shared(shared, split)
            return
        expect_columns(con, len(self.schema.columns))
        groups = self.groups(split.source_splits)
        with ExitStack() as stack:
            misfits = stack.enter_context(misfits_set_aside(con))
            opened = [stack.enter_context(self._scan_of(con, group, misfits)) for group in groups]
            scans = [scan for scan in opened if scan is not None]
            if len(scans) < len(opened) or not scans:
                yield None
                return
            rows = sum(scan.rows for scan in scans)
            yield InputQuery(
                " union all ".join(scan.query for scan in scans),
                rows_in=rows,
                bytes_in=split.size_bytes,
                error_queries=tuple(dict.fromkeys(scan.error_query for scan in scans)),
                scanned=rows,
                schema=self.all_columns,
                again=False,
                misfits=misfits,
            )

    def _shared(self, split: Split) -> Scan | None:
        return None if self.shared is None or split.is_last_try else self.shared.scan(split.source_splits)

    def _over_shared(self, shared: Scan, split: Split) -> InputQuery:
        """Return the query of a shared read; columns that the statement does not use are null."""
        kinds = shared.schema.as_dict()
        columns = (
            quoted(c.name) if kinds.get(c.name) == c.type else f"null::{c.type} as {quoted(c.name)}"
            for c in self.schema.columns
        )
        query = f"select {', '.join(columns)}, {listed(_PROVENANCE.names)} from ({shared.query()})"
        return InputQuery(query, shared.rows, split.size_bytes, schema=self.all_columns, again=False)

    @contextmanager
    def _scan_of(
        self,
        con: duckdb.DuckDBPyConnection,
        source_splits: Sequence[SourceSplit],
        misfits: Misfits | None = None,
    ) -> Iterator[ScanQuery | None]:
        """Yield one query of all columns over the source splits.

        Rows that do not match the contract are set aside as `misfits`, or abort the query if that is not possible.
        """
        if len(source_splits) > 1 and isinstance(self.reader, ScannableTogether):
            opening, source = self.reader.scan_together(con, source_splits, self._contract), SOURCE
        elif isinstance(self.reader, Scannable):
            (source_split,) = source_splits
            opening = self.reader.scan(con, source_split, self._contract)
            source = literal(source_split.source_object.uri)
        else:
            raise TypeError(type(self.reader).__name__)
        with opening as scan:
            if scan is None:
                yield None
            else:
                odd = self._has_no_time
                query = (
                    scan.query
                    if odd is None
                    else f"select * replace ({MISFIT} or {odd} as {MISFIT}) from ({scan.query})"
                )
                is_fit = _ALL_FIT
                if misfits is not None and scan.read_rows is not None and self.types is None:
                    is_fit = misfits.condition(source, scan.read_rows)
                number = unused_name("_number", self.all_columns.names)
                rows = _without_misfits(query, is_fit, number)
                yield replace(scan, query=f"select {self._columns(source)} from {rows}")

    def groups(self, source_splits: Sequence[SourceSplit]) -> list[Sequence[SourceSplit]]:
        """Return the source splits in order, with consecutive small ones grouped up to a limit."""
        if not isinstance(self.reader, ScannableTogether):
            return [[source_split] for source_split in source_splits]
        groups: list[list[SourceSplit]] = []
        files_left = bytes_left = 0
        for source_split in source_splits:
            if not self.reader.is_small(source_split):
                files_left = 0
                groups.append([source_split])
                continue
            if files_left <= 0 or source_split.size_bytes > bytes_left:
                groups.append([])
                files_left, bytes_left = TOGETHER_FILES, TOGETHER_BYTES
            groups[-1].append(source_split)
            files_left, bytes_left = files_left - 1, bytes_left - source_split.size_bytes
        return list(groups)

    @property
    def all_columns(self) -> Schema:
        """The columns of the contract and of the provenance."""
        return Schema((*self.schema.columns, *_PROVENANCE.columns))

    @property
    def _contract(self) -> Schema:
        """The contract for reading, in which a converted event time is still a number."""
        return self.schema if self.event_time is None else self.event_time.in_source(self.schema)

    @property
    def _has_no_time(self) -> str | None:
        """SQL for whether a number is out of range for a timestamp; `None` if the event time is not converted."""
        if self.event_time is None or not self.event_time.is_made(self.schema):
            return None
        number = quoted(self.event_time.column)
        return f"({number} is not null and try({self.event_time.made_by}({number})) is null)"

    def _columns(self, source: str) -> str:
        names = [quoted(name) for name in self.schema.names]
        if self._has_no_time is not None and self.event_time is not None:
            number = quoted(self.event_time.column)
            names[names.index(number)] = f"{self.event_time.made_by}({number}) as {number}"
        return f"{', '.join(names)}, {source} as {SOURCE}, {POSITION}, {literal(self.at)}::timestamptz as {INGESTED_AT}"


def _reject(con: duckdb.DuckDBPyConnection, source_split: SourceSplit, reason: str) -> None:
    """Insert one row for an entire source split into `_rejected`, with its range as the row."""
    values = ", ".join(map(literal, (reason, source_split.source_object.uri, str(source_split))))
    con.execute(f"insert into {REJECTED} select r, s, null, p from (values ({values})) as v(r, s, p)")


def _unreadable(source_split: SourceSplit, error: SourceError) -> SourceError:
    """Return the error with the range of the file that was read, unless it is the entire file."""
    got = error.got if source_split.is_whole else f"{error.got or 'no more'}, in {source_split}"
    return SourceError(error.problem, got=got, do=error.do, place=error.place)


_ALL_FIT = f"case when {MISFIT} then error({literal(STOP)}) else true end"


def _without_misfits(query: str, is_fit: str, number: str) -> str:
    """Return a FROM item of the rows that match the contract.

    The optimizer may push other filters below this filter, but not below a window function over all rows; `number` is an
    unused name for its column.
    """
    fits = f"select * from ({query}) where {is_fit}"
    return f"(select *, row_number() over () as {number} from ({fits})) where {number} > 0"


_PROVENANCE = Schema.of({SOURCE: "VARCHAR", POSITION: "BIGINT", INGESTED_AT: "TIMESTAMPTZ"})


@dataclass(frozen=True)
class SqlProducer:
    """Produces the rows of a statement over a split of its driving input and all rows of the other inputs."""

    text: str
    driving: str
    others: Mapping[str, Scan]
    hidden: tuple[str, ...] = ()
    source: SourceProducer | None = None
    """Reads the driving input if it is a source with `stored=False`."""

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Create views of the inputs, and return the statement."""
        if self.source is None:
            yield self._over(con, split)
            return
        with self.source.for_validation(con, split) as read:
            yield self._over_read(con, read)

    @contextmanager
    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery | None]:
        """Return the same statement, over the fast path of its input."""
        if self.source is None:
            yield self._over(con, split)
            return
        with self.source.for_fast_path(con, split) as read:
            yield None if read is None else self._over_read(con, read)

    def _over(self, con: duckdb.DuckDBPyConnection, split: Split) -> InputQuery:
        scan = split.scan or Scan(Schema(()))
        driving = {self.driving: scan} if self.driving else {}
        register(con, {**self.others, **split.beside, **driving})
        return InputQuery(self.text, rows_in=scan.rows, bytes_in=split.size_bytes, hidden=self.hidden)

    def _over_read(self, con: duckdb.DuckDBPyConnection, read: InputQuery) -> InputQuery:
        register(con, self.others)
        con.execute(f"create temp view {quoted(self.driving)} as {read.query}")
        return replace(read, query=self.text, schema=None, hidden=self.hidden)


@dataclass(frozen=True)
class FunctionProducer:
    """Produces the rows of a function that is called once per block of its first input."""

    transform: FunctionTransform
    others: Mapping[str, Scan]
    place: Place
    source: SourceProducer | None = None

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Call the function on each block of the split, and materialize the results."""
        driving = self.transform.inputs[0]
        others = {name: arrow(con, other.query()) for name, other in self.others.items()}
        first: pa.Schema | None = None
        rows_in = 0
        discarded: Counter[str] = Counter()
        for block in self._blocks(con, split, discarded):
            rows_in += block.num_rows
            result = call(self.transform, {driving: block, **others}, self.place)
            con.register("_made_block", result)
            if first is None:
                first = result.schema
                con.execute(f"create temp table {_ROWS} as from _made_block")
            else:
                self._require_same(first, result.schema)
                con.execute(f"insert into {_ROWS} by name from _made_block")
            con.unregister("_made_block")
        bad = 0 if self.source is None else one(con, f"select count(*) from {REJECTED}")[0]
        yield InputQuery(
            f"select * from {_ROWS}",
            rows_in=rows_in + bad,
            bytes_in=split.size_bytes,
            rejected=bad,
            discarded=dict(discarded),
        )

    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery | None]:
        """Do the same: the results are materialized, so the function is called only once."""
        return self.for_validation(con, split)

    def _blocks(self, con: duckdb.DuckDBPyConnection, split: Split, discarded: Counter[str]) -> Iterator[pa.Table]:
        if self.source is not None:
            yield from self.source.blocks(con, split, discarded)
            return
        scan = split.scan or Scan(Schema(()))
        for block in scan.splits(BLOCK_BYTES):
            yield arrow(con, block.query())

    def _require_same(self, first: pa.Schema, later: pa.Schema) -> None:
        change = compare(from_arrow(first), from_arrow(later))
        if change:
            raise DefinitionError(
                f"table {self.transform.function.__name__!r} returned blocks with different columns",
                got=str(change),
                do="cast the columns, so that their types do not depend on the rows",
                place=self.place,
            )


@dataclass(frozen=True)
class WholeInputProducer:
    """Produces the rows of a transform that is called once, with all rows of its inputs."""

    transform: Transform
    others: Mapping[str, Scan]
    source: SourceProducer | None = None

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Read the inputs, call the transform, and register the result."""
        others = {name: arrow(con, other.query()) for name, other in self.others.items()}
        with self._driving(con, split) as read:
            rows = arrow(con, read.query)
            con.register("_given", self._made({self.transform.inputs[0]: rows, **others}))
            yield replace(read, query="select * from _given", schema=None, rows_in=rows.num_rows + read.rejected)

    def _made(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Return the result of the transform; a source with `stored=False` has only the columns of its contract."""
        if self.source is None or not isinstance(self.transform, LogTransform):
            return self.transform(**tables)
        return self.transform.over_log(tables, {self.transform.inputs[0]: self.source.schema.names})

    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery | None]:
        """Do the same: the result is in memory either way."""
        return self.for_validation(con, split)

    def _driving(self, con: duckdb.DuckDBPyConnection, split: Split) -> AbstractContextManager[InputQuery]:
        if self.source is not None:
            return self.source.for_validation(con, split)
        scan = split.scan or Scan(Schema(()))
        return nullcontext(InputQuery(scan.query(), rows_in=scan.rows, bytes_in=split.size_bytes))


@dataclass(frozen=True)
class ArrowProducer:
    """Produces the rows of an in-memory table or a record batch reader."""

    rows: pa.Table | pa.RecordBatchReader
    rows_in: int
    bytes_in: int = 0
    views: Mapping[str, Scan | pa.Table] = field(default_factory=dict)
    query: str = "select * from _given"
    hidden: tuple[str, ...] = ()

    @contextmanager
    def for_validation(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery]:
        """Register the rows as a view; the split is ignored."""
        del split
        con.register("_given", self.rows)
        register(con, self.views)
        yield InputQuery(self.query, rows_in=self.rows_in, bytes_in=self.bytes_in, hidden=self.hidden)

    @contextmanager
    def for_fast_path(self, con: duckdb.DuckDBPyConnection, split: Split) -> Iterator[InputQuery | None]:
        """Do the same for a table; a record batch reader can be read only once."""
        if isinstance(self.rows, pa.Table):
            with self.for_validation(con, split) as query:
                yield query
        else:
            yield None
