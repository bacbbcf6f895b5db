"""One suite for every system that SQL is sent to: values, cursors, parts, deleted rows, changed columns, and names.

Systems that cannot be started here run it if a variable names a server (tests/rigs/sql_systems.py).
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from decimal import Decimal
from typing import Any

import pytest

from pipeline.connectors.databases import cursor_window
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import SourceError
from pipeline.core.schema import Schema
from pipeline.project import Workspace
from pipeline.testing import ReaderContract, World
from tests.rigs.mysql import mariadb as mariadb  # noqa: PLC0414 - the fixture
from tests.rigs.mysql import mysql_server as mysql_server  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import pg_database as pg_database  # noqa: PLC0414 - the fixture
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture
from tests.rigs.shop import Shop
from tests.rigs.snowflake_account import snowflake_account as snowflake_account  # noqa: PLC0414 - the fixture
from tests.rigs.sql_systems import (
    BIGINT,
    BLOB,
    BOOLEAN,
    DATE,
    FLOAT,
    NAMED,
    NUMBER,
    OWN,
    TEXT,
    TIMESTAMP,
    TIMESTAMPTZ,
    SqlSystem,
    SqlTable,
    sql_system,
)

ALL = [*OWN, *NAMED]
EVENTS = {"id": BIGINT, "at": BIGINT}
DAY = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - naive
MICROSECOND = dt.timedelta(microseconds=1)


@pytest.fixture(params=ALL)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SqlSystem:
    return sql_system(request.param, request, monkeypatch)


@pytest.fixture
def tables(system: SqlSystem) -> Iterator[Any]:
    """Return a function that creates a table, which is dropped in the end."""
    created: list[SqlTable] = []

    def create(columns: dict[str, str], key: str = "id") -> SqlTable:
        created.append(system.table(columns, key))
        return created[-1]

    yield create
    for table in created:
        table.drop()


class Runs:
    """Runs that follow each other: each continues from the cursor of the previous one, as a manifest keeps it."""

    def __init__(self, reader: Any, contract: dict[str, str]) -> None:
        self.reader, self.contract = reader, Schema.of(contract)
        self.cursor: Cursor | None = None
        self.plan: ReadPlan | None = None

    def planned(self, bound: Bound = UNBOUNDED) -> ReadPlan:
        plan = self.reader.plan(self.cursor, bound)
        assert plan.changed == ""
        return plan

    def read(self, plan: ReadPlan) -> list[Any]:
        ids = []
        for split in plan.splits:
            result = self.reader.read(split, self.contract)
            assert result.rejected.num_rows == 0
            ids += result.rows["id"].to_pylist()
        if plan.splits:
            self.cursor = Cursor(**json.loads(json.dumps(asdict(plan.cursor))))
        return sorted(ids)

    def run(self, bound: Bound = UNBOUNDED) -> list[Any]:
        self.plan = self.planned(bound)
        return self.read(self.plan)


class SystemWorld:
    """A table to which rows are added: of every three, two have equal cursors, and one does not fit, if that can be."""

    def __init__(self, system: SqlSystem, table: SqlTable, **options: Any) -> None:
        marks = {"_deleted": BOOLEAN} if "reconcile" in options else {}
        self.schema = {"id": BIGINT, "name": TEXT, "at": TIMESTAMP, **marks}
        self.reader = table.reader(columns=["id", "name", "at"], cursor="changed", **options)
        self._table, self._misfit, self._count = table, system.misfit, 0

    def produce(self) -> int:
        for _ in range(2):
            at = DAY + dt.timedelta(minutes=self._count)
            changed = [at, at + dt.timedelta(minutes=1), at + dt.timedelta(minutes=1)]
            self._table.insert(*((self._count + i, f"n{i}", DAY, changed[i]) for i in range(3)))
            if self._misfit:
                self._table.update(self._misfit, f"[id] = {self._count + 1}")
            self._count += 3
        return 6


WORLD = {"id": BIGINT, "name": TEXT, "at": TIMESTAMP, "changed": TIMESTAMP}


@pytest.mark.share(3)
class TestSqlSystem(ReaderContract):
    @pytest.fixture
    def world(self, system: SqlSystem, tables: Any) -> World:
        return SystemWorld(system, tables(WORLD), lag="1 hour")


@pytest.mark.share(1)
class TestSqlSystemWithDeletes(ReaderContract):
    @pytest.fixture
    def world(self, system: SqlSystem, tables: Any) -> World:
        table = tables(WORLD)
        return SystemWorld(system, table, deleted_when=table.sql("[name] = 'gone'"), reconcile="1 day")


VALUES: dict[str, list[object]] = {
    BIGINT: [2**63 - 1, -(2**63) + 1, 0],
    TEXT: ["", "it's", "日本 \n\t"],
    NUMBER: [Decimal("9999999999999999.9999"), Decimal("-0.0001"), Decimal("1.5000")],
    FLOAT: [0.1, -1.5e300, 5e-300],
    DATE: [dt.date(1, 1, 1), dt.date(9999, 12, 31), dt.date(2024, 2, 29)],
    TIMESTAMP: [DAY + MICROSECOND, dt.datetime(1969, 12, 31, 23, 59, 59, 999999), DAY],  # noqa: DTZ001 - naive
    TIMESTAMPTZ: [
        dt.datetime(2024, 10, 20, 15, 30, 0, 123456, dt.timezone(-dt.timedelta(minutes=30))),
        dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
        dt.datetime(1969, 12, 31, 23, 59, 59, 999999, dt.UTC),
    ],
    BOOLEAN: [True, False, True],
    BLOB: [b"\x00\xff", b"a", b"\r\n"],
}


def of_text(value: object, like: object) -> object:
    """Return the value of a text, which is how a reader without a contract gives a type that the lake does not have."""
    if not isinstance(value, str) or like is None or isinstance(like, str):
        return value
    return type(like).fromisoformat(value) if isinstance(like, dt.date) else type(like)(value)


@pytest.mark.share(6)
def test_values_arrive_exactly_or_not_at_all(system, tables):
    kinds = [kind for kind in VALUES if kind in system.dialect.types]
    columns = {"id": BIGINT, **{f"c{n}": kind for n, kind in enumerate(kinds)}}
    table = tables(columns)
    table.insert(*((n, *(VALUES[kind][n] for kind in kinds)) for n in range(3)), (3, *[None] * len(kinds)))
    reader = table.reader()
    (split,) = reader.plan(None).splits
    for contract in (Schema.of(columns), reader.schema(split.source_object)):
        result = reader.read(split, contract)
        assert result.rejected.num_rows == 0
        rows = sorted(result.rows.to_pylist(), key=lambda row: int(row["id"]))
        for n, kind in enumerate(kinds):
            expected = [*VALUES[kind], system.shown_null(kind)]
            if system.name == "oracle" and kind == TEXT:
                expected[0] = None  # its empty text is null
            read = [row[f"c{n}"] for row in rows]
            assert [of_text(value, like) for value, like in zip(read, expected, strict=True)] == expected, kind


CURSORS = {
    BIGINT: [1, 2, 3, 10],
    TEXT: ["a", "ab", "b", "c"],
    NUMBER: [Decimal("1.0000"), Decimal("1.0001"), Decimal("2.5000"), Decimal("10.0000")],
    DATE: [dt.date(2026, 1, day) for day in (1, 2, 3, 10)],
    TIMESTAMP: [DAY, DAY + MICROSECOND, DAY + 3 * MICROSECOND, DAY + dt.timedelta(days=400)],
    TIMESTAMPTZ: [
        dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.datetime(2026, 1, 1, 11, 0, 0, 1, dt.timezone(dt.timedelta(hours=1))),
        dt.datetime(2026, 1, 1, 11, tzinfo=dt.UTC),
        dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC),
    ],
}
"""By type: four values in their order, of which two differ by as little as the type can tell."""


@pytest.mark.share(15)
@pytest.mark.parametrize("kind", CURSORS)
def test_rows_at_the_boundary_of_a_cursor_are_neither_lost_nor_doubled(system, tables, kind):
    """The greatest value is read; then come an equal one, one that is barely greater, and a greater one."""
    if kind not in system.dialect.types:
        pytest.skip(f"{system.name} has no type {kind}")
    first, barely, greater, last = CURSORS[kind]
    table = tables({"id": BIGINT, "at": kind})
    lag = {"lag": "0 seconds"} if system.name == "postgres" and kind in {TIMESTAMP, TIMESTAMPTZ} else {}
    runs = Runs(table.reader(cursor="at", **lag), table.columns)
    table.insert((1, first), (2, first))
    assert runs.run() == [1, 2]
    assert runs.run() == []
    table.insert((3, first), (4, barely))
    assert runs.run() == [3, 4]
    table.insert((5, barely), (6, greater))
    assert runs.run() == [5, 6]
    table.insert((7, last))
    table.update("[at] = " + system.dialect.literal(last), "[id] = 1")
    assert runs.run() == [1, 7]
    assert runs.run() == []


@pytest.mark.share(5)
def test_a_late_row_is_read_once_if_it_is_within_the_lag(tables):
    table = tables(EVENTS)
    runs = Runs(table.reader(cursor="at", lag=10), EVENTS)
    table.insert((1, 100), (2, 95))
    assert runs.run() == [1, 2]
    table.insert((3, 90), (5, 99))
    assert runs.run() == [3, 5]
    plan = runs.planned()
    table.insert((6, 105), (7, 96))
    assert runs.read(plan) == []
    plan = runs.planned()
    table.insert((8, 97), (9, 106))
    assert runs.read(plan) == [6, 7]
    assert runs.run() == [8, 9]
    assert runs.run() == []


@pytest.mark.share(9)
@pytest.mark.parametrize("policy", ["include", "exclude", "refuse"])
def test_rows_without_a_cursor_follow_the_policy(tables, policy):
    table = tables(EVENTS)
    runs = Runs(table.reader(cursor="at", null_cursors=policy), EVENTS)
    table.insert((1, 1))
    assert runs.run() == [1]
    table.insert((2, None))
    if policy == "refuse":
        with pytest.raises(SourceError, match="the cursor 'at' is null: got 1 row"):
            runs.run()
        return
    assert runs.run() == ([2] if policy == "include" else [])
    table.insert((3, None), (4, 2))
    assert runs.run() == ([3, 4] if policy == "include" else [4])
    assert runs.run() == []


@pytest.mark.share(5)
def test_a_bound_keeps_equal_values_together(system, tables):
    table = tables(EVENTS)
    runs = Runs(table.reader(cursor="at"), EVENTS)
    table.insert((1, 1), (2, 2), (3, 2), (4, 2), (5, 3))
    if system.name == "postgres":  # its parts are those of pages
        assert [runs.run(Bound(rows=2)) for _ in range(4)] == [[1, 2], [3, 4], [5], []]
        return
    assert runs.run(Bound(rows=2)) == [1, 2, 3, 4]
    assert runs.plan.has_more
    assert runs.run(Bound(rows=2)) == [5]
    assert not runs.plan.has_more


@pytest.mark.share(5)
def test_an_empty_table_has_no_splits_and_its_first_rows_are_read(tables):
    table = tables(EVENTS)
    runs = Runs(table.reader(cursor="at"), EVENTS)
    assert runs.run() == []
    table.insert((1, 5))
    assert runs.run() == [1]
    full = table.reader().plan(None)
    assert [split.end - split.begin for split in full.splits] == [1]


@pytest.mark.share(5)
def test_ranges_of_keys_are_read_in_parallel(system, tables, monkeypatch):
    monkeypatch.setattr(cursor_window, "SPLIT_ROWS", 10)
    table = tables(EVENTS)
    table.insert(*((n, n // 2) for n in range(35)))
    for options in ({}, {"cursor": "at"}):
        reader = table.reader(**options)
        plan = reader.plan(None)
        if system.name != "postgres":  # its parts are pages, of which these rows fill one
            assert len(plan.splits) > 3
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda split: reader.read(split, Schema.of(EVENTS)), plan.splits))  # noqa: B023
        rows = [row for result in results for row in result.rows.to_pylist()]
        assert sorted(row["id"] for row in rows) == list(range(35))
        assert sorted(row["_position"] for row in rows) == list(range(1, 36))


@pytest.mark.share(4)
def test_deleted_rows_are_marked_or_missed(tables, tmp_path):
    table = tables({"id": BIGINT, "v": TEXT, "at": TIMESTAMP})
    table.insert(*((n, "a", DAY + n * dt.timedelta(seconds=1)) for n in range(1, 5)))
    reader = table.reader(cursor="at", deleted_when=table.sql("[v] = 'gone'"), reconcile="1 day")
    shop = Shop(tmp_path, reader, lambda change: change())
    shop.run()
    gone = "[v] = 'gone', [at] = " + table.system.dialect.literal(DAY + dt.timedelta(hours=1))
    shop.run(lambda: table.update(gone, "[id] = 1"), lambda: table.delete("[id] = 2"))
    assert shop.rows() == [(2, "a"), (3, "a"), (4, "a")]
    shop.run(hours=24)
    assert shop.rows() == [(3, "a"), (4, "a")]
    shop.run(lambda: table.insert((2, "again", DAY + dt.timedelta(hours=2))))
    assert shop.rows() == [(2, "again"), (3, "a"), (4, "a")]


@pytest.mark.share(4)
def test_changed_columns_follow_the_rules_of_the_source(tables, tmp_path):
    """A new column is added if the source evolves, and a cursor of another type is not compared with the old one."""
    table = tables({"id": BIGINT, "v": TEXT, "at": TIMESTAMP})
    table.insert((1, "a", DAY))
    reader = table.reader(cursor="at", reconcile="1 day")
    shop = Shop(tmp_path, reader, lambda change: change(), new_columns="evolve")
    shop.run()
    table.add_column("more", TEXT)
    table.columns["more"] = TEXT
    shop.run(lambda: table.insert((2, "b", DAY + dt.timedelta(days=1), "x")))
    assert shop.rows() == [(1, "a"), (2, "b")]
    assert Workspace(shop.project()).query("select more from raw where id = 2").to_pylist() == [{"more": "x"}]

    cursor = table.reader(cursor="at").plan(None).cursor
    table.drop()
    table.columns["at"] = BIGINT
    table.create()
    changed = table.reader(cursor="at").plan(cursor)
    assert changed.changed.startswith("the type of the cursor changed from ")


@pytest.mark.share(5)
def test_names_are_read_as_they_are_stored(tables):
    names = ["id", "UPPER", "Mixed Case", "select", "naïve"]
    table = tables(dict.fromkeys(names, BIGINT))
    table.insert((1, 2, 3, 4, 5))
    for options in ({}, {"cursor": "Mixed Case"}, {"columns": names}):
        reader = table.reader(**options)
        (split,) = reader.plan(None).splits
        contract = reader.schema(split.source_object)
        assert contract.names == tuple(names)
        assert reader.read(split, contract).rows.to_pylist() == [{**dict(zip(names, range(1, 6), strict=True)), "_position": 1}]  # fmt: skip
    with pytest.raises(SourceError, match="there is no column 'updated'"):
        table.reader(cursor="updated").plan(None)
