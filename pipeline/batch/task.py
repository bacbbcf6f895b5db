"""The fused task: read a split, make rows, judge them, stage files. The same code inline and on Ray.

A task first takes its split for clean and streams it in one pass, which ends at the first thing that is not as it
should be. Only then it looks carefully: the rows are made in a temporary table, marked, counted and set aside.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from pipeline.batch.duckdb_errors import in_our_words
from pipeline.batch.fast_path import clean
from pipeline.batch.validating_pass import careful
from pipeline.batch.work import Outcome, Split, TaskSpec
from pipeline.kernel.engine import Stop, connect, watched
from pipeline.kernel.profile import start_profiling


def run_task(
    work: TaskSpec, split: Split, tell: Callable[[float], None] | None = None, stop: Stop | None = None
) -> Outcome:
    """Do one split of a table's step; `tell`, if given, hears now and then which share of it is done.

    Raises `ExpectationError` when a `fail` expectation is violated and `DefinitionError` when the definition
    does not fit its inputs; nothing that a reader can see has changed then.
    """
    with in_our_words(work):
        with connect(work.limits, filesystem=work.filesystem, stop=stop) as con:
            start_profiling(con)
            with work.maker.flow(con, split) as made:
                if made is not None:
                    with nullcontext() if tell is None else watched(con, tell):
                        outcome = None if made.rejected else clean(con, work, split, made)
                    if outcome is not None:
                        return outcome
                    if made.again:
                        return careful(con, work, split, made, tell)
        with connect(work.limits, filesystem=work.filesystem, stop=stop) as con:
            start_profiling(con)
            with work.maker.make(con, split) as made:
                return careful(con, work, split, made, tell)
