"""Data skipping: selects the files of a version by the column bounds in the Delta log, and by the buckets in their paths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa
from sqlglot import exp

from pipeline.core.errors import StorageError
from pipeline.kernel.engine import connect
from pipeline.kernel.partition_transforms import buckets_in
from pipeline.kernel.planner.pruning import FileCondition, bucket_condition, file_conditions
from pipeline.kernel.scan import DataFile, Scan
from pipeline.kernel.sql_text import quoted
from pipeline.lake.delta import LakeTable, Version


def scan_for(table: LakeTable, version: Version, tree: exp.Query) -> Scan:
    """Return the rows of a version that a statement may need: a scan without the files that its conditions exclude."""
    files = files_for(table, version, file_conditions(tree, table.name, version.schema))
    return replace(version.scan(), files=files)


def files_for(table: LakeTable, version: Version, conditions: Sequence[FileCondition]) -> tuple[DataFile, ...]:
    """Return the files of a version that may satisfy all conditions, in their order.

    Files without bounds are kept; all files are kept if DuckDB cannot evaluate a condition on the bounds, and if the log no
    longer has the version.
    """
    if not conditions or len(version.files) < 2:  # noqa: PLR2004 - a single file is opened anyway
        return version.files
    columns = tuple(dict.fromkeys(condition.column for condition in conditions))
    names = [f"{end}.{column}" for column in columns for end in ("min", "max")]
    try:
        bounds = table.bounds(version, columns).rename_columns(["uri", *names])
    except StorageError:
        return version.files
    in_buckets, bounds = _with_buckets(table, bounds, conditions)
    every = (*(condition.sql for condition in conditions), *in_buckets)
    holds = " and ".join(f"coalesce({condition}, true)" for condition in every)
    with connect() as con:
        con.register("_bounds", bounds)
        try:
            excluded = {str(row[0]) for row in con.execute(f"select uri from _bounds where not ({holds})").fetchall()}
        except duckdb.Error:
            return version.files
    return tuple(file for file in version.files if file.uri not in excluded)


def _with_buckets(
    table: LakeTable, bounds: pa.Table, conditions: Sequence[FileCondition]
) -> tuple[list[str], pa.Table]:
    """Return conditions on the buckets of files, and the bounds with these buckets, which the paths of the files say."""
    root, holds = f"{table.storage.uri}/", list[str]()
    paths = [uri.removeprefix(root) for uri in bounds.column("uri").to_pylist()]
    for condition in conditions:
        if not (condition.equal_to or condition.buckets):
            continue
        known = [buckets_in(path, condition.column) for path in paths]
        for buckets in sorted({number for each in known for number in each}):
            name = f"bucket.{len(holds)}"
            bounds = bounds.append_column(name, pa.array([each.get(buckets) for each in known], pa.int32()))
            holds.append(bucket_condition(condition, buckets, quoted(name)))
    return holds, bounds
