"""The fused task: read a split, transform, validate and stage it. The same code runs locally and on Ray.

A task first streams its split through the fast path, which sets rejected rows aside. What it refuses, such as duplicate
keys, goes through the validating pass, which materializes the rows in a temporary table, and marks each.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

from pipeline.batch.duckdb_errors import translate_errors
from pipeline.batch.fast_path import fast_path
from pipeline.batch.validating_pass import validating_pass
from pipeline.batch.work import Outcome, Split, TaskSpec
from pipeline.core.logs import logger
from pipeline.kernel.engine import Stop, connect, watched
from pipeline.kernel.profile import start_profiling

log = logger(__name__)


def run_task(
    work: TaskSpec, split: Split, on_progress: Callable[[float], None] | None = None, stop: Stop | None = None
) -> Outcome:
    """Compute one split of a table. `on_progress` receives the completed fraction periodically.

    Raises `ExpectationError` if a `fail` expectation is violated, and `DefinitionError` if the definition is not valid for
    its inputs; nothing visible to readers has changed.
    """
    with translate_errors(work):
        reason = "the input has no fast path"
        with connect(work.limits, filesystem=work.filesystem, stop=stop) as con:
            start_profiling(con)
            with work.producer.for_fast_path(con, split) as query:
                if query is not None:
                    with nullcontext() if on_progress is None else watched(con, on_progress):
                        result = fast_path(con, work, split, query)
                    if isinstance(result, Outcome):
                        return result
                    reason = result.reason
                    if query.again:
                        return _fell_back(validating_pass(con, work, split, query, on_progress), reason)
        with connect(work.limits, filesystem=work.filesystem, stop=stop) as con:
            start_profiling(con)
            with work.producer.for_validation(con, split) as query:
                return _fell_back(validating_pass(con, work, split, query, on_progress), reason)


def _fell_back(outcome: Outcome, reason: str) -> Outcome:
    log.info("validating pass", reason=reason, rows=outcome.flow.rows_in)
    return replace(outcome, fallbacks={reason: 1})
