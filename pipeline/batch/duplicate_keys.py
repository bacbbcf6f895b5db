"""Duplicate keys across splits: each split validates only its own rows; of duplicates, the first split's row is kept."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import duckdb

from pipeline.batch.validating_pass import stage_quarantine
from pipeline.batch.work import Outcome, Split, TaskSpec
from pipeline.core.definitions import UNIQUE
from pipeline.core.sources import POSITION, SOURCE
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import connect, one
from pipeline.kernel.pool import configure
from pipeline.kernel.sql_text import listed, literal, quoted

_ROW = "file_row_number"


def combine_outcomes(work: TaskSpec, outcomes: Sequence[Outcome]) -> Outcome | None:
    """Return the combined outcome of the splits, with rows quarantined whose key is in an earlier split.

    Only files that contain such rows are rewritten. Quarantined rows have their provenance if the table has it. Returns
    `None` if splits share keys and are not in the order that defines the first row.
    """
    combined = reduce(add, outcomes)
    if not work.key or not _may_share_keys(work.key[0], outcomes):
        return combined
    with connect(work.limits, filesystem=work.filesystem) as con:
        configure(con, "preserve_insertion_order", "false")
        count = _find_duplicates(con, work, combined.files)
        if not count:
            return combined
        if not work.are_splits_ranked:
            return None
        files = _without_duplicates(con, work, combined.files, len(outcomes))
        quarantined = stage_quarantine(con, work, Split(len(outcomes)), [_duplicate_rows(work, combined)])
    flow = replace(
        combined.flow, rows_out=combined.flow.rows_out - count, quarantined=combined.flow.quarantined + count
    )
    checks = {**combined.checks, UNIQUE: combined.checks[UNIQUE] + count}
    return replace(combined, files=files, flow=flow, quarantined=(*combined.quarantined, *quarantined), checks=checks)


def _may_share_keys(key: str, outcomes: Sequence[Outcome]) -> bool:
    """Return whether two splits may share values of a column, according to the bounds of their files."""
    ranges: list[tuple[Any, Any]] = []
    for outcome in (outcome for outcome in outcomes if outcome.files):
        stats = [json.loads(file.stats) for file in outcome.files]
        lows, highs = ([s.get(f"{end}Values", {}).get(key) for s in stats] for end in ("min", "max"))
        if None in lows or None in highs:
            return True
        ranges.append((min(lows), max(highs)))
    ranges.sort()
    return any(later[0] <= earlier[1] for earlier, later in itertools.pairwise(ranges))


def _find_duplicates(con: duckdb.DuckDBPyConnection, work: TaskSpec, files: Sequence[StagedFile]) -> int:
    """Create the table `_losers` of rows whose key occurs earlier, and return their number."""
    key, scan = listed(work.key), work.stager.scan(files)
    con.execute(f"create temp table _shared as select {key} from {scan} group by {key} having count(*) > 1")
    con.execute(
        f"create temp table _losers as select file_index as _file, {_ROW} as _row "
        f"from {scan} as s semi join _shared using ({key}) "
        f"qualify row_number() over (partition by {key} order by file_index, {_ROW}) > 1"
    )
    return int(one(con, "select count(*) from _losers")[0])


def _without_duplicates(
    con: duckdb.DuckDBPyConnection, work: TaskSpec, files: Sequence[StagedFile], first: int
) -> tuple[StagedFile, ...]:
    losing = {int(row[0]) for row in con.execute("select distinct _file from _losers").fetchall()}
    kept: list[StagedFile] = []
    for number, file in enumerate(files):
        if number in losing:
            query = f"select * from {work.stager.scan([file])} where {_ROW} not in (select _row from _losers where _file = {number})"
            kept.extend(work.stager.stage(con, query, first + 1 + number))
        else:
            kept.append(file)
    return tuple(kept)


def _duplicate_rows(work: TaskSpec, combined: Outcome) -> str:
    """Return the SELECT of the duplicate rows, with the columns of the quarantine."""
    names = combined.schema.names
    source = SOURCE if SOURCE in names else "null::varchar"
    position = POSITION if POSITION in names else "null::bigint"
    row = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in names)
    return (
        f"select {literal(UNIQUE)} as reasons, {source} as _source, {position} as _position, "
        f"to_json(struct_pack({row}))::varchar as row from {work.stager.scan(combined.files)} as s "
        f"semi join _losers as l on s.file_index = l._file and s.{_ROW} = l._row"
    )
