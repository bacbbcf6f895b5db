"""Computes the status of a stream in the thread that runs it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.core.epochs import BEGINNING, END, Epoch
from pipeline.streaming.runtime.metrics import Histogram, RunStatus, StreamMetrics, StreamStatus

if TYPE_CHECKING:
    from pipeline.streaming.runtime.stream import Stream

ENDLESS = 1 << 60
"""A lag above this is that of a log without an end."""


def status_of(stream: Stream, metrics: StreamMetrics, status: RunStatus, now: datetime) -> StreamStatus:
    """Return the status of a stream. Must be called by the thread that runs it."""
    rows_per_s, bytes_per_s = metrics.rates() if status in {RunStatus.RUNNING, RunStatus.DRAINING} else (0.0, 0.0)
    epoch = stream.committed
    return StreamStatus(
        name=stream.plan.name,
        status=status,
        epoch=stream.progress.epoch,
        rows_per_s=rows_per_s,
        bytes_per_s=bytes_per_s,
        lag={uri: None if behind > ENDLESS else behind for uri, behind in stream.lag().items()},
        watermark_delay_s=_delay(stream.progress.watermark, now),
        totals=dict(stream.progress.totals),
        state_rows=0 if epoch is None else state_rows(epoch),
        state_bytes=0 if epoch is None else sum(file.size_bytes for file in epoch.state),
        shards=stream.shards,
        waits_for=stream.waits_for() if epoch is not None and state_rows(epoch) else (),
        restarts=metrics.restarts,
        recoveries=metrics.recoveries,
        recovery_s=metrics.recovery_s,
        commits=metrics.commits,
        phases_s=dict(metrics.phases),
        latency=_copy(metrics.latency),
        commit_durations=_copy(metrics.commit_durations),
    )


def state_rows(epoch: Epoch) -> int:
    """Return the number of rows of state at an epoch: added minus removed rows in the required files."""
    return sum(
        segment.rows if segment.kind == "came" else -segment.rows for file in epoch.state for segment in file.segments
    )


def lease_facts(facts: StreamStatus) -> dict[str, Any]:
    """Return the facts of a stream that its lease records."""
    return {
        "status": facts.status,
        "epoch": facts.epoch,
        "lag": facts.behind,
        "rows_per_s": round(facts.rows_per_s, 1),
        "watermark_delay_s": facts.watermark_delay_s,
        "rows_in": facts.totals.get("rows_in", 0),
        "rows_out": facts.totals.get("rows_out", 0),
        "waits_for": list(facts.waits_for),
        "shards": facts.shards,
        "restarts": facts.restarts,
        "recoveries": facts.recoveries,
        "error": facts.error,
    }


def _delay(watermark: int, now: datetime) -> float | None:
    return None if not BEGINNING < watermark < END else round(now.timestamp() - watermark / 1e6, 3)


def _copy(histogram: Histogram) -> Histogram:
    return Histogram(list(histogram.counts), histogram.sum_s, histogram.max_s)
