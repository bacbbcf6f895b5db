"""The partition columns of a table in Delta, and how a table loses them without writing a file.

Delta requires that each file has one value of each partition column, and takes the value from the log. So a table has
partition columns only if all of its files have been divided by them. When its files are to be divided in another way, one
commit makes the partition columns ordinary ones: it adds the same files again, without partition values and with
the values as bounds. The files contain these columns anyway, and the bounds let every reader skip the same files as before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from pipeline.core.staging import StagedFile
from pipeline.kernel.types import from_arrow
from pipeline.lake.actions import actions_of, uris
from pipeline.lake.log import APP, REPARTITIONED
from pipeline.lake.log_files import entry_name
from pipeline.lake.stats import logged, with_partition_bounds
from pipeline.lake.storage import Storage
from pipeline.lake.versions import logged_stats

FORMER = "headwater.formerPartitionColumns"
"""The property of a table with the partition columns that it had, in JSON."""


def columns_for(wanted: tuple[str, ...], files: Sequence[StagedFile]) -> tuple[str, ...]:
    """Return the partition columns of a table with these files: the wanted ones, or none if a file is divided otherwise."""
    return wanted if all(set(file.partition) == set(wanted) for file in files) else ()


def without_partition(file: StagedFile, types: Mapping[str, str]) -> StagedFile:
    """Return a file for a table without partition columns."""
    if not file.partition:
        return file
    return replace(file, partition={}, stats=with_partition_bounds(file.stats, file.partition, types))


def staged_files(storage: Storage, table: DeltaTable) -> tuple[StagedFile, ...]:
    """Return the files of an open version as staged files, with their bounds if the log has them."""
    actions = actions_of(table)
    values = [name for name in actions.column_names if name.startswith("partition.")]
    rows = actions.select(["size_bytes", "num_records", *values]).to_pylist()
    stats = logged_stats(storage, int(table.version()))
    return tuple(
        StagedFile(
            path=uri.removeprefix(f"{storage.uri}/"),
            size_bytes=row["size_bytes"],
            rows=row["num_records"],
            partition={name.removeprefix("partition."): logged(row[name]) for name in values},
            stats=stats.get(uri.removeprefix(f"{storage.uri}/")) or json.dumps({"numRecords": row["num_records"]}),
        )
        for uri, row in sorted(zip(uris(storage, actions), rows, strict=True), key=itemgetter(0))
    )


def former_columns(table: DeltaTable) -> tuple[str, ...]:
    """Return the partition columns of a table, or those that it had."""
    metadata = table.metadata()
    former = metadata.configuration.get(FORMER)
    return tuple(metadata.partition_columns if former is None else json.loads(former))


def drop_partition_columns(storage: Storage, table: DeltaTable, manifest_id: int | None) -> bool:
    """Commit that a table has no partition columns any more, on top of its open version, under the same manifest id.

    No file is written and no row changes. Returns false if another writer has committed; raises `StorageError` if the store
    fails, and `OutcomeUnknownError` if the outcome is not known. delta-rs has no such operation.
    """
    metadata, now = table.metadata(), int(time.time() * 1000)
    info: dict[str, Any] = {
        "timestamp": now,
        "operation": "CHANGE PARTITIONING",
        "operationParameters": {"partitionBy": "[]"},
        REPARTITIONED: "true",
    }
    if metadata.configuration.get("delta.enableInCommitTimestamps") == "true":
        info = {"inCommitTimestamp": now, **info}
    changed = {
        "id": str(metadata.id),
        "name": metadata.name,
        "description": metadata.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": table.schema().to_json(),
        "partitionColumns": [],
        "configuration": {**metadata.configuration, FORMER: json.dumps(former_columns(table))},
        "createdTime": metadata.created_time,
    }
    actions: list[dict[str, Any]] = [{"commitInfo": info}, {"metaData": changed}]
    if manifest_id is not None:
        actions.append({"txn": {"appId": APP, "version": manifest_id, "lastUpdated": now}})
    actions += _added_again(storage, table)
    text = "\n".join(json.dumps(action) for action in actions)
    return storage.create(entry_name(int(table.version()) + 1), text.encode())


def _added_again(storage: Storage, table: DeltaTable) -> Iterator[dict[str, Any]]:
    """Yield the actions that add the files of a table again, which replaces what the log said about them."""
    types = from_arrow(pa.schema(table.schema().to_arrow())).as_dict()
    staged, actions = staged_files(storage, table), actions_of(table)
    known = actions.select(["path", "modification_time"]).to_pylist()
    logged_as = dict(zip(uris(storage, actions), known, strict=True))
    for file in staged:
        each = logged_as[f"{storage.uri}/{file.path}"]
        yield {
            "add": {
                "path": each["path"],
                "partitionValues": {},
                "size": file.size_bytes,
                "modificationTime": each["modification_time"],
                "dataChange": False,
                "stats": without_partition(file, types).stats,
            }
        }
