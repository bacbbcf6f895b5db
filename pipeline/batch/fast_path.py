"""The fast path: streams the rows of a split into staged files in one pass, and sets rejected rows aside."""

from __future__ import annotations

from dataclasses import replace

import duckdb

from pipeline.batch.type_changes import discarded_checks
from pipeline.batch.validating_pass import stage_rejected_rows
from pipeline.batch.violations import Violations, violations_set_aside
from pipeline.batch.work import STOP, InputQuery, Outcome, Split, TaskSpec
from pipeline.core.errors import StorageError
from pipeline.core.refusal import Refusal
from pipeline.core.schema import Schema
from pipeline.core.staging import RowCounts, StagedFile
from pipeline.kernel.checks import require_distinct
from pipeline.kernel.engine import first_line, no_rows, one, schema_of
from pipeline.kernel.profile import Profile, last_profile
from pipeline.kernel.sql_text import listed, quoted
from pipeline.kernel.types import stored


def fast_path(con: duckdb.DuckDBPyConnection, work: TaskSpec, split: Split, query: InputQuery) -> Outcome | Refusal:
    """Stage a split's rows in one pass, or return why the validating pass is required.

    Files that were already staged are overwritten by the validating pass, which uses the same names.
    """
    try:
        return _pass(con, work, split, query)
    except (duckdb.InterruptException, duckdb.OutOfMemoryException):
        raise
    except (duckdb.Error, StorageError) as error:
        if STOP in str(error):
            return Refusal("too many rows are rejected, or one violates a `fail` expectation")
        return Refusal(f"the pass failed: {first_line(error)}")  # if it is an error, the validating pass raises it


def _pass(con: duckdb.DuckDBPyConnection, work: TaskSpec, split: Split, query: InputQuery) -> Outcome | Refusal:
    produced = schema_of(con, query.query if query.schema is None else no_rows(query.schema))
    require_distinct(produced.names)
    schema = stored(Schema(tuple(c for c in produced.columns if c.name not in query.hidden)))
    if not set(work.key) <= set(schema.names):
        return Refusal("a column of the key is missing")
    kinds = {c.name: c.type for c in produced.columns}
    columns = ", ".join(
        quoted(c.name) if kinds[c.name] == c.type else f"{quoted(c.name)}::{c.type} as {quoted(c.name)}"
        for c in schema.columns
    )
    with violations_set_aside(con, work.expectations, produced.names, query.hidden) as violations:
        select = f"select {columns} from {violations.kept(query.query)}"
        files = work.stager.stage(con, select, split.index, schema)
        profile = last_profile(con)
    if not is_complete(con, query, profile):
        return Refusal("a record does not match the contract")
    if has_duplicates(con, work, files):
        return Refusal("a key is not unique")
    rejected = rejected_rows(con, query)
    if rejected is None:
        return Refusal("a rejected record cannot be read alone")
    quarantined = _quarantined(con, work, split, violations, replace(query, rejected=rejected))
    rows = sum(file.rows for file in files)
    flow = RowCounts(
        rows_in=query.rows_in,
        rows_made=rows + violations.quarantined + violations.dropped + rejected,
        rows_out=rows,
        quarantined=violations.quarantined + rejected,
        dropped=violations.dropped,
        bytes_in=query.bytes_in,
    )
    checks = {**violations.checks, **discarded_checks(query.discarded)}
    return Outcome(schema, flow, files, quarantined, checks, profile)


def rejected_rows(con: duckdb.DuckDBPyConnection, query: InputQuery) -> int | None:
    """Read the rows that a pass set aside into `_rejected`, and return their number, or `None`; see `Misfits.reject`."""
    return query.rejected if query.misfits is None else query.misfits.reject(con)


def _quarantined(
    con: duckdb.DuckDBPyConnection, work: TaskSpec, split: Split, violations: Violations, query: InputQuery
) -> tuple[StagedFile, ...]:
    if not violations.quarantined:
        return stage_rejected_rows(con, work, split, query)
    con.register("_violations", violations.rows())
    try:
        return stage_rejected_rows(
            con, work, split, query, ["select reasons, _source, _position, row from _violations"]
        )
    finally:
        con.unregister("_violations")


def is_complete(con: duckdb.DuckDBPyConnection, query: InputQuery, profile: Profile) -> bool:
    """Return whether the last pass read every record of the split."""
    if query.scanned is not None and profile.scanned.get("READ_CSV", query.scanned) != query.scanned:
        return False
    return not any(one(con, errors)[0] for errors in query.error_queries)


def has_duplicates(con: duckdb.DuckDBPyConnection, work: TaskSpec, files: tuple[StagedFile, ...]) -> bool:
    """Return whether the staged rows contain a duplicate key, or a key of the existing rows."""
    if not work.key or not files:
        return False
    names = listed(work.key)
    staged = f"select {names} from {work.stager.scan(files)}"
    if one(con, f"select count(*) from (select 1 from ({staged}) group by {names} having count(*) > 1 limit 1)")[0]:
        return True
    before = work.keys_before
    if before is None:
        return False
    shared = f"select 1 from ({before}) semi join ({staged}) using ({names}) limit 1"
    return bool(one(con, f"select count(*) from ({shared})")[0])
