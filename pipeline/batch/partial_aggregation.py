"""Partial aggregation: tasks compute states per split or bucket, which are merged once in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce
from operator import add
from typing import cast

import pyarrow as pa

from pipeline.batch.executor import splits_of
from pipeline.batch.job import StepExecution
from pipeline.batch.kept_states import are_small, may_keep_states
from pipeline.batch.partial_task import PartialStates, run_states
from pipeline.batch.planning import decomposed
from pipeline.batch.row_producers import ArrowProducer, SqlProducer
from pipeline.batch.step import Refresh
from pipeline.batch.type_changes import discarded_checks
from pipeline.batch.work import Outcome, Split
from pipeline.core.definitions import Table
from pipeline.core.errors import OrderError
from pipeline.kernel.aggregates.decomposition import STATES
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.scan import Scan, register
from pipeline.kernel.sql import SqlTransform

MOST_BYTES_IN_ALL = 1 << 30
"""The maximum size of the states that are merged in one process."""


def run_refresh(job: StepExecution, refresh: Refresh) -> Outcome:
    """Compute the states of the new rows only, and merge them with those of all rows before.

    Raises `OrderError` if that is not possible, so that the table is computed from all rows.
    """
    spec = job.spec
    if spec.execution_plan.strategy != "partial":
        raise OrderError(f"the table is computed by the strategy {spec.execution_plan.strategy!r} now")
    reading = replace(job, spec=replace(spec, scans=spec.scans_read, refresh=None))
    splits = splits_of(reading.spec, job.executor)
    outcome = run_partial(reading, splits, keep=may_keep_states(spec), before=refresh.states)
    if outcome is None:
        raise OrderError("the aggregates of the new rows have too many groups to be added")
    return outcome


def run_partial(
    job: StepExecution, splits: Sequence[Split], *, keep: bool = False, before: pa.Table | None = None
) -> Outcome | None:
    """Compute states per split, and merge them in the order of the splits; the result is validated as one split.

    `before` has the states of rows that precede those of the splits. With `keep`, the outcome has the merged states if
    they are small. Returns `None` if the states of all groups exceed the limit, so that another strategy is required.
    """
    spec, producer = job.spec, cast("SqlProducer", job.work.producer)
    apart = decomposed(cast("SqlTransform", cast("Table", spec.definition).transform))
    limits = job.executor.part(len(splits)) if len(splits) > 1 else job.executor.whole(splits[0].size_bytes)
    task = replace(job.work, limits=limits, producer=replace(producer, text=apart.partial()))
    partials: list[PartialStates] = job.run_each(partial(run_states, task), splits, limits)
    kept = [part.rows for part in partials if part.rows is not None]
    if len(kept) < len(partials) or sum(states.nbytes for states in kept) > MOST_BYTES_IN_ALL:
        return None
    rows_in, bytes_in = sum(p.rows_in for p in partials), sum(p.bytes_in for p in partials)
    states = pa.concat_tables(kept if before is None else [before.cast(kept[0].schema), *kept])
    with connect(job.work.limits, filesystem=job.work.filesystem) as con:
        inputs = {name: Scan(scan.schema) for name, scan in spec.scans.items()}
        register(con, {**inputs, spec.execution_plan.driving: Scan(spec.driving_schema)})
        types = apart.types(con)
        if keep:
            con.register(STATES, states)
            states = arrow(con, apart.merge(types))
    answer = apart.answer_of_merged(types) if keep else apart.answer(types)
    merger = ArrowProducer(states, rows_in, bytes_in, {STATES: states}, answer)
    outcome = _with_rejected(job.run_here(Split(len(splits)), merger), partials)
    is_kept = keep and are_small(states, rows_in if before is None else None)
    return replace(outcome, states=states) if is_kept else outcome


def _with_rejected(outcome: Outcome, partials: Sequence[PartialStates]) -> Outcome:
    """Return the outcome with the rows and values added that splits quarantined and discarded before aggregation."""
    discarded: Counter[str] = Counter()
    for part in partials:
        discarded.update(part.discarded)
    rejected = sum(part.rejected for part in partials)
    flow = replace(
        outcome.flow,
        rows_made=outcome.flow.rows_made + rejected,
        quarantined=outcome.flow.quarantined + rejected,
    )
    return replace(
        outcome,
        flow=flow,
        checks={**outcome.checks, **discarded_checks(discarded)},
        quarantined=outcome.quarantined + tuple(file for part in partials for file in part.quarantined),
        profile=reduce(add, (part.profile for part in partials), outcome.profile),
    )
