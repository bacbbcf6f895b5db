"""Plans the row versions of a PostgreSQL table, inside one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.connectors.databases.cursor_values import ROW_BYTES, most_rows
from pipeline.connectors.databases.postgres.session import PostgresSession
from pipeline.connectors.databases.postgres.windows import (
    Heap,
    RowRange,
    TransactionProgress,
    UnfinishedScan,
    WindowColumn,
    changed,
    ranges,
    tuple_id,
    version,
    versions,
)
from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, quantity
from pipeline.core.splits import SourceObject, SourceSplit

OLDEST_VERSION = 140000
BLOCK_BYTES = 8192
NARROW_ROWS = 1_000_000
"""Up to this number, the rows that a cursor column leaves are read in one split."""
_HEAPS = """
with recursive tree(oid) as (
  select to_regclass($1)::oid
  union select i.inhrelid from pg_inherits i join tree on i.inhparent = tree.oid where not i.inhdetachpending
)
select c.oid::bigint as oid, format('%I.%I', n.nspname, c.relname) as name, n.nspname || '.' || c.relname as shown,
  c.relkind::text as kind, case when c.relkind in ('r', 'm') then pg_relation_size(c.oid) / 8192 else 0 end as blocks,
  coalesce(pg_relation_filenode(c.oid), 0)::bigint as file_node
from tree join pg_class c on c.oid = tree.oid join pg_namespace n on n.oid = c.relnamespace order by shown
"""
_SNAPSHOT = """
select pg_snapshot_xmin(s)::text::bigint as oldest, pg_snapshot_xmax(s)::text::bigint as newest,
  current_setting('server_version_num')::int as server_version
from pg_current_snapshot() s
"""


@dataclass(frozen=True)
class Transactions:
    """The oldest transaction that is open, and the next one."""

    oldest: int
    newest: int


@dataclass(frozen=True)
class RangeCounts:
    """The numbers of row versions of a range: to be read, read before, newer than the plan, and without a cursor."""

    rows: int
    old: int
    held: int
    nulls: int


@dataclass(frozen=True)
class TableToPlan:
    """A table, and how it is read."""

    uri: str
    name: str
    cursor: WindowColumn | None
    is_mirrored: bool
    """Whether rows that were deleted or updated make everything be read again."""


def plan_table(session: PostgresSession, table: TableToPlan, cursor: Cursor | None, bound: Bound) -> ReadPlan:
    """Return what a table has since a cursor.

    Raises `SourceError` if it does not exist, is no table, or has null cursors that are refused.
    """
    heaps, transactions = heaps_of(session, table), _transactions(session)
    progress, kind = TransactionProgress.of(cursor), "" if table.cursor is None else table.cursor.kind
    system = _system(session)
    reason = changed(progress, heaps, transactions.newest, kind, system)
    if reason:
        return ReadPlan((), TransactionProgress().cursor(), changed=reason)
    return _Planning(session, table, replace(progress, system=system), transactions, heaps).plan(bound)


def heaps_of(session: PostgresSession, table: TableToPlan) -> Mapping[int, Heap]:
    """Return the table and its partitions that have rows, by oid, in the order of their names."""
    rows = session.table(_HEAPS, (table.name,)).to_pylist()
    if not rows:
        raise SourceError(
            "there is no such table", got=table.name, do="check the name and the schema", place=Place(table.uri)
        )
    if foreign := [row for row in rows if row["kind"] not in {"r", "p", "m"}]:
        raise SourceError(
            "only a table has row versions",
            got=f"{foreign[0]['shown']}, a {'view' if foreign[0]['kind'] == 'v' else 'foreign table'}",
            do='read it by query="select * from …"',
            place=Place(table.uri),
        )
    names = ("oid", "name", "shown", "blocks", "file_node")
    return {row["oid"]: Heap(*(row[name] for name in names)) for row in rows if row["kind"] != "p"}


def _system(session: PostgresSession) -> str:
    """Return the identifier of the server's data; empty if the user may not know it."""
    if not session.row("select has_function_privilege('pg_control_system()', 'execute') as is_allowed")["is_allowed"]:
        return ""
    return str(session.row("select system_identifier::text as system from pg_control_system()")["system"])


def _transactions(session: PostgresSession) -> Transactions:
    row = session.row(_SNAPSHOT)
    if row["server_version"] < OLDEST_VERSION:
        raise SourceError(
            "this server is too old to be read by transactions",
            got=f"version {row['server_version'] // 10000}",
            do='use PostgreSQL 14 or later, or read the table by query="select * from …"',
        )
    return Transactions(row["oldest"], row["newest"])


@dataclass(frozen=True)
class _Planning:
    session: PostgresSession
    table: TableToPlan
    progress: TransactionProgress
    transactions: Transactions
    heaps: Mapping[int, Heap]

    @property
    def until(self) -> int:
        scan = self.progress.scan
        return self.transactions.oldest if scan is None else scan.until

    @property
    def condition(self) -> str:
        return "" if self.table.cursor is None else self.table.cursor.condition(self.progress.high)

    def plan(self, bound: Bound) -> ReadPlan:
        counted = list(self._counted())
        total = RangeCounts(
            *(sum(getattr(c, name) for _, _, c in counted) for name in ("rows", "old", "held", "nulls"))
        )
        self._refuse_nulls(total.nulls)
        if self.table.is_mirrored and self.progress.scan is None and self.progress.through:
            vanished = self.progress.rows - total.old
            if vanished:
                return ReadPlan((), TransactionProgress().cursor(), changed="rows were updated or deleted")
        high, oids = self._end_of_scan()
        splits, rest = self._splits(counted, most_rows(bound))
        rows = sum(split.end - split.begin for split in splits if split.end is not None)
        if rest is None:
            system = self.progress.system
            after = TransactionProgress(self.until, self.progress.rows + rows, oids, high, self._kind, system=system)
        else:
            nodes = tuple(self.heaps[oid].file_node for oid in oids)
            scan = UnfinishedScan(self.until, high, oids, nodes, *rest)
            after = replace(self.progress, rows=self.progress.rows + rows, scan=scan)
        return ReadPlan(
            tuple(splits),
            after.cursor(),
            new=f"{quantity(rows, 'row version')}{', more are left' * (rest is not None)}" if rows else "",
            is_later=self.table.is_mirrored,  # another version of a row may have been read
            has_more=rest is not None,
            notes=self._notes(total.held, bound),
        )

    @property
    def _kind(self) -> str:
        return "" if self.table.cursor is None else self.table.cursor.kind

    def _notes(self, held: int, bound: Bound) -> tuple[str, ...]:
        notes = []
        if held:
            notes.append(
                f"{quantity(held, 'row')} of transactions newer than the oldest open one are left for the next run"
            )
        if bound.until is not None:
            notes.append(f"{self.table.uri} is read as it is now, because a database has no earlier states")
        return tuple(notes)

    def _refuse_nulls(self, nulls: int) -> None:
        if nulls and self.table.cursor is not None and self.table.cursor.nulls == "refuse":
            raise SourceError(
                f"the cursor {self.table.cursor.name!r} is null",
                got=quantity(nulls, "row"),
                do='fill it, or pass null_cursors="include" or "exclude"',
                place=Place(self.table.uri),
            )

    def _counted(self) -> Iterator[tuple[Heap, RowRange, RangeCounts]]:
        """Yield the ranges that are not read yet, with what they contain."""
        scan, known = self.progress.scan, set(self.progress.oids)
        for heap in self.heaps.values():
            if scan is not None and (heap.oid not in scan.oids or self._is_before(heap.oid, scan)):
                continue
            after = scan.after if scan is not None and heap.oid == scan.heap else None
            since = self.progress.through if heap.oid in known else 0
            for each in self._divided(heap, since, after):
                yield heap, each, self._counts(each)

    def _is_before(self, oid: int, scan: UnfinishedScan) -> bool:
        return scan.oids.index(oid) < scan.oids.index(scan.heap)

    def _divided(self, heap: Heap, since: int, after: tuple[int, int] | None) -> tuple[RowRange, ...]:
        """Return the ranges of a table: one if a condition leaves few rows."""
        divided = ranges(heap, since, self.until, self.condition, after)
        if self.condition and heap.blocks > len(divided) and self._counts(divided[0]).rows > NARROW_ROWS:
            wide = ranges(heap, since, self.until, "", after)
            return tuple(replace(each, condition=self.condition) for each in wide)
        return divided

    def _counts(self, each: RowRange) -> RangeCounts:
        newest = self.transactions.newest
        everything = replace(each, since=0, until=newest + 1)
        is_new = versions(each.since, each.until, newest)
        items = {
            "rows": f"count(*) filter (where {is_new})",
            "old": f"count(*) filter (where {version(newest)} < {each.since})" if each.since else "0",
            "held": f"count(*) filter (where {version(newest)} >= {each.until})" if each.until < newest else "0",
            "nulls": "0"
            if self.table.cursor is None
            else f"count(*) filter (where {is_new} and {self.table.cursor.sql} is null)",
        }
        if not each.since and each.until == newest:
            items["rows"] = "count(*)"
        listed = ", ".join(f"{sql}::bigint as {name}" for name, sql in items.items())
        return RangeCounts(
            **self.session.row(f"select {listed} from only {each.heap} t where {everything.where(None)}")
        )

    def _end_of_scan(self) -> tuple[str | None, tuple[int, ...]]:
        """Return the cursor value and the tables of the progress after the scan."""
        if self.progress.scan is not None:
            return self.progress.scan.high, self.progress.scan.oids
        return self._high(), tuple(self.heaps)

    def _high(self) -> str | None:
        """Return the cursor value below which the next plan need not look: no row at or above it was held back.

        Values of the future, with a margin for time zones, do not count, because one of them would hide all others.
        """
        column, before = self.table.cursor, self.progress.high
        if column is None:
            return None
        newest, at = self.transactions.newest, column.sql
        is_time = column.kind in {"date", "timestamp", "timestamptz"}
        is_past = f" and {at} <= (now() + interval '14 hours')::{column.kind}" if is_time else ""
        is_read, is_held = versions(0, self.until, newest), f"{version(newest)} >= {self.until}"
        least = f"min({at}) filter (where {is_held})" if self.until < newest else "null"
        known = "null" if before is None else column.typed(before)
        greatest = f"greatest({known}, max({at}) filter (where {is_read}{is_past}))"
        where = f" where {column.condition(before)}" if column.condition(before) else ""
        finite = f"{at} > '-infinity'" if is_time else "true"
        if column.kind == "numeric":  # NaN is greater than all numbers, and would hide them
            finite = f"{at}::text not in ('NaN', 'Infinity', '-Infinity')"
        where = f"{where} and {finite}" if where else f" where {finite}"
        query = f"select least({greatest}, {least})::text as high from {self.table.name} t{where}"
        high: str | None = self.session.row(query)["high"]
        return high

    def _splits(
        self, counted: Sequence[tuple[Heap, RowRange, RangeCounts]], most: int | None
    ) -> tuple[list[SourceSplit], tuple[int, tuple[int, int]] | None]:
        """Return the splits, and the place of the last row version if a limit left some."""
        splits: list[SourceSplit] = []
        position, last = self.progress.rows, None
        for heap, each, counts in counted:
            if not counts.rows:
                continue
            if most is not None and last is not None and position - self.progress.rows >= most:
                return splits, last
            rows, used = counts.rows, each
            if most is not None and position + rows - self.progress.rows > most:
                rows = most - (position - self.progress.rows)
                used = replace(each, end=self._place_of(each, rows))
            splits.append(self._split(heap, used, position, rows))
            position, last = position + rows, (heap.oid, used.end)
            if rows < counts.rows:
                return splits, last
        return splits, None

    def _split(self, heap: Heap, each: RowRange, position: int, rows: int) -> SourceSplit:
        each = replace(each, has_all=self.until == self.transactions.newest)
        table = SourceObject(f"{self.table.uri}/{heap.shown}", heap.blocks * BLOCK_BYTES, each.stamp())
        blocks = min(each.end[0] + 1, heap.blocks) - each.after[0]
        size = max(1, min(blocks * BLOCK_BYTES, rows * ROW_BYTES) if self.condition else blocks * BLOCK_BYTES)
        return SourceSplit(table, position, position + rows, position + 1, size)

    def _place_of(self, each: RowRange, rows: int) -> tuple[int, int]:
        """Return the place of the row version of this number in a range."""
        first = replace(each, condition=each.condition or "true").query("t.ctid as place", self.transactions.newest)
        return tuple_id(self.session.row(f"select max(place)::text as place from ({first} limit {rows}) r")["place"])
