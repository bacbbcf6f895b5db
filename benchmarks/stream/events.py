"""The events that are streamed: JSON of about 100 bytes, deterministic for a seed, and the expected results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from benchmarks.interleaved_runs import Answer

BEGINNING_US = 1_735_689_600_000_000
"""2025-01-01 UTC: the event time of the first event of a backlog."""
CHUNK = 200_000
PARTITIONS = 4
END = "end"
"""The key of the last event of each partition, whose event time is late enough to close all windows."""
END_AFTER_US = 3_600_000_000
STAMP = "%Y-%m-%dT%H:%M:%S.%f"
SCHEMA = {"id": "bigint", "happened_at": "timestamp", "key": "varchar", "value": "double"}
WINDOWS = """select tumble(happened_at, interval '1 minute') as window_start, key, count(*) as events, sum(value) as total
from events group by all"""


@dataclass(frozen=True)
class Messages:
    """Messages: their text, their keys, and their partitions, which are determined by the keys."""

    texts: list[bytes]
    keys: list[bytes]
    partitions: list[int]


@dataclass(frozen=True)
class Events:
    """`count` events with ids starting at `first`, with `per_s` events per second of event time."""

    count: int
    seed: int = 0
    first: int = 0
    keys: int = 1000
    per_s: int = 50_000

    @property
    def rows(self) -> str:
        """A SELECT of all events. Values are multiples of 0.25, so their sums are exact in any order."""
        return self._rows(self.first, self.first + self.count)

    @property
    def end_us(self) -> int:
        """The event time of the last events, in microseconds since 1970."""
        return BEGINNING_US + (self.first + self.count) * 1_000_000 // self.per_s + END_AFTER_US

    def messages(self) -> Iterator[Messages]:
        """Yield the events as JSON, in order, in batches."""
        yield from self._messages(f"""'{{"happened_at":"' || strftime(happened_at, '{STAMP}') || '",' || rest""")

    def tails(self) -> Iterator[Messages]:
        """Yield the rest of each event after its time: the JSON after `{"happened_at":"...",`."""
        yield from self._messages("rest")

    def last(self, partition: int) -> bytes:
        """Return the last event of a partition, numbered from 0."""
        at = datetime.fromtimestamp(self.end_us / 1e6, tz=UTC).strftime(STAMP)
        return f'{{"happened_at":"{at}","id":{-1 - partition},"key":"{END}","value":0.0,"n":""}}'.encode()

    def windows(self) -> Answer:
        """Return the expected windows, without the last events: start, key, count and sum, in order."""
        with duckdb.connect() as con:
            return con.execute(
                f"""select date_trunc('minute', happened_at) as window_start, key, count(*) as events, sum(value) as total
                from ({self.rows}) group by all order by all"""
            ).fetchall()

    def _rows(self, first: int, after: int) -> str:
        return f"""select i as id, make_timestamp({BEGINNING_US} + i * 1000000 // {self.per_s}) as happened_at,
            'key-' || lpad((hash(i, {self.seed}) % {self.keys})::varchar, 4, '0') as key,
            (hash(i, {self.seed}, 1) % 4000)::double / 4 as value
        from (select range as i from range({first}, {after}))"""

    def _messages(self, text: str) -> Iterator[Messages]:
        rest = """'"id":' || id || ',"key":"' || key || '","value":' || value || ',"n":"' ||
            left(md5(id::varchar), 4) || '"}'"""
        with duckdb.connect() as con:
            after = self.first + self.count
            for first in range(self.first, after, CHUNK):
                rows = self._rows(first, min(first + CHUNK, after))
                messages = con.sql(
                    f"""select ({text})::blob as text, key::blob as key, right(key, 4)::int % {PARTITIONS} as partition
                    from (select *, {rest} as rest from ({rows})) order by id"""
                ).to_arrow_table()
                yield Messages(*(messages.column(name).to_pylist() for name in ("text", "key", "partition")))
