"""Deduplicates the pages of a fetch: which rows are new, and how the high-water mark moves."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa

from pipeline.connectors.spool.high_water import (
    NO_VALUE,
    CursorColumn,
    CursorKind,
    HighWater,
    Key,
    key_of,
    near,
    require_few,
    valued,
)
from pipeline.core.errors import SourceError
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import literal

_KEYS: Mapping[CursorKind, str] = {
    "integer": r"case when regexp_full_match(t, '-?[0-9]{1,18}') then t::bigint end",
    "number": "try_cast(t as decimal(38, 12))",
    "instant": "epoch_us(try_cast(t as timestamptz))",
    "timestamp": "epoch_us(try_cast(t as timestamp))",
    "text": "t",
    "nothing": "null::bigint",
}
"""SQL for the key of a value; `nothing` is the type of a column that had no value yet."""
_HAS_ZONE = r"regexp_matches(t, '(?i)[0-9](z|[+-][0-9]{2}(:?[0-9]{2})?)$') and contains(t, ':')"
_DROP, _KEEP, _CHECK = 0, 1, 2
"""What happens to a row: it was read before, it is new, or its content decides."""


@dataclass(frozen=True)
class NewRows:
    """The new rows of a page, and the mark after it."""

    lines: Sequence[bytes]
    running: HighWater | None


class _Seen:
    """The rows near the mark: those of the last fetch, which may come again once, and those of this fetch."""

    def __init__(self, before: HighWater | None, running: HighWater | None) -> None:
        again = {} if before is None else before.seen
        self.counts = {key: Counter(counts) for key, counts in ({} if running is None else running.seen).items()}
        # what came again on earlier pages of this fetch is used up
        self._again = {key: Counter(counts) - self.counts.get(key, Counter()) for key, counts in again.items()}

    def is_new(self, key: str, line: bytes) -> bool:
        """Return whether a row was not read by the last fetch, and count it."""
        digest = hashlib.blake2b(line, digest_size=8).hexdigest()
        self.counts.setdefault(key, Counter())[digest] += 1
        is_known = self._again.get(key, Counter())[digest] > 0
        if is_known:
            self._again[key][digest] -= 1
        return not is_known


@contextmanager
def deduplicating(
    column: CursorColumn, before: HighWater | None, until_us: int | None = None
) -> Iterator[PageDeduplicator]:
    """Yield what deduplicates the pages of one fetch.

    `before` is the mark of the last complete fetch. Rows after `until_us`, in microseconds since 1970, are left for a later
    fetch, if the column has times.
    """
    with connect(Limits(threads=1)) as con:
        yield PageDeduplicator(con, column, before, until_us)


@dataclass(frozen=True)
class PageDeduplicator:
    """Compares pages with the mark of the last complete fetch. Create it with `deduplicating`."""

    con: duckdb.DuckDBPyConnection
    column: CursorColumn
    before: HighWater | None
    until_us: int | None

    def new_rows(self, lines: Sequence[bytes], running: HighWater | None) -> NewRows:
        """Return the rows of a page that were not read before, in order, and the mark of this fetch after the page.

        `running` is the mark of this fetch so far. Raises `SourceError` for a null that is to be refused, for values of
        several types, and for too many rows within the lag.
        """
        if not lines:
            return NewRows(lines, running)
        known = valued(running) or valued(self.before)
        texts = pa.array([line.decode("utf-8", "replace") for line in lines], pa.string())
        self.con.register("_page", pa.table({"n": pa.array(np.arange(len(lines))), "line": texts}))
        kind = self._kind() if known is None else known.kind
        high = self._load(kind, known)
        kept, seen = np.ones(len(lines), np.bool_), _Seen(self.before, running)
        for number, what, key in self._other_rows(kind, high):
            is_new = what == _CHECK and (not self.column.drops_repeated or seen.is_new(_name(kind, key), lines[number]))
            kept[number] = is_new
        return NewRows(list(itertools.compress(lines, kept)), self._running(high, seen.counts))

    def _load(self, kind: CursorKind, known: HighWater | None) -> HighWater:
        """Create the table `cursor_values` with the value `t` of each row and its `key`, and return the highest mark."""
        self.con.execute(
            f"create or replace temp table cursor_values as select n, t, {_KEYS[kind]} as key from {self._texts()}"
        )
        within = "" if self._until(kind) is None else f" filter (where key <= {self._until(kind)})"
        asked = f"count(*), count(t), count(key), min(t), max(key){within}, arg_max(t, key){within}"
        rows, texts, keys, example, key, text = self.con.execute(f"select {asked} from cursor_values").fetchall()[0]
        if texts < rows and self.column.nulls == "refuse":
            raise SourceError(
                f"rows have no value in the cursor column {self.column.name!r}",
                got=f"{rows - texts} of {rows} rows of a response",
                do="pass null_cursors='include' to read each of them once, or 'exclude' to ignore them",
            )
        if texts and not keys:
            raise SourceError(
                f"the type of the cursor column {self.column.name!r} changed",
                got=f"{example!r}, previously {kind}s",
                do="read the source again: headwater run --full",
            )
        if key is None or (known is not None and key_of(kind, key) <= known.key):  # type: ignore[operator]
            return known or NO_VALUE
        return HighWater(kind, key_of(kind, key), str(text))

    def _other_rows(self, kind: CursorKind, high: HighWater) -> list[tuple[int, int, str]]:
        """Return the rows that are not simply new, in order: their number, what happens to them, and their key."""
        last, until = valued(self.before), self._until(kind)
        cases = ["when t is null then 0"] if self.column.nulls == "exclude" else []
        cases += [] if until is None else [f"when key > {until} then 0"]
        cases += [] if last is None else [f"when key < {_sql(last.floor(self.column))} then 0"]
        cases.append("when key is null then 2")
        cases += [] if last is None else [f"when key <= {_sql(last.key)} then 2"]
        cases += [f"when key >= {_sql(high.floor(self.column))} then 2"] if high.has_value else []
        classes = f"(select n, key, case {' '.join(cases)} else {_KEEP} end as c from cursor_values)"
        query = f"select n, c, coalesce(key::varchar, '') from {classes} where c <> {_KEEP} order by n"
        return self.con.execute(query).fetchall()

    def _running(self, high: HighWater, seen: Mapping[str, Mapping[str, int]]) -> HighWater:
        """Return the mark with the rows within the lag, and those up to the last mark, which later pages may repeat."""
        kept = near(high, seen, self.column)
        require_few(kept, self.column)
        last = valued(self.before)
        again = {} if last is None else {n: c for n, c in seen.items() if n and key_of(high.kind, n) <= last.key}  # type: ignore[operator]
        return replace(high, seen={**kept, **again})

    def _until(self, kind: CursorKind) -> int | None:
        return self.until_us if kind in {"instant", "timestamp"} else None

    def _texts(self) -> str:
        """Return a query of the values as text; those of rows that are not JSON are null."""
        steps = (part.replace("~", "~0").replace("/", "~1") for part in self.column.name.split("."))
        pointer = literal("".join(f"/{step}" for step in steps))
        return f"(select n, case when json_valid(line) then json_extract_string(line, {pointer}) end as t from _page)"

    def _kind(self) -> CursorKind:
        """Return the narrowest type that all values of a page have."""
        parts = ", ".join(f"count({key}) = count(t)" for key in _KEYS.values())
        zoned = f"count(*) filter (where {_HAS_ZONE}), count(t)"
        *fits, with_zone, count = self.con.execute(f"select {parts}, {zoned} from {self._texts()}").fetchall()[0]
        kinds = dict(zip(_KEYS, fits, strict=True))
        if not count:
            return "nothing"
        if kinds["integer"] or kinds["number"]:
            return "integer" if kinds["integer"] else "number"
        if not kinds["instant"]:
            return "text"
        if with_zone not in {0, count}:
            raise SourceError(
                f"some values of the cursor column {self.column.name!r} have a time zone, others have none",
                got=f"a time zone in {with_zone} of {count} values of a response",
                do="use another column",
            )
        return "instant" if with_zone else "timestamp"


def _name(kind: CursorKind, key: str) -> str:
    """Return a key as in `HighWater.seen`."""
    return str(key_of(kind, key)) if key else ""


def _sql(key: Key) -> str:
    return literal(key) if isinstance(key, str) else f"{key}"
