"""What a source's reader promises. One contract test runs against every reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pipeline.core.schema import Schema

if TYPE_CHECKING:
    import pyarrow as pa

SOURCE, POSITION, INGESTED_AT = "_source", "_position", "_ingested_at"
PROVENANCE = (SOURCE, POSITION, INGESTED_AT)
"""The columns that every bronze row carries: the file, the 1-based line or row in it, and the run's time."""


@dataclass(frozen=True)
class Piece:
    """A unit of a source that is read once, whole: a file. `stamp` changes when its content does."""

    uri: str
    size_bytes: int
    stamp: str


@dataclass(frozen=True)
class Reading:
    """What came out of a piece: rows that fit the schema, with `_position`, and those that did not.

    `rejected` has the columns `position` (BIGINT), `reason` and `row` (the text as it stood in the file).
    """

    rows: pa.Table
    rejected: pa.Table


class Reader(Protocol):
    """The world as pieces of Arrow. Reading a piece twice gives the same rows in the same order."""

    @property
    def fingerprint(self) -> str:
        """A hash of the options that decide the rows."""

    def pieces(self) -> Sequence[Piece]:
        """Return what is there now, in a stable order; raise `SourceError` when nothing is."""

    def schema(self, piece: Piece) -> Schema:
        """Return the piece's columns with their inferred types; raise `SourceError` when it has none."""

    def read(self, piece: Piece, schema: Schema) -> Reading:
        """Return the piece's rows as `schema`; raise `SchemaError` when its columns are others."""

    def parse(self, rows: Sequence[str], schema: Schema) -> Reading:
        """Read rejected rows again, from the texts that `read` gave; positions are 1-based in `rows`."""
