"""Changes the number of shards of a running stream: as requested, or as its load requires."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from pipeline.core.errors import quantity
from pipeline.core.logs import logger
from pipeline.streaming.runtime.autoscaling import Scaling, ScalingPolicy, ShardRange, StreamLoad, decide
from pipeline.streaming.runtime.metrics import StreamMetrics
from pipeline.streaming.runtime.status import ENDLESS
from pipeline.streaming.runtime.stream import Stream

log = logger(__name__)
_BUSY, _IN_SHARDS = ("read", "advance", "stage", "save"), ("advance", "save")


class Rescaler:
    """Changes the number of shards of one stream, in the thread that runs it."""

    def __init__(
        self,
        shards: int | ShardRange | None,
        metrics: StreamMetrics,
        say: Callable[[str], None],
        policy: ScalingPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Scale by the load only if a range is given. `say` is called with a message after each change."""
        self._bounds = shards if isinstance(shards, ShardRange) else None
        self._metrics = metrics
        self._say = say
        self._policy = policy or ScalingPolicy()
        self._clock = clock
        self._scaling: Scaling | None = None
        self._measured_at = clock()
        self._phases = dict(metrics.phases)
        self._offsets: dict[str, int] = {}

    def rescale(self, stream: Stream, requested: int | None) -> None:
        """Continue with the requested number of shards or, without a request, with as many as the load requires."""
        wanted = requested or self._by_load(stream)
        before = stream.shards
        if wanted is None:
            return
        began = self._clock()
        if stream.rescale(wanted) and stream.shards != before:
            seconds = self._clock() - began
            log.info("stream has rescaled", shards=stream.shards, before=before, seconds=round(seconds, 2))
            self._say(f"{quantity(stream.shards, 'shard')} instead of {before}, after a pause of {seconds:.1f} s")

    def _by_load(self, stream: Stream) -> int | None:
        if self._bounds is None:
            return None
        scaling = self._scaling or Scaling(stream.shards)
        if self._clock() - self._measured_at >= self._policy.measure_s:
            load = self._measure(stream)
            scaling = decide(scaling, load, self._policy, self._bounds)
            log.debug("load", lag_s=load.lag_s, utilisation=load.utilisation, shards=scaling.shards)
        self._scaling = scaling
        return scaling.shards

    def _measure(self, stream: Stream) -> StreamLoad:
        now, phases = self._clock(), dict(self._metrics.phases)
        spent = {phase: phases[phase] - self._phases[phase] for phase in phases}
        read = _read(self._offsets, stream.progress.offsets) / max(now - self._measured_at, 1e-9)
        self._measured_at, self._phases, self._offsets = now, phases, stream.progress.offsets
        busy_s = sum(spent[phase] for phase in _BUSY)
        return StreamLoad(
            at_s=now,
            lag_s=lag_s(stream.lag(), read),
            utilisation=busy_s / max(busy_s + spent["wait"], 1e-9),
            state_share=sum(spent[phase] for phase in _IN_SHARDS) / max(busy_s, 1e-9),
        )


def lag_s(lag: Mapping[str, int], offsets_per_s: float) -> float:
    """Return how long a stream takes for the offsets that it has not read, at its current rate. Endless logs do not count."""
    behind = sum(offsets for offsets in lag.values() if offsets <= ENDLESS)
    return 0.0 if behind == 0 else behind / offsets_per_s if offsets_per_s else float("inf")


def _read(before: Mapping[str, int], now: Mapping[str, int]) -> int:
    """Return how many offsets were read; 0 after a recovery, which goes back."""
    return max(0, sum(offset - before[uri] for uri, offset in now.items() if uri in before))
