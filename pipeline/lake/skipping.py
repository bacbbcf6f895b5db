"""Data skipping: selects the files of a version by the column bounds in the Delta log."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from pipeline.kernel.engine import connect
from pipeline.kernel.planner.pruning import FileCondition
from pipeline.kernel.scan import DataFile
from pipeline.lake.delta import LakeTable, Version


def files_for(table: LakeTable, version: Version, conditions: Sequence[FileCondition]) -> tuple[DataFile, ...]:
    """Return the files of a version that may satisfy all conditions, in their order.

    Files without bounds are kept; all files are kept if DuckDB cannot evaluate a condition on the bounds.
    """
    if not conditions or len(version.files) < 2:  # noqa: PLR2004 - a single file is opened anyway
        return version.files
    columns = tuple(dict.fromkeys(condition.column for condition in conditions))
    names = [f"{end}.{column}" for column in columns for end in ("min", "max")]
    bounds = table.bounds(version, columns).rename_columns(["uri", *names])
    holds = " and ".join(f"coalesce({condition.sql}, true)" for condition in conditions)
    with connect() as con:
        con.register("_bounds", bounds)
        try:
            matching = {str(row[0]) for row in con.execute(f"select uri from _bounds where {holds}").fetchall()}
        except duckdb.Error:
            return version.files
    return tuple(file for file in version.files if file.uri in matching)
