"""What a source's reader promises. One contract test runs against every reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from pipeline.core.errors import RequestError
from pipeline.core.schema import Schema

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

SOURCE, POSITION, INGESTED_AT = "_source", "_position", "_ingested_at"
MISFIT = "_misfit"
PROVENANCE = (SOURCE, POSITION, INGESTED_AT)
"""The columns that every bronze row carries: the file, the 1-based line or row in it, and the run's time."""


@dataclass(frozen=True)
class Piece:
    """A unit of a source that is consumed once, whole: a file. `stamp` changes when its content does."""

    uri: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True)
class Part:
    """A stretch of a piece that can be read by itself: bytes from line end to line end, or rows of whole row groups."""

    piece: Piece
    begin: int = 0
    """The first byte (CSV, NDJSON) or the first row (Parquet), from 0."""
    end: int | None = None
    """Exclusive; None: to the end of the piece."""
    first: int = 1
    """The line or row, from 1, at which the part begins, as `_position` counts; in front of a header, the header's."""
    planned_bytes: int | None = None
    """What the part weighs, for planning; None: as much as the piece."""
    lines: int | None = None
    """How many lines of text it has, where they were counted when it was cut."""

    @property
    def size_bytes(self) -> int:
        """The bytes of the part, for Parquet before compression when it is cut: an estimate of work, not of memory."""
        return self.piece.size_bytes if self.planned_bytes is None else self.planned_bytes

    @property
    def is_whole(self) -> bool:
        """Whether the part is all of its piece."""
        return self.begin == 0 and self.end is None

    def __str__(self) -> str:
        """Return the file, and which stretch of it: bytes, or rows of Parquet, from 0, the end not included."""
        end = "its end" if self.end is None else f"{self.end}"
        return self.piece.uri if self.is_whole else f"{self.piece.uri} from {self.begin} to {end}"


@dataclass(frozen=True)
class Reading:
    """What came out of a piece: rows that fit the schema, with `_position`, and those that did not.

    `rejected` has the columns `position` (BIGINT), `reason` and `row` (the text as it stood in the file).
    """

    rows: pa.Table
    rejected: pa.Table


@dataclass(frozen=True)
class Flowing:
    """A part as a query that gives its rows once, in order, on the connection it was made for, with one thread.

    It is the truth only when all of this holds after it ran; else the part is to be `read`:
    the query raised nothing, its scan gave exactly `rows` rows, no row had `_misfit`, and the first value of
    `oddities` is 0. A column that is not selected is not looked at, so select them all.
    """

    query: str
    """A SELECT of the contract's columns in their types, then `_position` (BIGINT) and `_misfit` (BOOLEAN)."""
    rows: int
    """How many records the part has when every line is one."""
    oddities: str
    """A query, to be run after the other in the same connection, of how many faults the scan found."""


class Reader(Protocol):
    """The world as pieces of Arrow. Reading a part twice gives the same rows in the same order.

    The parts of a piece are true together: once one raises `SplitError`, those already read are void.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of the options that decide the rows."""

    def pieces(self) -> Sequence[Piece]:
        """Return what is there now, in a stable order; raise `SourceError` when nothing is."""

    def schema(self, piece: Piece) -> Schema:
        """Return the piece's columns with their inferred types; raise `SourceError` when it has none."""

    def parts(self, piece: Piece, target_bytes: int) -> Sequence[Part]:
        """Return stretches of about `target_bytes` that together, in order, are the piece; one where it cannot be cut."""

    def read(self, part: Part, schema: Schema) -> Reading:
        """Return the part's rows as `schema`, at their positions in the piece.

        Raises `SchemaError` when its columns are others, and `SplitError` when only the whole piece can be read.
        """

    def flow(
        self, con: duckdb.DuckDBPyConnection, part: Part, schema: Schema
    ) -> AbstractContextManager[Flowing | None]:
        """Return the part as a query that can be run inside the context; None: it can only be `read`.

        Raises as `read` does for other columns and for a file that is not there.
        """

    def parse(self, rows: Sequence[str], schema: Schema) -> Reading:
        """Read rejected rows again, from the texts that `read` gave; positions are 1-based in `rows`."""


@dataclass(frozen=True)
class Extent:
    """What a partition of a log holds now: the records at the offsets from `begin` to `end`, the end not included."""

    begin: int
    end: int
    stamp: str = field(default="", compare=False)
    """Changes when the partition is made anew: its offsets mean other records then."""


@dataclass(frozen=True)
class Ready:
    """What a tail can give without waiting: up to which offset of each partition, and whether more can ever come."""

    offsets: Mapping[str, int]
    rows: int
    has_ended: bool = False


class Log(Reader, Protocol):
    """A reader of what has no end. A piece is a partition, a part a range of its offsets: `Part(piece, begin, end)`.

    The record at an offset is always the same one, so that a range that is read again gives the same rows. Offsets
    grow and may have gaps. `_position` is a record's offset, `_source` its partition's URI.
    """

    def extents(self) -> Mapping[str, Extent]:
        """Return what each partition holds now, by the URI of its piece; partitions may come, and never go."""

    def offsets_at(self, time: datetime) -> Mapping[str, int]:
        """Return for each partition the offset of the first record that was written at that time or later."""

    def tail(self, offsets: Mapping[str, int]) -> AbstractContextManager[Tail]:
        """Read some partitions on and on, each from its offset; raise `SourceError` for one that is not held any more."""


class Tail(Protocol):
    """What reads partitions of a log on and on: it fetches ahead of what is taken from it, up to a bound of its own."""

    def ready(self, timeout_s: float) -> Ready:
        """Return what can be taken, at once if there is more than was taken last, else when that comes or time is up."""

    def reader(self, parts: Sequence[Part]) -> Reader:
        """Return what reads and flows these parts, which are ready, from memory; from now on they count as taken."""

    def add(self, offsets: Mapping[str, int]) -> None:
        """Read more partitions from now on."""


class OnlyStreamed:
    """A reader that a batch cannot read: all that one would ask of it is refused with `RequestError`."""

    def pieces(self, *args: Any, **named: Any) -> NoReturn:
        """Refuse."""
        del args, named
        raise RequestError("this source is only streamed", do="run `headwater stream`", got=f"{type(self).__name__}")

    schema = parts = read = flow = parse = pieces
