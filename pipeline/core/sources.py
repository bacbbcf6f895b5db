"""What a source's reader promises. One contract test runs against every reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

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
"""The columns that every bronze row carries: the file, the 1-based line or row in it, and the run's time."""


@dataclass(frozen=True)
class ReadResult:
    """What came out of a piece: rows that fit the schema, with `_position`, and those that did not.

    `rejected` has the columns `position` (BIGINT), `reason` and `row` (the text as it stood in the file).
    """

    rows: pa.Table
    rejected: pa.Table


@dataclass(frozen=True)
class ScanQuery:
    """A part as a query that gives its rows once, in order, on the connection it was made for, with one thread.

    It is the truth only when all of this holds after it ran; else the part is to be `read`:
    the query raised nothing, its scan gave exactly `rows` rows, no row had `_misfit`, and the first value of
    `rejects` is 0. A column that is not selected is not looked at, so select them all.
    """

    query: str
    """A SELECT of the contract's columns in their types, then `_position` (BIGINT) and `_misfit` (BOOLEAN)."""
    rows: int
    """How many records the part has when every line is one."""
    rejects: str
    """A query, to be run after the other in the same connection, of how many faults the scan found."""


class PartReader(Protocol):
    """What reads parts that were planned."""

    def read(self, part: SourceSplit, schema: Schema) -> ReadResult:
        """Return the part's rows as `schema`, at their positions in the piece.

        Raises `SchemaError` when its columns are others, and `SplitError` when only the whole piece can be read: then
        the parts of this piece that were already read are void.
        """


class Reader(PartReader, Protocol):
    """Where data enters, as Arrow. Reading a part twice gives the same rows in the same order.

    These four members are all that a connector must have; `pipeline.connectors.ArrowReader` gives two of them to one that
    yields Arrow batches. What a reader can do beside that it says by having the members of `Divisible`, `Scannable`,
    `Reparsable`, `Evolvable`, `Log`, `Checkable`, `InProject` or `OverTables`.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of the options that decide the rows; where the data is does not count."""

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Return what is new since a cursor, in a stable order; everything that is there now, without one.

        Raises `SourceError` when nothing is there to be read, and for a source that does not answer.
        """

    def schema(self, piece: SourceObject) -> Schema:
        """Return the columns of a piece with their inferred types; raise `SourceError` when it has none."""


@runtime_checkable
class Divisible(Protocol):
    """A reader whose parts can be divided further, at byte ranges for example."""

    def parts(self, piece: SourceObject, target_bytes: int) -> Sequence[SourceSplit]:
        """Return stretches of about `target_bytes` that together, in order, are the piece; one where it cannot be cut."""


@runtime_checkable
class Scannable(Protocol):
    """A reader whose parts DuckDB can scan by itself, which is the fast path."""

    def scan(
        self, con: duckdb.DuckDBPyConnection, part: SourceSplit, schema: Schema
    ) -> AbstractContextManager[ScanQuery | None]:
        """Return the part as a query that can be run inside the context; None: it can only be `read`.

        Raises as `read` does for other columns and for a file that is not there.
        """


@runtime_checkable
class ScannableTogether(Protocol):
    """A reader that DuckDB can scan many small parts of at once: a scan for each costs more than their rows."""

    def is_small(self, part: SourceSplit) -> bool:
        """Return whether a part is scanned with others rather than by itself."""

    def scan_together(
        self, con: duckdb.DuckDBPyConnection, parts: Sequence[SourceSplit], schema: Schema
    ) -> AbstractContextManager[ScanQuery | None]:
        """Return small parts as one query, in their order, whose rows also have `_source`.

        None when one of them can only be read by itself. Raises as `read` does for other columns and for a file that is
        not there.
        """


@runtime_checkable
class Reparsable(Protocol):
    """A reader that can read rejected rows again, which the replay of a quarantine needs."""

    def parse(self, rows: Sequence[str], schema: Schema) -> ReadResult:
        """Read rejected rows again, from the texts that `read` gave; positions are 1-based in `rows`."""


NewColumns = Literal["add", "set aside", "refuse"]
"""What happens to a column that a contract does not have: the table gets it, rows with a value in it are set aside, or
the run fails."""


@runtime_checkable
class Evolvable(Protocol):
    """A reader that can do any of `NewColumns`. With `add`, what a contract has and the data has not is null."""

    def evolving(self, new_columns: NewColumns) -> Reader:
        """Return the reader for a source that does this."""

    def beyond(self, part: SourceSplit, schema: Schema) -> Schema:
        """Return the columns of a part that a contract does not have, with types inferred from the part."""


@runtime_checkable
class InProject(Protocol):
    """A reader whose relative locations belong to the folder of its project."""

    def within(self, folder: Path) -> Reader:
        """Return the reader for a project in this folder."""


@runtime_checkable
class Checkable(Protocol):
    """A reader that can look at its system without reading rows: `headwater doctor` asks it to."""

    def check(self) -> Iterable[Finding]:
        """Return what was found, named by file, topic or table; raise `SourceError` when the system does not answer."""


@runtime_checkable
class Timed(Protocol):
    """A reader whose records have a time of their own, which stands in where a record has no value."""

    def timed(self, time: EventTime) -> Reader:
        """Return the reader for a source with this event time."""


@dataclass(frozen=True)
class TableRows:
    """One version of a table of the lake, for a reader that reads tables."""

    query: str
    """A SELECT of its rows."""
    schema: Schema
    manifest_id: int | None
    """Changes when the table does."""
    filesystem: fsspec.AbstractFileSystem | None = None


@runtime_checkable
class OverTables(Protocol):
    """What reads tables of the lake: it becomes a reader when it is given their rows."""

    @property
    def fingerprint(self) -> str:
        """A hash of the options that decide the rows."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tables."""

    def over(self, rows_of: Callable[[str], TableRows]) -> Reader:
        """Return what reads the newest versions of the tables."""


@dataclass(frozen=True)
class Extent:
    """What a partition of a log holds now: the records at the offsets from `begin` to `end`, the end not included."""

    begin: int
    end: int
    stamp: str = field(default="", compare=False)
    """Changes when the partition is made anew: its offsets mean other records then."""


@dataclass(frozen=True)
class ReadyOffsets:
    """What a tail can give without waiting: up to which offset of each partition, and whether more can ever come."""

    offsets: Mapping[str, int]
    rows: int
    has_ended: bool = False
    is_unanswered: bool = False
    """Whether the log's system did not answer, so that nothing is known of what it holds."""


@dataclass(frozen=True)
class LogTraits:
    """What a stream has to know of a log, beside how it is read."""

    has_whole_partitions: bool = False
    """Whether a partition is taken whole or not at all, as a file is; else its offsets count records."""
    may_vanish: bool = False
    """Whether a partition that was read may be removed: that is no error then."""
    is_in_sequence: bool = False
    """Whether event time runs through the partitions one after the other, in the order of their names."""


@runtime_checkable
class Log(Protocol):
    """What has no end. A piece is a partition, a part a range of its offsets: `SourceSplit(piece, begin, end)`.

    The record at an offset is always the same one, so that a range that is read again gives the same rows. Offsets
    grow and may have gaps. `_position` is a record's offset, `_source` its partition's URI.
    """

    @property
    def traits(self) -> LogTraits:
        """What differs from other logs."""

    def extents(self) -> Mapping[str, Extent]:
        """Return what each partition holds now, by the URI of its piece; partitions may come, and never go."""

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each partition the offset of the first record that was written at that time or later."""

    def tail(self, offsets: Mapping[str, int]) -> AbstractContextManager[Tail]:
        """Read some partitions on and on, each from its offset; raise `SourceError` for one that is not held any more."""


class Tail(Protocol):
    """What reads partitions of a log on and on: it fetches ahead of what is taken from it, up to a bound of its own."""

    def ready(self, timeout_s: float) -> ReadyOffsets:
        """Return what can be taken, at once if there is more than was taken last, else when that comes or time is up."""

    def reader(self, parts: Sequence[SourceSplit]) -> PartReader:
        """Return what reads and flows these parts, which are ready, from memory; from now on they count as taken."""

    def add(self, offsets: Mapping[str, int]) -> None:
        """Read more partitions from now on."""
