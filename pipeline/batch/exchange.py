"""Execution of a statement in buckets: its large inputs are partitioned by a key, and each bucket is a split.

The files of the buckets are in the lake's storage, where every worker can read them, and are removed after the step; those
of a killed process are removed by the next run on its machine.
They are written and read once; a retried task writes the same file names, other than for the blocks of a Ray dataset
(`dataset_blocks.py`), where each attempt has names of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from pipeline.batch.executor import Executor, cut_splits
from pipeline.batch.job import StepExecution
from pipeline.batch.partial_aggregation import run_partial
from pipeline.batch.planning import EXPANSION, tree_of
from pipeline.batch.retries import SplitTask
from pipeline.batch.row_producers import SqlProducer
from pipeline.batch.shuffle_write import MOST_BUCKETS, BucketFiles, ShuffleSpec, by_bucket, write_buckets
from pipeline.batch.work import Outcome, Split
from pipeline.core.definitions import Table
from pipeline.kernel.planner.exchange import BUCKETS, Exchange
from pipeline.kernel.planner.projection import used_columns
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import DeltaStager, Lake, Storage

_SKEWED = 2
"""A bucket larger than this multiple of the mean is split further, if the statement allows it."""


def run_exchange(job: StepExecution, chosen: Exchange, lake: Lake) -> Outcome:
    """Partition the inputs, run the statement on each bucket, and combine the results; `rows_in` counts each row once."""
    place = lake.scratch(job.spec.run_id, job.spec.definition.name)
    try:
        splits = _write_buckets(job.in_stage("partition", 0, 0.5), chosen, place)
        work = replace(job.work, producer=replace(cast("SqlProducer", job.work.producer), text=chosen.statement))
        outcome = _run_buckets(replace(job.in_stage("compute buckets", 0.5, 1), work=work), chosen, splits, place)
    finally:
        place.clear()
    execution_plan = job.spec.execution_plan
    return replace(outcome, flow=replace(outcome.flow, rows_in=execution_plan.rows, bytes_in=execution_plan.size_bytes))


def buckets_for(size_bytes: int, executor: Executor) -> int:
    """Return the number of buckets such that each fits the memory of a task, and all slots are busy."""
    share = executor.part(executor.slots).memory_bytes or size_bytes
    return min(MOST_BUCKETS, max(executor.slots, -(-size_bytes * EXPANSION // share)))


def _write_buckets(job: StepExecution, chosen: Exchange, place: Storage) -> list[Split]:
    """Partition all inputs concurrently, and return the buckets as splits."""
    spec = job.spec
    tree = tree_of(cast("Table", spec.definition).transform)
    inputs = {name: spec.scans[name] for name in chosen.keys}
    buckets = buckets_for(sum(scan.size_bytes for scan in inputs.values()), job.executor)
    limits = job.executor.part(job.executor.slots)
    cuts = {
        name: ShuffleSpec(
            keys=chosen.keys[name],
            buckets=buckets,
            schema=scan.schema.select(used_columns(tree, name, scan.schema)),
            folder=place.at(f"input-{number}").uri,
            limits=limits,
            filesystem=job.work.filesystem,
        )
        for number, (name, scan) in enumerate(inputs.items())
    }
    tasks: list[SplitTask] = []
    read: list[str] = []
    for name, cut in cuts.items():
        write = partial(write_buckets, cut)
        for split in cut_splits(inputs[name], job.executor):
            tasks.append(SplitTask(write, replace(split, index=len(tasks))))
            read.append(name)
    pieces: dict[str, list[BucketFiles]] = {name: [] for name in inputs}
    for name, written in zip(read, job.run_tasks(tasks, limits), strict=True):
        pieces[name].append(written)
    return _splits(job, chosen, {name: by_bucket(cut, pieces[name]) for name, cut in cuts.items()}, buckets)


def _splits(
    job: StepExecution, chosen: Exchange, bucketed: Mapping[str, Mapping[int, Scan]], buckets: int
) -> list[Split]:
    """Return one split per bucket, or several for a bucket with a hot key."""
    driving, scans = job.spec.execution_plan.driving, job.spec.scans
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


def _run_buckets(job: StepExecution, chosen: Exchange, splits: Sequence[Split], place: Storage) -> Outcome:
    if chosen.merges:
        return run_partial(job, splits) or job.run_alone(Split(0, job.spec.scans[job.spec.execution_plan.driving]))
    if chosen.finish is None:
        return job.run_all(splits)
    kept = place.at("answers")  # the results of the buckets are stored until they are ordered and limited
    work = replace(job.work, stager=DeltaStager(kept, job.spec.run_id), expectations=(), key=())
    answers = replace(job, work=work).run_all(splits)
    files = tuple(DataFile(f"{kept.uri}/{file.path}", file.rows, file.size_bytes) for file in answers.files)
    outcome = job.run_alone(Split(0, Scan(answers.schema, files)), producer=SqlProducer(chosen.finish, BUCKETS, {}))
    return replace(outcome, profile=answers.profile + outcome.profile)
