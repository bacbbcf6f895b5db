"""A statement bucket by bucket: its large inputs are cut by a key, and each bucket is a split of its own.

The buckets' files stand beside the lake's tables, where every worker reaches them, and are removed with the step.
They are written and read once; a lost task writes the same names again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from pipeline.batch.executor import Executor, cut_splits
from pipeline.batch.job import StepExecution
from pipeline.batch.partial_aggregation import in_states
from pipeline.batch.planning import EXPANSION, tree_of
from pipeline.batch.row_producers import SqlProducer
from pipeline.batch.shuffle_write import MOST_BUCKETS, ShuffleSpec, by_bucket, run_cut
from pipeline.batch.work import Outcome, Split
from pipeline.core.definitions import Table
from pipeline.kernel.planner.exchange import BUCKETS, Exchange
from pipeline.kernel.planner.projection import needed
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import DeltaStager, Lake, Storage

_SKEWED = 2
"""A bucket this many times the mean is cut further, if the statement allows it."""


def in_buckets(job: StepExecution, chosen: Exchange, lake: Lake) -> Outcome:
    """Cut, then run the statement on each bucket, and put the answers together; `rows_in` counts each row once."""
    place = lake.scratch(job.order.run_id, job.order.definition.name)
    try:
        splits = _cut(job.telling(0, 0.5), chosen, place)
        limits = job.layout.limits(max(2, len(splits)))
        work = replace(
            job.work, producer=replace(cast("SqlProducer", job.work.producer), text=chosen.statement), limits=limits
        )
        outcome = _answered(replace(job.telling(0.5, 1), work=work), chosen, splits, place)
    finally:
        place.clear()
    route = job.order.route
    return replace(outcome, flow=replace(outcome.flow, rows_in=route.rows, bytes_in=route.size_bytes))


def buckets_for(size_bytes: int, layout: Executor) -> int:
    """Return how many buckets let each be worked on within a task's share of memory, all slots busy."""
    share = layout.limits(layout.budget.slots).memory_bytes or size_bytes
    return min(MOST_BUCKETS, max(layout.budget.slots, -(-size_bytes * EXPANSION // share)))


def _cut(job: StepExecution, chosen: Exchange, place: Storage) -> list[Split]:
    spec = job.order
    tree = tree_of(cast("Table", spec.definition).transform)
    inputs = {name: spec.scans[name] for name in chosen.keys}
    buckets = buckets_for(sum(scan.size_bytes for scan in inputs.values()), job.layout)
    bucketed: dict[str, dict[int, Scan]] = {}
    for number, (name, scan) in enumerate(inputs.items()):
        cut = ShuffleSpec(
            keys=chosen.keys[name],
            buckets=buckets,
            schema=scan.schema.select(needed(tree, name, scan.schema)),
            folder=place.at(f"input-{number}").uri,
            limits=job.layout.limits(job.layout.budget.slots),
            filesystem=job.work.filesystem,
        )
        part = job.telling(number / len(inputs), (number + 1) / len(inputs))
        bucketed[name] = by_bucket(cut, part.each(partial(run_cut, cut), cut_splits(scan, job.layout)))
    return _splits(job, chosen, bucketed, buckets)


def _splits(
    job: StepExecution, chosen: Exchange, bucketed: Mapping[str, Mapping[int, Scan]], buckets: int
) -> list[Split]:
    """Return a split for each bucket, or several for one with a hot key."""
    driving, scans = job.order.route.driving, job.order.scans
    sizes = [scan.size_bytes for scan in bucketed.get(driving, {}).values()]
    most = _SKEWED * sum(sizes) // max(len(sizes), 1)
    splits: list[Split] = []
    for bucket in range(buckets):
        mine = {
            name: by.get(bucket, Scan(next(iter(by.values()), scans[name]).schema)) for name, by in bucketed.items()
        }
        first = mine.pop(driving, scans[driving])
        hot = driving in bucketed and chosen.driving_may_split and first.size_bytes > most
        parts: Sequence[Scan] = first.splits(most // _SKEWED) if hot else (first,)
        splits += [Split(len(splits) + n, part, beside=mine) for n, part in enumerate(parts)]
    return splits


def _answered(job: StepExecution, chosen: Exchange, splits: Sequence[Split], place: Storage) -> Outcome:
    if chosen.merges:
        return in_states(job, splits) or job.alone(Split(0, job.order.scans[job.order.route.driving]))
    if chosen.finish is None:
        return job.made(splits)
    kept = place.at("answers")  # the buckets' answers wait on disk to be put in order once more
    work = replace(job.work, stager=DeltaStager(kept, job.order.run_id), expectations=(), key=())
    answers = replace(job, work=work).made(splits)
    files = tuple(DataFile(f"{kept.uri}/{file.path}", file.rows, file.size_bytes) for file in answers.files)
    outcome = job.alone(Split(0, Scan(answers.schema, files)), producer=SqlProducer(chosen.finish, BUCKETS, {}))
    return replace(outcome, profile=answers.profile + outcome.profile)
