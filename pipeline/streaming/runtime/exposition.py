"""Metrics of streams and sinks in the Prometheus text format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.connectors.guard import guard_here
from pipeline.streaming.runtime.metrics import BOUNDS_S, Histogram, RunStatus, StreamStatus
from pipeline.streaming.runtime.sink_worker import SinkStatus

_PREFIX = "headwater_stream_"


def exposition(streams: Iterable[StreamStatus], sinks: Iterable[SinkStatus] = ()) -> str:
    """Return the metrics in version 0.0.4 of the text format. All names begin with `headwater_`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Streams(list(streams), list(sinks)))
    registry.register(_Systems())
    return generate_latest(registry).decode()


class _Systems(Collector):
    """The systems that this process calls under a guard, if there are any."""

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("headwater_system_calls", "Calls of a system.", labels=("system",))
        failures = CounterMetricFamily(
            "headwater_system_failures", "Calls that failed temporarily.", labels=("system",)
        )
        is_open = GaugeMetricFamily("headwater_system_circuit_open", "1 while no calls are made.", labels=("system",))
        for name, report in guard_here().reports().items():
            calls.add_metric((name,), report.calls)
            failures.add_metric((name,), report.failures)
            is_open.add_metric((name,), int(report.state != "closed"))
        yield from (calls, failures, is_open)


class _Streams(Collector):
    def __init__(self, streams: Sequence[StreamStatus], sinks: Sequence[SinkStatus]) -> None:
        self._streams = streams
        self._sinks = sinks

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield from self._histograms()
        yield from self._of_sinks()

    def _gauges(self) -> Iterator[Metric]:
        yield self._gauge("epoch", "Number of the last epoch.", lambda s: s.epoch)
        yield self._gauge(
            "rows_per_second", "Rows read per second, averaged over the last 5 seconds.", lambda s: s.rows_per_s
        )
        yield self._gauge(
            "bytes_per_second", "Bytes read per second, averaged over the last 5 seconds.", lambda s: s.bytes_per_s
        )
        yield self._gauge(
            "watermark_delay_seconds", "How far the watermark is behind the clock.", lambda s: s.watermark_delay_s
        )
        yield self._gauge("state_rows", "Rows of state, as of the last commit.", lambda s: s.state_rows)
        yield self._gauge("state_bytes", "Bytes of the state files, as of the last commit.", lambda s: s.state_bytes)
        yield self._gauge("shards", "Number of state shards.", lambda s: s.shards)
        lag = GaugeMetricFamily(
            f"{_PREFIX}lag_offsets",
            "Number of offsets of a partition that are not read yet.",
            labels=("stream", "partition"),
        )
        status = GaugeMetricFamily(
            f"{_PREFIX}status", "1 for the current status of the stream.", labels=("stream", "status")
        )
        for stream in self._streams:
            for uri, behind in stream.lag.items():
                if behind is not None:
                    lag.add_metric((stream.name, uri), behind)
            for each in RunStatus:
                status.add_metric((stream.name, each.value), int(stream.status == each))
        yield lag
        yield status

    def _gauge(self, name: str, about: str, value_of: Callable[[StreamStatus], float | None]) -> Metric:
        family = GaugeMetricFamily(f"{_PREFIX}{name}", about, labels=("stream",))
        for stream in self._streams:
            value = value_of(stream)
            if value is not None:
                family.add_metric((stream.name,), value)
        return family

    def _counters(self) -> Iterator[Metric]:
        rows = CounterMetricFamily(
            f"{_PREFIX}rows", "Rows since the stream was created, by outcome.", labels=("stream", "fate")
        )
        commits = CounterMetricFamily(f"{_PREFIX}commits", "Epochs committed by this process.", labels=("stream",))
        restarts = CounterMetricFamily(f"{_PREFIX}restarts", "Restarts after an error.", labels=("stream",))
        recoveries = CounterMetricFamily(f"{_PREFIX}recoveries", "Replacements of lost workers.", labels=("stream",))
        recovery = CounterMetricFamily(
            f"{_PREFIX}recovery_seconds", "Time spent to replace lost workers.", labels=("stream",)
        )
        phases = CounterMetricFamily(
            f"{_PREFIX}phase_seconds",
            "Time spent in each phase of micro-batches and epochs.",
            labels=("stream", "phase"),
        )
        for stream in self._streams:
            commits.add_metric((stream.name,), stream.commits)
            restarts.add_metric((stream.name,), stream.restarts)
            recoveries.add_metric((stream.name,), stream.recoveries)
            recovery.add_metric((stream.name,), stream.recovery_s)
            for fate, count in stream.totals.items():
                rows.add_metric((stream.name, fate), count)
            for phase, seconds in stream.phases_s.items():
                phases.add_metric((stream.name, phase), seconds)
        yield from (rows, commits, restarts, recoveries, recovery, phases)

    def _histograms(self) -> Iterator[Metric]:
        latency = HistogramMetricFamily(
            f"{_PREFIX}latency_seconds", "Time from when the log offers a row to its commit.", labels=("stream",)
        )
        commits = HistogramMetricFamily(
            f"{_PREFIX}commit_seconds", "Time from the start of staging to the commit.", labels=("stream",)
        )
        for stream in self._streams:
            latency.add_metric((stream.name,), _buckets(stream.latency), stream.latency.sum_s)
            commits.add_metric((stream.name,), _buckets(stream.commit_durations), stream.commit_durations.sum_s)
        yield from (latency, commits)

    def _of_sinks(self) -> Iterator[Metric]:
        labels = ("stream", "sink")
        behind = GaugeMetricFamily(
            f"{_PREFIX}sink_versions_behind", "Versions of the table that are not delivered yet.", labels=labels
        )
        rows = CounterMetricFamily(f"{_PREFIX}sink_rows", "Rows delivered by this process.", labels=labels)
        failed = GaugeMetricFamily(
            f"{_PREFIX}sink_failed", "1 if the delivery to the sink currently fails.", labels=labels
        )
        for sink in self._sinks:
            behind.add_metric((sink.table, sink.name), sink.behind)
            rows.add_metric((sink.table, sink.name), sink.rows)
            failed.add_metric((sink.table, sink.name), int(bool(sink.error)))
        yield from (behind, rows, failed)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    ends = [f"{bound:g}" for bound in BOUNDS_S] + ["+Inf"]
    return list(zip(ends, map(float, accumulate(histogram.counts)), strict=True))
