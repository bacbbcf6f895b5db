"""Gold tables of streams in the warehouse: each version once, also if the process ends between a commit and the load."""

from __future__ import annotations

import pytest

from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from tests.rigs.micro_batches import commit_micro_batches

PLANT = """
from pipeline import generate, source, sql

readings = source(
    generate(
        {"at": "timestamp '2024-01-01' + to_seconds(i)", "sensor": "'s' || (i % 70)", "degrees": "(i * 13) % 100"},
        partitions=2,
        count=4000,
    ),
    schema={"at": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="at",
    lateness="5 seconds",
    stored=False,
)
latest = sql("select sensor, at, degrees from readings", key="sensor", sequence_by="at", layer="gold")
warm = sql("select at, sensor, degrees from readings where degrees > 50", layer="gold")
"""
FEW = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01, batch_offsets=300))


@pytest.fixture
def folder(plant):
    return plant(text=PLANT)


def in_warehouse(workspace, name):
    with workspace.warehouse.read() as con:
        return con.execute(f'from "{name}" order by all').fetchall()


def in_lake(workspace, name):
    return [tuple(row.values()) for row in workspace.query(f'from "{name}" order by all').to_pylist()]


@pytest.mark.parametrize("name", ["latest", "warm"])
def test_the_warehouse_is_behind_after_a_death_and_then_has_each_row_once(folder, streams, name):
    workspace = streams.opened(folder)
    plan = Planner(workspace).plan(name)
    stream = Stream(workspace, plan, FEW)
    commit_micro_batches(stream, 2)  # the warehouse is only loaded every 20 s
    stream.save()
    loaded = workspace.warehouse.loaded()[name]
    known = in_warehouse(workspace, name)
    assert known == in_lake(workspace, name)
    commit_micro_batches(stream, 2)
    stream.close()  # the process ends after the commit, before the load

    assert workspace.warehouse.loaded()[name] == loaded
    assert workspace.require(name).number > loaded[0]
    assert in_warehouse(workspace, name) == known != in_lake(workspace, name)

    catch_up(workspace, (name,), stream_options=FEW)
    version = workspace.require(name)
    assert workspace.warehouse.loaded()[name] == (version.number, version.manifest_id)
    assert in_warehouse(workspace, name) == in_lake(workspace, name)
    assert known != in_lake(workspace, name)


def test_a_table_with_updates_is_loaded_by_its_changes(folder, streams, monkeypatch):
    """A change since the loaded version is known also if rows were replaced: the warehouse gets what differs."""
    workspace = streams.opened(folder)
    loads = []
    original = type(workspace.warehouse).load

    def load(self, each, **options):
        loads.append(each)
        original(self, each, **options)

    monkeypatch.setattr(type(workspace.warehouse), "load", load)
    stream = Stream(workspace, Planner(workspace).plan("latest"), FEW)
    for _ in range(2):
        commit_micro_batches(stream, 1)
        stream.save()
    stream.close()
    first, second = loads
    assert first.since is None
    assert second.since == (first.version, first.manifest_id)
    assert second.removed
    assert in_warehouse(workspace, "latest") == in_lake(workspace, "latest")
