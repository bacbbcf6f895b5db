"""The inputs of a stream: the log of each input, the contract of its rows, and their event time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import duckdb
import pyarrow as pa

from pipeline.batch.row_producers import SourceProducer
from pipeline.batch.type_changes import type_rule
from pipeline.batch.work import RowProducer
from pipeline.core.epochs import Epoch, InputProgress
from pipeline.core.event_time import EventTime
from pipeline.core.schema import Column, Schema
from pipeline.core.sources import INGESTED_AT, POSITION, PROVENANCE, SOURCE, Log, SplitReader
from pipeline.core.splits import SourceObject, SourceSplit
from pipeline.core.type_policy import DEFAULT_TYPE_POLICY, TypePolicy
from pipeline.kernel.engine import empty


@dataclass(frozen=True)
class StreamInput:
    """One streamed input of a stream."""

    name: str
    log: Log
    schema: Schema
    """The contract of the log's rows."""
    time: EventTime | None = None
    """The event time of its rows; None for a table of the lake without a known event time."""
    columns: tuple[str, ...] | None = None
    """The columns that the stream uses besides the event time; None means all."""
    new_types: TypePolicy = DEFAULT_TYPE_POLICY
    """What happens to values that the type of their column cannot represent."""

    @property
    def read_columns(self) -> tuple[str, ...]:
        """The columns that are read: the used columns, the event time, and the provenance."""
        names = self.schema.names if self.columns is None else self.columns
        time = () if self.time is None else (self.time.column,)
        return tuple(dict.fromkeys((*names, *time, *PROVENANCE)))

    @property
    def is_of_lake(self) -> bool:
        """Whether it is a table of the lake, which another stream may write."""
        return False

    def upstream_epoch(self, offsets: Mapping[str, int], known: InputProgress) -> Epoch | None:
        """Return, for a table of the lake, the epoch of the last version that was read; `None` if none was read."""
        del offsets, known
        return None

    def consumed(self, offsets: Mapping[str, int]) -> Mapping[str, int]:
        """Return, for a table of the lake, its name and the last consumed version."""
        del offsets
        return {}

    @property
    def partition(self) -> str:
        """SQL for the URI of the partition of a row."""
        return SOURCE

    def producer(self, reader: SplitReader | None, at: str) -> RowProducer:
        """Return the producer of rows from ranges of `reader`, or else of the log. `at` is the ingestion time."""
        kept = set(self.read_columns)
        loose = Schema(tuple(c if c.name in kept else Column(c.name, "VARCHAR") for c in self.schema.columns))
        return SourceProducer(
            cast("SplitReader", self.log) if reader is None else reader,
            loose,
            at,
            event_time=self.time,
            types=type_rule(self.new_types, self.log),
        )

    def empty_rows(self, con: duckdb.DuckDBPyConnection) -> pa.Table:
        """Return a table with the columns that are read and no rows."""
        kinds = {**self.schema.as_dict(), SOURCE: "VARCHAR", POSITION: "BIGINT", INGESTED_AT: "TIMESTAMPTZ"}
        return empty(con, Schema(tuple(Column(name, kinds[name]) for name in self.read_columns)))


@dataclass(frozen=True)
class OffsetRanges:
    """Offset ranges of an input by partition URI: the first offset is inclusive, the second exclusive."""

    by_partition: Mapping[str, tuple[int, int]]

    def splits(self, stamps: Mapping[str, str]) -> tuple[SourceSplit, ...]:
        """Return the non-empty ranges as source splits with the given stamps."""
        return tuple(
            SourceSplit(SourceObject(uri, end - begin, stamps.get(uri, "")), begin, end, begin)
            for uri, (begin, end) in sorted(self.by_partition.items())
            if end > begin
        )
