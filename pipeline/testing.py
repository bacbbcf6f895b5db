"""The contract tests of connectors, as a class to inherit. Requires pytest.

from pipeline.testing import ReaderContract, World

class TestTickets(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path) -> World:
        return TicketsWorld(tmp_path)  # has a reader, and can produce more rows for it
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pytest

from pipeline.commit.moments import Moment
from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.graph import Graph
from pipeline.core.schema import Schema
from pipeline.core.settings import Settings
from pipeline.core.source_declaration import source
from pipeline.core.sources import MISFIT, POSITION, SOURCE, Reader, ReadResult, Scannable
from pipeline.governance import RunRecord
from pipeline.kernel.engine import arrow, connect, no_rows, schema_of
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import listed
from pipeline.project import Project, Workspace
from pipeline.runner import Runner, RunOptions
from pipeline.runner.events import Event

__all__ = ["ReaderContract", "World"]


class World(Protocol):
    """The connector under test, and the system that it reads."""

    @property
    def reader(self) -> Reader:
        """The reader; may be a new instance at each access."""

    @property
    def schema(self) -> Mapping[str, str]:
        """The columns of its rows."""

    def produce(self) -> int:
        """Add some rows to the system, and return their number."""


class ReaderContract:
    """The contract of readers. Inherit this class, and define the fixture `world`, which returns the connector under test."""

    def test_each_row_is_read_once(self, world: World) -> None:
        """Every row is in exactly one split of the plan, at a unique position."""
        count = world.produce()
        readings = _read(world, world.reader.plan(None))
        assert sum(_size(reading) for _, reading in readings) == count
        places = [(uri, at) for uri, reading in readings for at in _positions(reading)]
        assert len(set(places)) == count

    def test_reading_again_gives_the_same(self, world: World) -> None:
        """Reading a split twice returns the same rows in the same order."""
        world.produce()
        plan = world.reader.plan(None)
        for (_, first), (_, again) in zip(_read(world, plan), _read(world, plan), strict=True):
            assert first.rows.equals(again.rows)
            assert first.rejected.equals(again.rejected)

    def test_rows_have_the_columns_of_the_contract(self, world: World) -> None:
        """Rows have the columns of the contract, followed by their position."""
        world.produce()
        for _, reading in _read(world, world.reader.plan(None)):
            assert reading.rows.column_names == [*world.schema, POSITION]

    def test_a_scan_gives_what_reading_gives(self, world: World) -> None:
        """Scanning a split, if it is supported, returns the same rows as reading it, with the types of the contract."""
        world.produce()
        reader, schema = world.reader, Schema.of(world.schema)
        if not isinstance(reader, Scannable):
            return
        for split in reader.plan(None).splits:
            reading = reader.read(split, schema)
            with connect(Limits(threads=1)) as con, reader.scan(con, split, schema) as scan:
                if scan is None:
                    continue
                kinds = schema_of(con, f"select {listed(schema.names)} from ({scan.query})")
                assert kinds == schema_of(con, no_rows(schema))
                if reading.rejected.num_rows == 0:
                    query = f"select {listed((*schema.names, POSITION))} from ({scan.query}) where not {MISFIT}"
                    assert arrow(con, query).to_pylist() == reading.rows.to_pylist()

    def test_a_cursor_is_small_json(self, world: World) -> None:
        """A cursor survives conversion to JSON and back, and has a kind and a format version."""
        world.produce()
        cursor = world.reader.plan(None).cursor
        assert _kept(cursor) == cursor
        assert cursor.kind
        assert cursor.format_version >= 1

    def test_nothing_is_new_after_everything_was_read(self, world: World) -> None:
        """A plan from the last cursor is empty, also if it is repeated."""
        world.produce()
        plan = world.reader.plan(None)
        for _ in range(2):
            after = world.reader.plan(_kept(plan.cursor))
            assert (after.splits, after.changed, after.lost, after.gaps) == ((), "", (), ())

    def test_only_what_is_new_is_read(self, world: World) -> None:
        """A plan contains exactly the data that was added after the previous plan."""
        world.produce()
        first = world.reader.plan(None)
        count = world.produce()
        assert sum(_size(reading) for _, reading in _read(world, world.reader.plan(_kept(first.cursor)))) == count

    def test_a_plan_is_not_moved_by_what_comes_after_it(self, world: World) -> None:
        """Rows that are added between planning and reading belong to the next plan."""
        count = world.produce()
        plan = world.reader.plan(None)
        more = world.produce()
        assert sum(_size(reading) for _, reading in _read(world, plan)) == count
        assert sum(_size(reading) for _, reading in _read(world, world.reader.plan(_kept(plan.cursor)))) == more

    @pytest.mark.parametrize("bound", [Bound(rows=1), Bound(rows=3), Bound(size_bytes=1)], ids=str)
    def test_bounded_plans_one_after_the_other_read_everything(self, world: World, bound: Bound) -> None:
        """For any bound, no plan is empty until all data is read, and the plans together contain every row once."""
        count = world.produce() + world.produce()
        taken, cursor = 0, None
        for _ in range(count + 1):
            plan = world.reader.plan(cursor, bound)
            if not plan.splits:
                break
            taken += sum(_size(reading) for _, reading in _read(world, plan))
            cursor = _kept(plan.cursor)
        assert taken == count

    def test_it_is_sent_to_workers(self, world: World) -> None:
        """A pickled reader reads the same rows."""
        count = world.produce()
        reader: Reader = pickle.loads(pickle.dumps(world.reader))  # noqa: S301 - our own
        assert reader.fingerprint == world.reader.fingerprint
        assert sum(_size(reading) for _, reading in _read(world, world.reader.plan(None), reader)) == count

    def test_a_run_reads_what_came_since_the_last_one(self, world: World, tmp_path: Path) -> None:
        """`headwater run` builds the table, then appends new rows, then skips it."""
        project, produced = _project(world, tmp_path), world.produce()
        assert _decisions(Runner(project).run()) == ["create"]
        assert _rows(project) == produced
        assert _decisions(Runner(project).run()) == ["skip"]
        produced += world.produce()
        assert _decisions(Runner(project).run()) == ["append"]
        assert _rows(project) == produced
        assert _decisions(Runner(project).run()) == ["skip"]
        assert _rows(project) == produced

    @pytest.mark.parametrize("moment", [Moment.DECIDED, Moment.STAGED, Moment.COMMITTED])
    def test_a_run_that_dies_loses_and_doubles_nothing(self, world: World, tmp_path: Path, moment: Moment) -> None:
        """A run that is killed between planning, reading and commit is repeated after more rows were added."""
        project, produced = _project(world, tmp_path), 0
        for _ in range(2):
            produced += world.produce()
            with pytest.raises(_DiedError):
                Runner(project, observer=_dying_at(moment)).run()
            produced += world.produce()
            Runner(project).run()
            assert _rows(project) == produced

    def test_a_full_run_gives_the_same(self, world: World, tmp_path: Path) -> None:
        """Incremental runs read the same rows as a full run."""
        project = _project(world, tmp_path)
        for _ in range(2):
            world.produce()
            Runner(project).run()
        before = _content(project)
        Runner(project, RunOptions(full=True)).run()
        assert _content(project) == before


class _DiedError(Exception):
    """Raised to end a run at a chosen moment."""


def _dying_at(moment: Moment) -> Any:
    def observe(event: Event) -> None:
        if event.moment is moment:
            raise _DiedError

    return observe


def _read(world: World, plan: ReadPlan, reader: Reader | None = None) -> list[tuple[str, ReadResult]]:
    schema, used = Schema.of(world.schema), world.reader if reader is None else reader
    return [(split.source_object.uri, used.read(split, schema)) for split in plan.splits]


def _size(reading: ReadResult) -> int:
    return int(reading.rows.num_rows + reading.rejected.num_rows)


def _positions(reading: ReadResult) -> Sequence[int]:
    return [*reading.rows.column(POSITION).to_pylist(), *reading.rejected.column(POSITION).to_pylist()]


def _kept(cursor: Cursor) -> Cursor:
    """Return a cursor after conversion to JSON and back, as in a manifest."""
    return Cursor(**json.loads(json.dumps(asdict(cursor))))


def _project(world: World, folder: Path) -> Project:
    rows = source(world.reader, schema=world.schema).named("rows")
    home = folder / "project"
    home.mkdir()
    settings = Settings(
        "contract",
        home,
        home / "none.py",
        lake=str(home / "lake"),
        warehouse=str(home / "warehouse.duckdb"),
        catalog=f"sqlite:///{home / 'catalog.db'}",
    )
    return Project(settings, Graph.of([rows]))


def _decisions(run: RunRecord) -> list[str]:
    return [step.decision for step in run.steps]


def _rows(project: Project) -> int:
    workspace = Workspace(project)
    quarantined = workspace.lake.quarantine("rows").version()
    return workspace.require("rows").rows + (0 if quarantined is None else quarantined.rows)


def _content(project: Project) -> list[Any]:
    table = Workspace(project).query(f"select * exclude (_ingested_at) from rows order by {SOURCE}, {POSITION}")
    return list(table.to_pylist())
