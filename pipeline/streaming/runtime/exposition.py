"""Facts of streams as text that Prometheus reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from pipeline.streaming.runtime.metrics import BOUNDS_S, Histogram, RunStatus, StreamStatus
from pipeline.streaming.runtime.sink_worker import SinkStatus

_GAUGES = {
    "epoch": "Number of the last epoch.",
    "rows_per_second": "Rows read a second, of the last seconds.",
    "bytes_per_second": "Bytes read a second, of the last seconds.",
    "watermark_delay_seconds": "How far the watermark is behind the clock.",
    "state_rows": "Rows remembered, as of the last commit.",
    "state_bytes": "Bytes of the memory's files, as of the last commit.",
    "shards": "Shards that remember.",
}
_COUNTERS = {
    "commits_total": "Epochs committed by this process.",
    "restarts_total": "Times the stream was opened again after an error.",
}


def exposition(streams: Iterable[StreamStatus], sinks: Iterable[SinkStatus] = ()) -> str:
    """Return the text, of version 0.0.4 of the format; names begin with `headwater_stream_`."""
    given = list(streams)
    lines: list[str] = []
    for name, about in _GAUGES.items():
        lines += _family(name, "gauge", about, ((_of(f), _gauge(f, name)) for f in given))
    lines += _family(
        "lag_offsets",
        "gauge",
        "Offsets of a partition that are not read yet.",
        ((f"{_of(f)},partition={_text(uri)}", lag) for f in given for uri, lag in f.lag.items()),
    )
    lines += _family(
        "status",
        "gauge",
        "1 for what the stream does now.",
        ((f'{_of(f)},status="{status}"', int(f.status == status)) for f in given for status in RunStatus),
    )
    lines += _family(
        "rows_total",
        "counter",
        "Rows since the stream was made, by what became of them.",
        ((f"{_of(f)},fate={_text(fate)}", count) for f in given for fate, count in f.totals.items()),
    )
    for name, about in _COUNTERS.items():
        lines += _family(name, "counter", about, ((_of(f), getattr(f, name.removesuffix("_total"))) for f in given))
    lines += _family(
        "phase_seconds_total",
        "counter",
        "Seconds by phase of turns and epochs.",
        ((f"{_of(f)},phase={_text(phase)}", seconds) for f in given for phase, seconds in f.phases_s.items()),
    )
    lines += _of_sinks(list(sinks))
    lines += _histograms("latency_seconds", "From a row offered by its log to its commit.", given, "latency")
    lines += _histograms("commit_seconds", "From the begin of staging to the commit.", given, "epochs")
    return "\n".join(lines) + "\n"


def _of_sinks(sinks: Sequence[SinkStatus]) -> Iterator[str]:
    named = [(f"stream={_text(s.table)},sink={_text(s.name)}", s) for s in sinks]
    yield from _family(
        "sink_versions_behind", "gauge", "Versions that are not sent yet.", ((n, s.behind) for n, s in named)
    )
    yield from _family("sink_rows_total", "counter", "Rows sent by this process.", ((n, s.rows) for n, s in named))
    yield from _family(
        "sink_failed", "gauge", "1 for a sink that takes nothing now.", ((n, int(bool(s.error))) for n, s in named)
    )


def _gauge(facts: StreamStatus, name: str) -> float | None:
    known: dict[str, float | None] = {
        "rows_per_second": facts.rows_per_s,
        "bytes_per_second": facts.bytes_per_s,
        "watermark_delay_seconds": facts.watermark_delay_s,
    }
    found: float | None = known[name] if name in known else getattr(facts, name)
    return found


def _family(name: str, kind: str, about: str, samples: Iterable[tuple[str, float | None]]) -> Iterator[str]:
    yield f"# HELP headwater_stream_{name} {about}"
    yield f"# TYPE headwater_stream_{name} {kind}"
    for labels, value in samples:
        if value is not None:
            yield f"headwater_stream_{name}{{{labels}}} {value:.10g}"


def _histograms(name: str, about: str, streams: Iterable[StreamStatus], of: str) -> Iterator[str]:
    full = f"headwater_stream_{name}"
    yield f"# HELP {full} {about}"
    yield f"# TYPE {full} histogram"
    for facts in streams:
        histogram: Histogram = getattr(facts, of)
        ends = [f"{bound:g}" for bound in BOUNDS_S] + ["+Inf"]
        for end, count in zip(ends, accumulate(histogram.counts), strict=True):
            yield f'{full}_bucket{{{_of(facts)},le="{end}"}} {count}'
        yield f"{full}_sum{{{_of(facts)}}} {histogram.sum_s:.10g}"
        yield f"{full}_count{{{_of(facts)}}} {histogram.count}"


def _of(facts: StreamStatus) -> str:
    return f"stream={_text(facts.name)}"


def _text(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'
