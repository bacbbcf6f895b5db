from __future__ import annotations

from concurrent.futures import BrokenExecutor

import duckdb
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.core.errors import (
    ConflictError,
    DefinitionError,
    ExpectationError,
    OutcomeUnknownError,
    SourceError,
    StorageError,
)
from pipeline.streaming.runtime.exposition import exposition
from pipeline.streaming.runtime.metrics import Histogram, StreamMetrics, StreamStatus
from pipeline.streaming.runtime.restart_policy import MOST_RECOVERIES, RestartPolicy, may_pass, may_recover
from pipeline.streaming.runtime.sink_worker import SinkStatus


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_latency_ends_at_the_commit_of_the_row_with_overlapping_commits():
    #  0.0     0.1  0.2         0.5       0.9        1.3
    #  |--wait--|    |           |         |          |
    #        10 rows |  saved 1  |         |          |
    #                    5 rows offered  saved 2      |
    #                            committed 1 |        committed 2
    clock = Clock()
    meter = StreamMetrics(clock)
    meter.begin()
    clock.now = 0.1
    meter.end_phase("wait")
    meter.count_rows(10, 1000)
    for step, at in (("staged", 0.15), ("saved", 0.2)):
        clock.now = at
        meter.reached(step)
    meter.begin()
    clock.now = 0.25
    meter.end_phase("wait")
    meter.count_rows(5, 500)
    clock.now = 0.3
    meter.reached("staged")
    meter.reached("saved")
    clock.now = 0.5
    meter.reached("committed")
    assert (meter.latency.count, meter.latency.max_s) == (10, 0.4)
    clock.now = 1.3
    meter.reached("committed")
    assert (meter.latency.count, meter.commits) == (15, 2)
    assert meter.latency.max_s == pytest.approx(1.05)
    assert meter.phases["wait"] == pytest.approx(0.15)
    assert meter.rates() == (pytest.approx(15 / 1.05, rel=0.2), pytest.approx(1500 / 1.05, rel=0.2))


def test_rows_of_an_epoch_that_is_lost_are_not_counted_as_committed():
    meter = StreamMetrics(Clock())
    meter.begin()
    meter.count_rows(10, 10)
    meter.reached("staged")
    meter.reached("saved")
    meter.restarted()
    meter.begin()
    meter.count_rows(10, 10)
    for step in ("staged", "saved", "committed"):
        meter.reached(step)
    assert (meter.latency.count, meter.rows, meter.restarts) == (10, 20, 1)


def test_quantiles_lie_within_their_bucket():
    histogram = Histogram()
    assert histogram.quantile(0.5) is None
    histogram.add(0.06, 98)
    histogram.add(0.7, 2)
    assert 0.05 < histogram.quantile(0.5) <= 0.1
    assert 0.5 < histogram.quantile(0.99) <= 0.7
    histogram.add(1000.0, 100)
    assert histogram.quantile(0.99) <= 1000


def test_waits_grow_and_restarts_end():
    restart_policy = RestartPolicy(most=3, within_s=60)
    assert [restart_policy.wait_s([0.0] * n, 10.0) for n in range(4)] == [0.5, 1.0, 2.0, None]
    assert restart_policy.wait_s([0.0, 1.0, 2.0], 62.0) == 1.0, "old restarts no longer count"


class ActorDiedError(Exception):
    __module__ = "ray.exceptions"


class RayTaskError(Exception):
    __module__ = "ray.exceptions"


@pytest.mark.parametrize(
    "error",
    [
        StorageError("x"),
        OutcomeUnknownError("x"),
        ConnectionResetError(),
        BrokenExecutor(),
        duckdb.OutOfMemoryException(),
        ActorDiedError(),
    ],
)
def test_transient_errors(error):
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        ConflictError("x"),
        DefinitionError("x"),
        ExpectationError("x"),
        SourceError("x"),
        ValueError(),
        RayTaskError(),
    ],
)
def test_permanent_errors(error):
    assert not may_pass(error)


@pytest.mark.parametrize(("recoveries", "recovers"), [(0, True), (MOST_RECOVERIES - 1, True), (MOST_RECOVERIES, False)])
def test_only_lost_workers_are_replaced_and_not_without_end(recoveries, recovers):
    assert may_recover(ActorDiedError(), recoveries) == recovers
    assert not may_recover(RayTaskError(), recoveries)
    assert not may_recover(StorageError("x"), recoveries)


def test_prometheus_parses_the_metrics():
    latency = Histogram()
    latency.add(0.04, 3)
    facts = StreamStatus(
        "by_minute", "running", 7, 1234.5, lag={'kafka://a/"b"/0': 12, "endless": None}, latency=latency
    )
    sink = SinkStatus("alerts", "by_minute", behind=2, rows=9, error="down")
    families = list(text_string_to_metric_families(exposition([facts, StreamStatus("hot")], [sink])))
    samples = {(sample.name, *sorted(sample.labels.values())): sample.value for f in families for sample in f.samples}

    def value(name, *labels):
        return samples[f"headwater_stream_{name}", *sorted(labels)]

    assert value("sink_versions_behind", "by_minute", "alerts") == 2
    assert value("sink_rows_total", "by_minute", "alerts") == 9
    assert value("sink_failed", "by_minute", "alerts") == 1
    assert value("epoch", "by_minute") == 7
    assert value("rows_per_second", "by_minute") == 1234.5
    assert value("lag_offsets", "by_minute", 'kafka://a/"b"/0') == 12
    assert value("status", "by_minute", "running") == 1
    assert value("latency_seconds_bucket", "by_minute", "0.05") == 3
    assert value("latency_seconds_count", "by_minute") == 3
    assert not any("endless" in labels for labels in samples)
    assert len({family.name for family in families}) == len(families)
