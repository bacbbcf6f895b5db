"""The validating pass: materializes a split's rows, marks violations, and stages kept and quarantined rows separately."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import duckdb

from pipeline.batch.type_changes import discarded_checks
from pipeline.batch.work import InputQuery, Outcome, Split, TaskSpec
from pipeline.core.definitions import Action
from pipeline.core.errors import ExpectationError, OrderError
from pipeline.core.staging import RowCounts, StagedFile
from pipeline.kernel.checks import MADE, MarkedRows, count_before, mark, mark_duplicates, mark_known, rank
from pipeline.kernel.engine import arrow, schema_of, watched
from pipeline.kernel.profile import last_profile
from pipeline.kernel.sql_text import listed, literal
from pipeline.kernel.types import stored

REJECTED = "_rejected"
"""The temporary table of rows that the reader rejected because they do not match the contract."""
REJECTED_COLUMNS = "(reasons varchar, _source varchar, _position bigint, row varchar)"


def validating_pass(
    con: duckdb.DuckDBPyConnection,
    work: TaskSpec,
    split: Split,
    query: InputQuery,
    on_progress: Callable[[float], None] | None = None,
) -> Outcome:
    """Compute, validate and stage a split's rows.

    Raises `ExpectationError` if a `fail` expectation is violated, and `DefinitionError` if the definition is not valid for
    its inputs; nothing visible to readers has changed.
    """
    with nullcontext() if on_progress is None else watched(con, on_progress):
        marked = mark(con, query.query, work.expectations, hidden=query.hidden, merge=work.merge)
    profile = last_profile(con)
    if work.key:
        _mark_keys(con, work, marked)
    checks = marked.violations(con)
    _require_expectations(con, work, marked, checks)
    outcome = _staged(con, work, split, query, marked)
    return replace(outcome, checks={**checks, **discarded_checks(query.discarded)}, profile=profile)


def _staged(
    con: duckdb.DuckDBPyConnection, work: TaskSpec, split: Split, query: InputQuery, marked: MarkedRows
) -> Outcome:
    rows, quarantined, dropped = marked.counts(con)
    produced = schema_of(con, f"select {listed(marked.columns)} from {MADE}")
    schema = stored(produced)
    casts = {c.name: c.type for c, before in zip(schema.columns, produced.columns, strict=True) if c != before}
    files = work.stager.stage(con, marked.kept(casts), split.index, schema)
    others = [marked.rejected()] if quarantined else []
    flow = RowCounts(
        rows_in=query.rows_in,
        rows_made=rows + query.rejected,
        rows_out=rows - quarantined - dropped,
        quarantined=quarantined + query.rejected,
        dropped=dropped,
        bytes_in=query.bytes_in,
    )
    return Outcome(schema, flow, files, stage_rejected_rows(con, work, split, query, others))


def stage_rejected_rows(
    con: duckdb.DuckDBPyConnection, work: TaskSpec, split: Split, query: InputQuery, others: Sequence[str] = ()
) -> tuple[StagedFile, ...]:
    """Stage the rows that the reader rejected, after the rows of `others`."""
    return stage_quarantine(con, work, split, [*others, *_rejected(query)])


def _rejected(query: InputQuery) -> list[str]:
    return [f"select reasons, _source, _position, row from {REJECTED}"] if query.rejected else []


def stage_quarantine(
    con: duckdb.DuckDBPyConnection, work: TaskSpec, split: Split, queries: Sequence[str]
) -> tuple[StagedFile, ...]:
    """Stage rows with `reasons`, `_source`, `_position` and `row` for the quarantine."""
    if not queries:
        return ()
    stamp = f"{literal(work.run_id)} as _run, {literal(work.at)}::timestamptz as _quarantined_at"
    return work.quarantined.stage(con, f"select *, {stamp} from ({' union all '.join(queries)})", split.index)


def _require_expectations(
    con: duckdb.DuckDBPyConnection, work: TaskSpec, marked: MarkedRows, checks: Mapping[str, int]
) -> None:
    for number, expectation in enumerate(marked.expectations):
        count = checks[expectation.name]
        if expectation.action is not Action.FAIL or not count:
            continue
        shown = (*marked.columns, *(name for name in marked.provenance if name not in marked.columns))
        row = arrow(con, f"select {listed(shown)} from {MADE} where _bits & {1 << number} != 0 limit 1").to_pylist()[0]
        raise ExpectationError(
            f"table {work.table!r} violates {expectation.name!r} ({expectation.condition})",
            got=f"{count} row{'s' if count > 1 else ''}, the first {_brief(row)}",
            do="fix the data or the expectation; nothing of this table was committed",
            place=expectation.place or work.place,
        )


def _mark_keys(con: duckdb.DuckDBPyConnection, work: TaskSpec, marked: MarkedRows) -> None:
    hidden = tuple(name for name in marked.provenance if name not in marked.columns)
    mark_duplicates(con, marked, work.key, rank((*marked.columns, *hidden)) if work.is_ranked else "rowid")
    before = work.keys_before
    if before is None:
        return
    rows = None
    if not hidden and not work.existing_first and work.existing is not None:
        rows = work.existing.widened(schema_of(con, f"select {listed(marked.columns)} from {MADE}")).query()
    first = 0 if rows is None else count_before(con, marked, work.key, rows)
    known = mark_known(con, marked, work.key, before)
    if not work.existing_first and (known if rows is None else first):
        raise OrderError(f"new rows of table {work.table!r} may precede existing rows with their key", place=work.place)


def _brief(row: Mapping[str, object]) -> str:
    parts = [f"{name}={value}" for name, value in row.items() if value is not None]
    return ", ".join(parts)[:300]
