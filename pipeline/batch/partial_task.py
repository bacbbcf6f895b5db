"""The task of a partial aggregation: computes the exported states of a split, which are merged once for all splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import duckdb
import pyarrow as pa

from pipeline.batch.duckdb_errors import translate_errors
from pipeline.batch.fast_path import is_complete, rejected_rows
from pipeline.batch.validating_pass import stage_rejected_rows
from pipeline.batch.work import InputQuery, Split, TaskSpec
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import Stop, arrow_within, connect, watched
from pipeline.kernel.profile import Profile, last_profile, start_profiling

MOST_BYTES = 256 << 20
"""The maximum size of the states of one split; with more groups, another strategy is faster."""


@dataclass(frozen=True)
class PartialStates:
    """The states of one split, and its rows that were quarantined because they do not match the contract."""

    rows: pa.Table | None
    """`None` if the states exceed the limit."""
    rows_in: int
    bytes_in: int
    rejected: int
    quarantined: tuple[StagedFile, ...]
    discarded: Mapping[str, int]
    """The number of values that were replaced by null, by column."""
    profile: Profile


def run_states(
    work: TaskSpec, split: Split, on_progress: Callable[[float], None] | None = None, stop: Stop | None = None
) -> PartialStates:
    """Compute a split's states; the producer of `work` runs the partial statement."""
    with translate_errors(work):
        with connect(work.limits, filesystem=work.filesystem, stop=stop) as con:
            start_profiling(con)
            with work.producer.for_fast_path(con, split) as query:
                if query is not None:
                    states = _streamed(con, work, split, query, on_progress)
                    if states is not None:
                        return states
        with connect(work.limits, filesystem=work.filesystem, stop=stop) as con:
            start_profiling(con)
            with work.producer.for_validation(con, split) as query:
                rows = arrow_within(con, query.query, MOST_BYTES)
                profile = Profile() if rows is None else last_profile(con)
                quarantined = stage_rejected_rows(con, work, split, query)
                return PartialStates(
                    rows, query.rows_in, query.bytes_in, query.rejected, quarantined, query.discarded, profile
                )


def _streamed(
    con: duckdb.DuckDBPyConnection,
    work: TaskSpec,
    split: Split,
    query: InputQuery,
    on_progress: Callable[[float], None] | None,
) -> PartialStates | None:
    try:
        with nullcontext() if on_progress is None else watched(con, on_progress):
            rows = arrow_within(con, query.query, MOST_BYTES)
        if rows is None:
            return PartialStates(None, query.rows_in, query.bytes_in, 0, (), {}, Profile())
        profile = last_profile(con)
        if not is_complete(con, query, profile):
            return None
        rejected = rejected_rows(con, query)
        if rejected is None:
            return None
    except (duckdb.Error, OSError) as error:  # an error of a stream that DuckDB reads can be an OSError
        if query.again or isinstance(error, duckdb.InterruptException | duckdb.OutOfMemoryException):
            raise
        return None
    quarantined = stage_rejected_rows(con, work, split, replace(query, rejected=rejected))
    return PartialStates(rows, query.rows_in, query.bytes_in, rejected, quarantined, query.discarded, profile)
