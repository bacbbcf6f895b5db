"""How far a stream is, and pure functions from one progress to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.cursors import Gap
from pipeline.core.epochs import BEGINNING, END, Epoch, InputProgress, StateFile
from pipeline.core.sources import Extent, ReadyOffsets
from pipeline.core.splits import SourceSplit
from pipeline.core.staging import RowCounts
from pipeline.streaming.operators.watermarks import InputArrivals, advanced, holding_back, of_all
from pipeline.streaming.planning.inputs import OffsetRanges, StreamInput
from pipeline.streaming.planning.table_log import TableInput
from pipeline.streaming.runtime.source_task import SourceBatch

Splits = Mapping[str, tuple[SourceSplit, ...]]
"""What one source task takes, by input."""
Extents = Mapping[str, Mapping[str, Extent]]
"""What the logs hold, by input and partition."""
TOTALS = ("rows_in", "rows_out", "late", "quarantined", "dropped")


@dataclass(frozen=True)
class StreamProgress:
    """A stream between two micro-batches. It is never changed, only replaced by the next one."""

    epoch: int
    """The number of the last epoch that was begun."""
    inputs: Mapping[str, InputProgress]
    watermark: int = BEGINNING
    totals: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0))
    """Rows since the stream was made, by what became of them."""
    state: tuple[StateFile, ...] = ()
    gaps: tuple[Gap, ...] = ()
    """What the logs lost before it was read, as was accepted."""
    is_drained: bool = False
    """Whether the last epoch closed all that was open."""

    @classmethod
    def at(cls, epoch: Epoch | None, inputs: Sequence[str], number: int) -> StreamProgress:
        """Return the progress of a commit, or of the beginning; `number` is that of the last epoch."""
        if epoch is None:
            return cls(number, {name: InputProgress() for name in inputs})
        return cls(
            epoch=number,
            inputs={name: epoch.inputs[name] for name in inputs},
            watermark=epoch.watermark,
            totals={**dict.fromkeys(TOTALS, 0), **epoch.totals},
            state=tuple(epoch.state),
            is_drained=epoch.drained,
        )

    @property
    def offsets(self) -> dict[str, int]:
        """The next offset of every partition of every input."""
        return {uri: offset for known in self.inputs.values() for uri, offset in known.offsets.items()}

    def counting(self, counts: RowCounts) -> StreamProgress:
        """Return the progress with the rows of an epoch in its totals."""
        return replace(self, totals={name: total + getattr(counts, name) for name, total in self.totals.items()})

    def reading(self, name: str, offsets: Mapping[str, int], stamps: Mapping[str, str]) -> StreamProgress:
        """Return the progress with partitions of an input that are read from these offsets on."""
        known = self.inputs[name]
        return replace(self, inputs={**self.inputs, name: known.beginning({**offsets, **known.offsets}, stamps)})


@dataclass(frozen=True)
class Arrivals:
    """What a micro-batch read, and what was known of the logs then."""

    splits: Sequence[Splits]
    """By source task."""
    batches: Sequence[SourceBatch]
    ended: Mapping[str, bool]
    """Whether an input has no more rows, ever."""
    extents: Extents
    upstream: Mapping[str, Epoch] = field(default_factory=dict)
    """For an input of which versions of the lake were read: how far the stream was that made the last of them."""
    now_us: int = 0


def splits_to_take(
    progress: StreamProgress, inputs: Sequence[StreamInput], ready: Mapping[str, ReadyOffsets], most_offsets: int
) -> tuple[Splits, bool]:
    """Return what a source task takes of what it has ready, and whether something is left for the next micro-batch."""
    splits, is_cut = {}, False
    for stream_input in inputs:
        if stream_input.name not in ready:
            continue
        known, ends = progress.inputs[stream_input.name], ready[stream_input.name].offsets
        is_whole = stream_input.log.traits.has_whole_partitions
        ranges = {
            uri: (known.offsets[uri], end if is_whole else min(end, known.offsets[uri] + most_offsets))
            for uri, end in ends.items()
        }
        is_cut = is_cut or any(ranges[uri][1] < end for uri, end in ends.items())
        splits[stream_input.name] = OffsetRanges(ranges).splits(known.stamps)
    return splits, is_cut


def offsets_after(progress: StreamProgress, name: str, splits: Sequence[Splits]) -> dict[str, int]:
    """Return the next offset of each partition of an input, once these splits are read."""
    offsets = dict(progress.inputs[name].offsets)
    return offsets | {split.piece.uri: split.end or 0 for task_splits in splits for split in task_splits.get(name, ())}


def advance(progress: StreamProgress, inputs: Sequence[StreamInput], arrivals: Arrivals) -> StreamProgress:
    """Return the progress after a micro-batch: its offsets, and event time. The watermark never goes back."""
    reached = {each.name: _advanced(progress, each, arrivals) for each in inputs}
    timed = [reached[each.name] for each in inputs if each.time is not None]
    watermark = max(progress.watermark, of_all(timed)) if timed else progress.watermark
    return replace(progress, inputs={**progress.inputs, **reached}, watermark=watermark)


def _advanced(progress: StreamProgress, stream_input: StreamInput, arrivals: Arrivals) -> InputProgress:
    name, known = stream_input.name, progress.inputs[stream_input.name]
    offsets = offsets_after(progress, name, arrivals.splits)
    if stream_input.time is None:
        return replace(known, offsets=offsets)
    upstream = arrivals.upstream.get(name)
    has_ended = arrivals.ended.get(name, False) or (upstream is not None and upstream.watermark >= END)
    follows = isinstance(stream_input, TableInput) and stream_input.follows and not has_ended
    if isinstance(stream_input, TableInput) and follows and upstream is not None:
        watermark = max(known.watermark, upstream.watermark - stream_input.slack_us)
        return replace(known, offsets=offsets, watermark=watermark)
    if follows and offsets == known.offsets:
        return replace(known, offsets=offsets)
    latest = {uri: time for b in arrivals.batches if b.name == name for uri, time in b.latest.items()}
    behind = partitions_behind(offsets, arrivals.extents[name])
    is_one = stream_input.log.traits.is_in_sequence
    arrived = InputArrivals(offsets, latest, behind, has_ended, is_one=is_one)
    return advanced(known, arrived, stream_input.time, arrivals.now_us)


def partitions_behind(offsets: Mapping[str, int], extents: Mapping[str, Extent]) -> frozenset[str]:
    """Return the partitions that hold more than was read."""
    return frozenset(uri for uri, offset in offsets.items() if uri in extents and extents[uri].end > offset)


def lag(progress: StreamProgress, extents: Extents) -> dict[str, int]:
    """Return how many offsets each partition holds beyond what was read."""
    return {
        uri: max(extent.end - progress.inputs[name].offsets.get(uri, extent.begin), 0)
        for name, log_extents in extents.items()
        for uri, extent in log_extents.items()
    }


def waits_for(
    progress: StreamProgress, inputs: Sequence[StreamInput], extents: Extents, now_us: int
) -> tuple[str, ...]:
    """Return the partitions, or inputs read in sequence, for which event time waits."""
    active = [each for each in inputs if each.time is not None and not progress.inputs[each.name].is_idle]
    least = min((progress.inputs[each.name].watermark for each in active), default=END)
    waiting_for: list[str] = []
    for each in active:
        known = progress.inputs[each.name]
        if each.time is None or not known.watermark == least < END:
            continue
        behind = partitions_behind(known.offsets, extents[each.name])
        uris = holding_back(known, behind, each.time, now_us) or (each.name,)
        waiting_for += [each.name] * len(uris) if each.log.traits.is_in_sequence else uris
    return tuple(waiting_for)
