"""The progress of a stream, and pure functions that compute the next one."""

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
"""The splits that one source task reads, by input."""
Extents = Mapping[str, Mapping[str, Extent]]
"""The extents of the logs, by input and partition."""
TOTALS = ("rows_in", "rows_out", "late", "quarantined", "dropped")


@dataclass(frozen=True)
class StreamProgress:
    """The state of a stream between two micro-batches. It is immutable; each micro-batch creates the next one."""

    epoch: int
    """The number of the last epoch that was started."""
    inputs: Mapping[str, InputProgress]
    watermark: int = BEGINNING
    totals: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(TOTALS, 0))
    """Rows since the stream was created, by outcome."""
    state: tuple[StateFile, ...] = ()
    gaps: tuple[Gap, ...] = ()
    """The ranges that the logs deleted before they were read, and that the user accepted."""
    is_drained: bool = False
    """Whether the last epoch closed all open windows."""

    @classmethod
    def at(cls, epoch: Epoch | None, inputs: Sequence[str], number: int) -> StreamProgress:
        """Return the progress at a commit, or the initial one without an epoch. `number` is that of the last epoch."""
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
        """Return the progress with the row counts of an epoch added to its totals."""
        return replace(self, totals={name: total + getattr(counts, name) for name, total in self.totals.items()})

    def reading(self, name: str, offsets: Mapping[str, int], stamps: Mapping[str, str]) -> StreamProgress:
        """Return the progress with additional partitions of an input, which are read from these offsets."""
        known = self.inputs[name]
        return replace(self, inputs={**self.inputs, name: known.beginning({**offsets, **known.offsets}, stamps)})


@dataclass(frozen=True)
class Arrivals:
    """What a micro-batch read, and the extents of the logs at that time."""

    splits: Sequence[Splits]
    """By source task."""
    batches: Sequence[SourceBatch]
    ended: Mapping[str, bool]
    """Whether an input has ended."""
    extents: Extents
    upstream: Mapping[str, Epoch] = field(default_factory=dict)
    """For an input that is a table of the lake: the epoch of the last version that was read."""
    now_us: int = 0


def splits_to_take(
    progress: StreamProgress, inputs: Sequence[StreamInput], ready: Mapping[str, ReadyOffsets], most_offsets: int
) -> tuple[Splits, bool]:
    """Return the splits that a source task reads now, and whether ready offsets are left for the next micro-batch."""
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
    """Return the next offset of each partition of an input after these splits."""
    offsets = dict(progress.inputs[name].offsets)
    return offsets | {
        split.source_object.uri: split.end or 0 for task_splits in splits for split in task_splits.get(name, ())
    }


def advance(progress: StreamProgress, inputs: Sequence[StreamInput], arrivals: Arrivals) -> StreamProgress:
    """Return the progress after a micro-batch, with new offsets and watermarks. The watermark never decreases."""
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
    """Return the partitions with records that were not read yet."""
    return frozenset(uri for uri, offset in offsets.items() if uri in extents and extents[uri].end > offset)


def lag(progress: StreamProgress, extents: Extents) -> dict[str, int]:
    """Return the number of offsets of each partition that are not read yet."""
    return {
        uri: max(extent.end - progress.inputs[name].offsets.get(uri, extent.begin), 0)
        for name, log_extents in extents.items()
        for uri, extent in log_extents.items()
    }


def waits_for(
    progress: StreamProgress, inputs: Sequence[StreamInput], extents: Extents, now_us: int
) -> tuple[str, ...]:
    """Return the partitions (or inputs, if their partitions are read in sequence) that hold the watermark back."""
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
