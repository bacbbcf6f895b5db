"""What a stream maintains of its table between epochs, by the policy of the table; and failures beside its epochs."""

from __future__ import annotations

import pytest

from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime import commit
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.stream import Stream
from tests.rigs.micro_batches import commit_micro_batches

PLANT = """
from pipeline import generate, lake_policy, source, sql

readings = source(
    generate({"at": "timestamp '2024-01-01' + to_seconds(i)", "degrees": "(i * 37) % 1000"}, partitions=1, count=4000),
    schema={"at": "timestamp", "degrees": "integer"},
    event_time="at",
    stored=False,
)
warm = sql("select at, degrees from readings")
kept = lake_policy("warm", OPTIONS)
"""
FEW = StreamOptions(intervals=Intervals(batch_s=0.01, commit_s=0.01, idle_commit_s=0.01, batch_offsets=300), shards=1)


def advanced(workspace, epochs):
    """Commit micro-batches, and return the running stream."""
    stream = Stream(workspace, Planner(workspace).plan("warm"), FEW)
    commit_micro_batches(stream, epochs)
    return stream


def compacted(workspace):
    return [file for file in workspace.require("warm").files if "part-compacted-" in file.uri]


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ("maintenance='manual'", 0),
        ("maintenance='auto'", 1),
        ("cluster_by='degrees'", 1),
        ("cluster_by='degrees', maintenance='manual'", 0),
        ("rewrite_mb=1, cluster_by='degrees', target_mb=64", 1),
    ],
)
def test_a_stream_compacts_by_the_policy_of_its_table(plant, streams, monkeypatch, options, files):
    monkeypatch.setattr(commit, "MAINTENANCE_EVERY", 6)
    known = []
    real = commit.compact
    monkeypatch.setattr(commit, "compact", lambda table, head, how: known.append(how) or real(table, head, how))
    workspace = streams.opened(plant(text=PLANT.replace("OPTIONS", options)))
    advanced(workspace, 8).close()

    assert len(compacted(workspace)) == files
    assert all(how.rewrite_bytes == 0 for how in known), "writing large files again would delay an epoch"
    assert all(how.target_bytes == commit.COMPACT_BYTES for how in known)
    for file in compacted(workspace):
        rows = workspace.query(f"select degrees from read_parquet('{file.uri}')").column("degrees").to_pylist()
        assert (rows == sorted(rows)) == ("cluster_by" in options)
    assert workspace.query("select count(*) as n from warm").to_pylist()[0]["n"] >= 2400


def test_any_failure_of_a_load_beside_the_epochs_is_logged_and_the_stream_goes_on(plant, streams, monkeypatch):
    workspace = streams.opened(plant(text=PLANT.replace("OPTIONS", "history='1 day'")))
    object.__setattr__(workspace.settings, "warehouse_seconds", 0)
    logged, tried = [], []
    monkeypatch.setattr(commit.log, "warning", lambda problem, **where: logged.append((problem, where)))

    def load(*_):
        tried.append(None)
        raise RuntimeError("the driver has a fault")

    monkeypatch.setattr(commit, "update_warehouse_and_catalog", load)
    stream = advanced(workspace, 4)
    stream.close()

    assert len(tried) > 1
    assert len(logged) == len(tried)
    assert logged[0] == (
        "catalog or warehouse was not updated: it is updated later",
        {"table": "warm", "error": "the driver has a fault"},
    )
