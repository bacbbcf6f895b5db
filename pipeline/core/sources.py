"""The interfaces of source readers. One contract test suite runs against every reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from pipeline.core.as_of import AsOf
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.event_time import EventTime
from pipeline.core.findings import Finding
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject, SourceSplit

if TYPE_CHECKING:
    import duckdb
    import fsspec
    import pyarrow as pa

SOURCE, POSITION, INGESTED_AT = "_source", "_position", "_ingested_at"
MISFIT = "_misfit"
PROVENANCE = (SOURCE, POSITION, INGESTED_AT)
"""The columns that are added to every bronze row: the file, the 1-based line or row, and the time of the run."""


@dataclass(frozen=True)
class ReadResult:
    """The rows of a split that match the schema, with `_position`, and the rejected rows.

    `rejected` has the columns `position` (BIGINT), `reason` and `row` (the original text in the file).
    """

    rows: pa.Table
    rejected: pa.Table


RowReader = Callable[[str, Sequence[int]], ReadResult]
"""A function that returns what `read` returns for the rows at some positions of a source object, given in order.

Raises `SourceError` if they cannot be read on their own.
"""


@dataclass(frozen=True)
class ScanQuery:
    """A query that returns the rows of a split in order. Run it once, on the connection it was created for, with one thread.

    The result is valid only if the query raised no error, its scan returned exactly `rows` rows, no row had `_misfit`,
    and the first value of `error_query` is 0; otherwise call `read`. Columns that are not selected are not validated, so
    select all of them. If only rows with `_misfit` violate this, `read_rows` reads them.
    """

    query: str
    """A SELECT of the contract's columns with their types, followed by `_position` (BIGINT) and `_misfit` (BOOLEAN)."""
    rows: int
    """The number of records in the split, if every line is one record."""
    error_query: str
    """A query for the number of errors of the scan; run it after `query` on the same connection."""
    read_rows: RowReader | None = None
    """Reads single rows, if that is possible."""


class SplitReader(Protocol):
    """Reads planned splits."""

    def read(self, split: SourceSplit, schema: Schema) -> ReadResult:
        """Return the rows of a split with the columns of `schema`, and their positions in the source object.

        Raises `SchemaError` if the columns differ, and `SplitError` if the source object can only be read completely. In
        that case, discard all rows of this source object that were already read.
        """


class Reader(SplitReader, Protocol):
    """Reads a source as Arrow tables. Reading a split twice returns the same rows in the same order.

    A connector must implement these four members; `pipeline.connectors.ArrowReader` implements two of them for connectors
    that yield Arrow batches. A reader supports optional features by implementing `Divisible`, `Scannable`, `Reparsable`,
    `Evolvable`, `Log`, `Checkable`, `InProject` or `OverTables`.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows; the location of the data is ignored."""

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return the new splits since a cursor, in a stable order; without a cursor, all current data.

        Raises `SourceError` if there is no data, and if the source is unavailable.
        """

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the columns of a source object with inferred types; raise `SourceError` if it has no columns."""


@runtime_checkable
class Divisible(Protocol):
    """A reader that can divide a source object into several splits, for example by byte ranges."""

    def splits(self, source_object: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        """Return splits of about `target_bytes` that cover the source object in order; one split if it is not divisible."""


@runtime_checkable
class DivisibleSplits(Protocol):
    """A reader that can divide also its splits, at any place between two rows."""

    def parts(self, split: SourceSplit, target_bytes: int) -> Sequence[SourceSplit]:
        """Return parts of about `target_bytes` that cover a split in order; the split itself if it is not divisible."""


@runtime_checkable
class Scannable(Protocol):
    """A reader whose splits DuckDB can scan directly; this enables the fast path."""

    def scan(
        self, con: duckdb.DuckDBPyConnection, split: SourceSplit, schema: Schema
    ) -> AbstractContextManager[ScanQuery | None]:
        """Return a query over the split, valid inside the context; `None` if the split must be read with `read`.

        Raises the same errors as `read` if the columns differ or the file does not exist.
        """


@runtime_checkable
class ScannableTogether(Protocol):
    """A reader whose small splits DuckDB can scan together, because one scan per split would cost more than its rows."""

    def is_small(self, split: SourceSplit) -> bool:
        """Return whether a split should be scanned together with others."""

    def scan_together(
        self, con: duckdb.DuckDBPyConnection, splits: Sequence[SourceSplit], schema: Schema
    ) -> AbstractContextManager[ScanQuery | None]:
        """Return one query over several small splits, in order; its rows also have `_source`.

        `None` if one of them must be read with `read`. Raises the same errors as `read` if the columns differ or a file
        does not exist.
        """


@runtime_checkable
class Reparsable(Protocol):
    """A reader that can parse rejected rows again, which is required to replay a quarantine."""

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Parse rejected rows again, from the texts returned by `read`; positions are 1-based indexes into `rows`."""


NewColumns = Literal["evolve", "freeze", "discard_row", "discard_value"]
"""The handling of columns that are not in the contract: add them to the table, fail the run, quarantine rows with a value
in them, or ignore them."""
NewTypes = Literal["evolve", "freeze", "discard_row", "discard_value"]
"""The handling of values that the type of their column cannot represent: widen the type if that is lossless, fail the run,
quarantine the row, or store null instead of the value and count it."""


@runtime_checkable
class Evolvable(Protocol):
    """A reader that supports all values of `NewColumns`. With `evolve`, columns missing in the data are null."""

    def evolving(self, new_columns: NewColumns) -> Reader:
        """Return the reader with this handling of new columns."""

    def beyond(self, split: SourceSplit, schema: Schema) -> Schema:
        """Return the columns of a split that are not in the contract, with types inferred from the split."""


@runtime_checkable
class InProject(Protocol):
    """A reader whose relative paths are resolved against the project's folder."""

    def within(self, folder: Path) -> Reader:
        """Return the reader with paths resolved against this folder."""


@runtime_checkable
class Checkable(Protocol):
    """A reader that can check its system without reading rows, for `headwater doctor`."""

    def check(self) -> Iterable[Finding]:
        """Return the findings by file, topic or table; raise `SourceError` if the system is unavailable."""


@runtime_checkable
class Timed(Protocol):
    """A reader whose records have a timestamp, which replaces a missing event time."""

    def timed(self, time: EventTime) -> Reader:
        """Return the reader with this event time."""


@dataclass(frozen=True)
class TableRows:
    """A version of a table in the lake, for a reader of tables."""

    query: str
    """A SELECT of the rows."""
    schema: Schema
    manifest_id: int | None
    """Changes whenever the table changes."""
    filesystem: fsspec.AbstractFileSystem | None = None


@runtime_checkable
class OverTables(Protocol):
    """A reader of tables in the lake; `over` binds it to their versions."""

    @property
    def fingerprint(self) -> str:
        """A hash of the options that determine the rows."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tables."""

    def over(self, rows_of: Callable[[str, AsOf], TableRows]) -> Reader:
        """Return a reader of versions of the tables; `rows_of` returns the rows of a table as of a time or a version."""


@runtime_checkable
class ComparedWithTable(Protocol):
    """A reader that finds rows that vanished from its system by comparing it with the table of its source."""

    def compared_with(self, stored: TableRows | None) -> Reader:
        """Return the reader with the newest version of the table; `None` if the table does not exist yet."""


@dataclass(frozen=True)
class Extent:
    """The offsets that a partition of a log currently contains, from `begin` to `end` (exclusive)."""

    begin: int
    end: int
    stamp: str = field(default="", compare=False)
    """Changes if the partition is recreated, because its offsets then identify other records."""


@dataclass(frozen=True)
class ReadyOffsets:
    """The offset per partition up to which a tail can read without waiting, and whether the log has ended."""

    offsets: Mapping[str, int]
    rows: int
    has_ended: bool = False
    is_unanswered: bool = False
    """Whether the log's system did not respond, so that its current offsets are unknown."""


@dataclass(frozen=True)
class LogTraits:
    """The properties of a log that streams depend on."""

    has_whole_partitions: bool = False
    """Whether a partition is always read completely, like a file; otherwise its offsets count records."""
    may_vanish: bool = False
    """Whether removing a partition that was read is not an error."""
    is_in_sequence: bool = False
    """Whether the event times of the partitions follow each other, in the order of the partitions' names."""


@runtime_checkable
class Log(Protocol):
    """An unbounded source. A source object is a partition, a split a range of its offsets: `SourceSplit(source_object, begin, end)`.

    An offset always identifies the same record, so rereading a range returns the same rows. Offsets increase and may have
    gaps. `_position` is the offset of a record, `_source` the URI of its partition.
    """

    @property
    def traits(self) -> LogTraits:
        """The properties of this log."""

    def extents(self) -> Mapping[str, Extent]:
        """Return the current offsets of each partition by URI; partitions may be added, but are never removed."""

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each partition the offset of the first record written at or after this time."""

    def tail(self, offsets: Mapping[str, int]) -> AbstractContextManager[Tail]:
        """Read partitions continuously from these offsets; raise `SourceError` for an offset that no longer exists."""


class Tail(Protocol):
    """A continuous reader of partitions; it prefetches records up to a limit."""

    def ready(self, timeout_s: float) -> ReadyOffsets:
        """Return the offsets that can be read; wait until there are new records, or until the timeout."""

    def reader(self, splits: Sequence[SourceSplit]) -> SplitReader:
        """Return a reader of these splits, which must be ready, from memory; they count as consumed from now on."""

    def add(self, offsets: Mapping[str, int]) -> None:
        """Start reading additional partitions."""
