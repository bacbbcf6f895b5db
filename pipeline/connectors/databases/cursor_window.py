"""Plans the rows of a table or a query by a cursor column, for databases that do not show which transaction wrote a row.

A plan reads the rows above the greatest value of the previous plan, up to the greatest value now. Rows may be committed
late: those whose value is at most `lag` below the greatest one are compared with the ones that were read. The rows are
recognized by their key and their value, so rows with equal values, and late ones, are read once.

Each query of a plan may see rows that the previous one did not, because not every session has a snapshot. The rows that
are stored as read are therefore those that earlier plans have read and those of this plan's splits, and no others: a row
that only a later query sees is left for the next plan.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline.connectors.databases.columns import DatabaseColumn, FetchedColumn
from pipeline.connectors.databases.cursor_values import (
    ROW_BYTES,
    Lag,
    NullCursors,
    check_lag,
    cuts,
    less_lag,
    most_rows,
)
from pipeline.connectors.databases.deletes import Deletes, KeyComparison, vanished_keys
from pipeline.connectors.databases.seen_rows import NO_HASHES, SeenRows, among, hashes_of
from pipeline.connectors.databases.sessions import SqlDatabase, SqlSession, is_integer
from pipeline.connectors.databases.typed_rows import with_types
from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, did_you_mean, quantity
from pipeline.core.splits import SourceObject, SourceSplit

KIND = "window"
SPLIT_ROWS = 500_000
_KEYS_PER_SPLIT = 10_000


@dataclass(frozen=True)
class QueryOptions:
    """What is read from a database, and how it is known what is new."""

    table: str = ""
    """The name of a table, with dots between the parts; empty for a query."""
    query: str = ""
    columns: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    cursor: str | None = None
    lag: Lag | None = None
    null_cursors: NullCursors = "include"
    deletes: Deletes | None = field(default=None, repr=False)
    """How deleted rows are recognized; not shown, so that the fingerprints of readers without it stay as they are."""

    @property
    def shown(self) -> str:
        """The table as it is shown, `query` for a query."""
        return self.table or "query"

    def relation(self, database: SqlDatabase) -> str:
        """Return the table or the query for a FROM clause."""
        return f"({self.query})" if self.query else ".".join(database.quote(part) for part in self.table.split("."))


@dataclass(frozen=True)
class WindowProgress:
    """What was read: all rows up to the value `high`, and which ones of those within the lag."""

    rows: int = 0
    high: str | None = None
    type: str = ""
    seen: SeenRows = field(default_factory=SeenRows)
    nulls: SeenRows = field(default_factory=SeenRows)
    stamp: str | None = None
    """For a table that is read in full: the stamp of the database."""
    compared: str | None = None
    """When the keys were compared last, in ISO format."""

    @classmethod
    def of(cls, cursor: Cursor) -> WindowProgress:
        """Return the progress in a cursor."""
        value = dict(cursor.of_kind(KIND))
        seen, nulls = (SeenRows.of_json(value.pop(name)) for name in ("seen", "nulls"))
        return cls(**value, seen=seen, nulls=nulls)

    def cursor(self) -> Cursor:
        """Return the progress as a cursor."""
        value = {"rows": self.rows, "high": self.high, "type": self.type, "stamp": self.stamp}
        value |= {} if self.compared is None else {"compared": self.compared}
        return Cursor(KIND, {**value, "seen": self.seen.to_json(), "nulls": self.nulls.to_json()})


@dataclass(frozen=True)
class QueryRange:
    """Rows of a table or a query: those for which a condition is true, and, if hashes are given, only these."""

    condition: str = ""
    order: str = ""
    identity: tuple[str, ...] = ()
    """The columns that the hashes are computed from."""
    hashes: tuple[str, ...] | None = None
    vanished: tuple[tuple[str, ...], ...] | None = None
    """The keys of rows that vanished; then nothing is read."""

    @classmethod
    def of(cls, stamp: str) -> QueryRange:
        """Return the range in the stamp of a source object."""
        value: dict[str, Any] = json.loads(stamp or "{}")
        lists = {name: tuple(value[name]) for name in ("identity", "hashes") if value.get(name) is not None}
        vanished = value.pop("vanished", None)
        return cls(**{**value, **lists}, vanished=None if vanished is None else tuple(map(tuple, vanished)))

    def stamp(self) -> str:
        """Return the range as text."""
        value = asdict(self)
        return json.dumps({name: each for name, each in value.items() if name != "vanished" or each is not None})


def plan_query(
    database: SqlDatabase,
    session: SqlSession,
    options: QueryOptions,
    cursor: Cursor | None,
    bound: Bound,
    comparison: KeyComparison | None = None,
) -> ReadPlan:
    """Return what is new since a cursor; without a cursor column, everything whenever the database has changed.

    Raises `SourceError` if the table has no such column, no key, or null cursors that are refused.
    """
    columns = {column.name: column for column in session.columns(options.relation(database))}
    key = options.key or (session.key(options.table) if options.table else ())
    for name in (*key, *([options.cursor] if options.cursor else [])):
        if name not in columns:
            raise SourceError(f"there is no column {name!r}", do=did_you_mean(name, columns), place=Place(database.uri))
    planning = _Planning(database, session, options, columns, key, comparison)
    return planning.full(cursor) if options.cursor is None else planning.since(cursor, bound)


@dataclass(frozen=True)
class _Planning:
    database: SqlDatabase
    session: SqlSession
    options: QueryOptions
    columns: Mapping[str, DatabaseColumn]
    key: tuple[str, ...]
    comparison: KeyComparison | None = None

    @property
    def place(self) -> Place:
        return Place(f"{self.database.uri}/{self.options.shown}")

    @property
    def relation(self) -> str:
        return self.options.relation(self.database)

    @property
    def column(self) -> DatabaseColumn:
        return self.columns[self.options.cursor or ""]

    @property
    def at(self) -> str:
        return self._sql(self.column.name)

    @property
    def is_missing(self) -> str:
        """The condition of rows without a value, or with one that has no place in an order of times, such as infinity."""
        misfit = self.column.misfit
        return f"({self.at} is null or ({misfit}))" if misfit else f"{self.at} is null"

    @property
    def is_there(self) -> str:
        """The condition of the other rows."""
        misfit = self.column.misfit
        return f"{self.at} is not null and not ({misfit})" if misfit else f"{self.at} is not null"

    def _sql(self, name: str) -> str:
        return f"t.{self.database.quote(name)}"

    def full(self, cursor: Cursor | None) -> ReadPlan:
        """Plan everything, unless the database has not changed."""
        stamp = self.session.stamp()
        if cursor is not None:
            before = WindowProgress.of(cursor)
            if stamp is None or before.stamp != stamp:
                why = "it is read in full by each run" if stamp is None else "the database was written to"
                return ReadPlan((), cursor, changed=why)
            return ReadPlan((), cursor)
        order = ", ".join(self._sql(name) for name in self.key)
        splits, rows = self._numbered(self._parts_by_key(order), 0)
        return ReadPlan(splits, WindowProgress(rows, stamp=stamp).cursor(), new=quantity(rows, "row") if rows else "")

    def _parts_by_key(self, order: str) -> Iterator[tuple[QueryRange, int]]:
        """Yield parts of all rows, between values of a key that is one integer.

        Every row is in one of them: also one whose key is null, or of another type, which SQLite accepts.
        """
        count = self._count("")
        column = self.columns[self.key[0]] if len(self.key) == 1 else None
        if count <= SPLIT_ROWS or column is None or not is_integer(column.type):
            yield QueryRange(order=order), count
            return
        ends = self.session.table(f"select min({column.value}) as a, max({column.value}) as b from {self.relation} t")
        low, high = (str(end[0].as_py()) for end in ends.columns)
        are_integers = low.removeprefix("-").isdigit() and high.removeprefix("-").isdigit()
        inner = cuts(low, high, column.type, -(-count // SPLIT_ROWS)) if are_integers else []
        at = self._sql(column.name)
        tests = _between(at, [self.database.literal(column, value) for value in inner])
        for condition in [f"({tests[0]} or {at} is null)", *tests[1:]] if tests else [""]:
            yield QueryRange(condition, order), self._count(condition)

    def since(self, cursor: Cursor | None, bound: Bound) -> ReadPlan:
        """Plan the rows above the cursor, and the late ones."""
        self._require_key()
        check_lag(self.options.lag, self.column.type)
        before = WindowProgress() if cursor is None else WindowProgress.of(cursor)
        if before.high is not None and before.type != self.column.type:
            why = f"the type of the cursor changed from {before.type} to {self.column.type}"
            return ReadPlan((), WindowProgress().cursor(), changed=why)
        high, has_more = self._next_high(before.high, bound)
        late, read, notes = self._late(before)
        nulls, null_rows = self._null_rows(before)
        main, seen = ([], before.seen) if high is None else self._main(before.high, high, read)
        vanished, compared = self._vanished(before)
        gone = list(self._divided_keys(vanished or ()))
        splits, rows = self._numbered([*late, *nulls, *main, *gone], before.rows)
        if not splits and vanished is not None:  # a commit keeps the time of the comparison
            splits = (SourceSplit(SourceObject(self.place.file, 0, QueryRange(vanished=()).stamp()), rows, rows),)
        after = WindowProgress(before.rows + rows, high, self.column.type, seen, null_rows, compared=compared)
        if bound.until is not None:
            notes = (*notes, f"{self.place} is read as it is now, because a database has no earlier states")
        return ReadPlan(
            splits,
            after.cursor(),
            new=new_text(quantity(rows, "row") if rows else "", vanished, has_more=has_more),
            is_later=False,  # another version of a row may have been read
            has_more=has_more,
            notes=notes,
        )

    def _vanished(self, before: WindowProgress) -> tuple[tuple[tuple[str, ...], ...] | None, str | None]:
        """Return the keys that vanished, `None` if they were not compared, and the time of the last comparison."""
        comparison, deletes = self.comparison, self.options.deletes
        if comparison is None or deletes is None or deletes.every is None:
            return None, None
        now = comparison.time.isoformat()
        if before.high is None and before.compared is None:
            return None, now
        if comparison.stored is None or not comparison.is_due(deletes.every, before.compared):
            return None, before.compared or now
        key = {name: self.columns[name] for name in self.key}
        return vanished_keys(comparison.stored, key, self._key_fetches()), now

    def _key_fetches(self) -> list[Callable[[], pa.Table]]:
        """Return functions that fetch the keys of the table, each those of a range, on a connection of its own."""
        columns = [FetchedColumn(self.columns[name], self.columns[name].value, "") for name in self.key]
        items = ", ".join(f"{each.sql} as {self.database.quote(each.column.name)}" for each in columns)

        def fetch(condition: str) -> pa.Table:
            where = f" where {condition}" if condition else ""
            with self.database.connected() as session:
                rows = session.rows(f"select {items} from {self.relation} t{where}", columns, [])
            return with_types(rows, (each.column for each in columns))

        return [partial(fetch, part.condition) for part, _ in self._parts_by_key("")]

    def _divided_keys(self, keys: Sequence[tuple[str, ...]]) -> Iterator[tuple[QueryRange, int]]:
        for begin in range(0, len(keys), _KEYS_PER_SPLIT):
            part = tuple(keys[begin : begin + _KEYS_PER_SPLIT])
            yield QueryRange(identity=self.key, vanished=part), len(part)

    def _require_key(self) -> None:
        if not self.key:
            raise SourceError(
                "a cursor needs a key, by which the rows with equal values are recognized",
                got=f"no primary key of {self.options.shown}",
                do='pass key="…", with columns that are unique together',
                place=self.place,
            )

    def _next_high(self, before: str | None, bound: Bound) -> tuple[str | None, bool]:
        """Return the greatest value to read, and whether a bound leaves rows above it. Rows with equal values stay together."""
        newer = self.is_there if before is None else f"{self.at} > {self._literal(before)} and {self.is_there}"
        base = f"select {self.column.text} as high from {self.relation} t where {newer} order by {self.at}"
        newest = self._one(self.database.limited(f"{base} desc", 1))
        most = most_rows(bound)
        if newest is None or most is None:
            return newest or before, False
        limit = self._one(self.database.limited(base, 1, most - 1))
        return (limit, limit != newest) if limit is not None else (newest, False)

    def _late(self, before: WindowProgress) -> tuple[list[tuple[QueryRange, int]], pa.ChunkedArray, tuple[str, ...]]:
        """Return the rows of the previous window that were not read, and the hashes of all its rows."""
        if before.high is None:
            return [], NO_HASHES, ()
        condition = self._window(before.high)
        hashes = self._hashes(condition)
        unseen = before.seen.unseen(hashes)
        if unseen == ():
            return [], hashes, ()
        whole = self._range(condition, unseen)
        if unseen is not None:
            return [(whole, len(unseen))], hashes, ()
        note = f"{quantity(len(hashes), 'row')} near the cursor are read again, because some of them are new and it is not known which: choose a shorter lag or finer values"
        return [(whole, len(hashes))], hashes, (note,)

    def _null_rows(self, before: WindowProgress) -> tuple[list[tuple[QueryRange, int]], SeenRows]:
        condition, policy = self.is_missing, self.options.null_cursors
        if policy == "exclude":
            return [], before.nulls
        hashes = self._hashes(condition)
        if policy == "refuse" and len(hashes):
            raise SourceError(
                f"the cursor {self.column.name!r} is null",
                got=quantity(len(hashes), "row"),
                do='fill it, or pass null_cursors="include" or "exclude"',
                place=self.place,
            )
        unseen = before.nulls.unseen(hashes)
        if unseen == ():
            return [], before.nulls
        count = len(hashes) if unseen is None else len(unseen)
        return [(self._range(condition, unseen), count)], SeenRows.of(hashes)

    def _main(
        self, before: str | None, high: str, read: pa.ChunkedArray
    ) -> tuple[list[tuple[QueryRange, int]], SeenRows]:
        """Return the rows above the previous plan, and those of the new window that are then read.

        The rows within the lag are fixed by their hashes. `read` are the hashes of the rows of the previous window.
        """
        if high == before:
            return [], SeenRows.of(read)
        above = [] if before is None else [f"{self.at} > {self._literal(before)}"]
        there = [self.is_there] if self.column.misfit else []
        tail = " and ".join([*above, self._window(high)])
        fixed = self._hashes(tail)
        seen = SeenRows.of(pa.chunked_array([*self._still_near(before, high, read).chunks, *fixed.chunks], pa.string()))
        if seen.hashes is None:
            condition = " and ".join([*above, f"{self.at} <= {self._literal(high)}", *there])
            return self._divided(condition, before, high), seen
        low = less_lag(high, self.column.type, self.options.lag)
        body = " and ".join([*above, f"{self.at} < {self._literal(low)}", *there])
        parts = self._divided(body, before, low)
        return [*parts, (self._range(tail, tuple(fixed.to_pylist())), len(fixed))], seen

    def _still_near(self, before: str | None, high: str, read: pa.ChunkedArray) -> pa.ChunkedArray:
        """Return the hashes of the rows up to the previous value that are within the lag of the new one, if they are read."""
        if not len(read) or self.options.lag is None:
            return NO_HASHES
        return among(self._hashes(f"{self._window(high)} and {self.at} <= {self._literal(str(before))}"), read)

    def _divided(self, condition: str, low: str | None, high: str) -> list[tuple[QueryRange, int]]:
        """Return parts of the rows below the window, each of about `SPLIT_ROWS`."""
        count = self._count(condition)
        if count <= SPLIT_ROWS:
            return [(self._range(condition), count)]
        first = low or self._one(
            self.database.limited(
                f"select {self.column.text} as low from {self.relation} t where {condition} order by {self.at}", 1
            )
        )
        inner = cuts(first or high, high, self.column.type, -(-count // SPLIT_ROWS))
        tests = _between(self.at, [self._literal(value) for value in inner])
        parts = [f"{condition} and {test}" for test in tests] or [condition]
        return [(self._range(part), self._count(part)) for part in parts]

    def _window(self, high: str) -> str:
        """Return the condition of the values that are at most the lag below a value."""
        low = less_lag(high, self.column.type, self.options.lag)
        there = f" and {self.is_there}" if self.column.misfit else ""
        return f"{self.at} >= {self._literal(low)} and {self.at} <= {self._literal(high)}{there}"

    def _literal(self, value: str) -> str:
        return self.database.literal(self.column, value)

    def _range(self, condition: str, hashes: tuple[str, ...] | None = None) -> QueryRange:
        order = ", ".join([self.at, *(self._sql(name) for name in self.key)])
        return QueryRange(condition, order, (*self.key, self.column.name), hashes)

    def _hashes(self, condition: str) -> pa.ChunkedArray:
        names = (*self.key, self.column.name)
        query = f"select {identity_list(self.database, self.columns, names)} from {self.relation} t where {condition}"
        return hashes_of(self.session.table(query), [f"_id{n}" for n in range(len(names))])

    def _one(self, query: str) -> str | None:
        rows = self.session.table(query)
        return None if rows.num_rows == 0 else str(rows.column(0)[0].as_py())

    def _count(self, condition: str) -> int:
        where = f" where {condition}" if condition else ""
        return int(self.session.table(f"select count(*) as n from {self.relation} t{where}").column(0)[0].as_py())

    def _numbered(
        self, parts: Iterator[tuple[QueryRange, int]] | list[tuple[QueryRange, int]], before: int
    ) -> tuple[tuple[SourceSplit, ...], int]:
        """Return the splits, whose rows are numbered after those that were read before, and the number of rows."""
        splits, position = [], before
        for part, rows in parts:
            if rows:
                size = rows * ROW_BYTES
                table = SourceObject(self.place.file, size, part.stamp())
                splits.append(SourceSplit(table, position, position + rows, position + 1, size))
                position += rows
        return tuple(splits), position - before


def new_text(rows: str, vanished: Sequence[object] | None, *, has_more: bool) -> str:
    """Return what a plan found; `rows` is their number, and empty if there are none."""
    gone = f", of which {len(vanished):,} vanished" if vanished else ""
    nothing = "" if vanished is None else "the keys were compared, and none vanished"
    return f"{rows}{gone}{', more are left' * has_more}" if rows else nothing


def _between(at: str, values: Sequence[str]) -> list[str]:
    """Return conditions of the ranges between values; the first and the last range have one end."""
    return [
        *(f"{at} <= {value}" for value in values[:1]),
        *(f"{at} > {a} and {at} <= {b}" for a, b in itertools.pairwise(values)),
        *(f"{at} > {value}" for value in values[-1:]),
    ]


def identity_list(database: SqlDatabase, columns: Mapping[str, DatabaseColumn], names: tuple[str, ...]) -> str:
    """Return the SELECT list of the columns that identify a row, as text."""
    return ", ".join(f"{columns[name].text} as {database.quote(f'_id{n}')}" for n, name in enumerate(names))


def without_lag(options: QueryOptions) -> QueryOptions:
    """Return the options that determine the rows."""
    return replace(options, lag=None)
