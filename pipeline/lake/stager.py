"""Staging: tasks write the files of a table, which become visible with its next commit.

Tasks need only this module; it does not import the Delta library.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from pipeline.core.errors import StorageError
from pipeline.core.partition_fields import fields_of, plain_columns
from pipeline.core.schema import Schema
from pipeline.core.staging import StagedFile
from pipeline.kernel.engine import is_file_error, schema_of
from pipeline.kernel.partition_transforms import FOLDER, folder_columns
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.lake.stats import delta_stats, partition_value
from pipeline.lake.storage import Storage

ROW_GROUP = 122_880


@dataclass(frozen=True)
class DeltaStager:
    """Writes Parquet files named after the run and the split, so that a retried split writes the same names.

    Rows are divided into files by `partition_by`. Partition columns are written into the files like all others; transforms
    are only the names of folders, and files that are divided by them have no partition in the Delta log.
    """

    storage: Storage
    run_id: str
    partition_by: tuple[str, ...] = ()

    def stage(
        self, con: duckdb.DuckDBPyConnection, select: str, split: int, schema: Schema | None = None
    ) -> tuple[StagedFile, ...]:
        """Write the rows of a SELECT below the table; raise `StorageError` if that fails."""
        self.storage.make()
        kinds = (schema_of(con, select) if schema is None else schema).as_dict()
        name = f"part-{self.run_id}-{split:05d}"
        columns, hidden = plain_columns(self.partition_by), {}
        if self.partition_by and not columns:
            hidden = folder_columns(fields_of(self.partition_by), kinds)
            columns = tuple(hidden)
            added = ", ".join(f"{text} as {quoted(folder)}" for folder, text in hidden.items())
            select = f"select *, {added} from ({select})"
        options = "format parquet, compression zstd, return_stats true"
        if self.partition_by:
            options += f", filename_pattern {literal(name + '-{i}')}, overwrite_or_ignore true"
            options += f", partition_by ({listed(columns)}), write_partition_columns {str(not hidden).lower()}"
            target = self.storage.at(FOLDER).uri if hidden else self.storage.uri
        else:
            options += f", row_group_size {ROW_GROUP}"
            target = f"{self.storage.uri}/{name}.parquet"
        try:
            with self.storage.creating(name):
                cursor = con.execute(f"copy ({select}) to {literal(target)} ({options})")
        except (duckdb.Error, OSError) as error:
            if not (is_file_error(error) or isinstance(error, OSError)):
                raise
            advice = "check its space and permissions; nothing was committed"
            raise self.storage.failed(f"cannot write below {self.storage.uri}", error, advice) from error
        returned = [column[0] for column in cursor.description or ()]
        written = [dict(zip(returned, row, strict=True)) for row in cursor.fetchall()]
        self.storage.remove([self._path(file) for file in written if not file["count"]])
        return tuple(self._staged(file, kinds) for file in written if file["count"])

    def keep_only(self, kept: Collection[str]) -> None:
        """Remove what this run has staged, except the files with these paths: files of repeated splits, and of failed steps."""
        mine = f"part-{self.run_id}-"
        names = [name for name in self.storage.names() if mine in name.rpartition("/")[2] and name not in kept]
        self.storage.remove(names)

    def scan(self, files: Sequence[StagedFile]) -> str:
        """Return a call of `read_parquet` on staged files."""
        uris = ", ".join(literal(f"{self.storage.uri}/{file.path}") for file in files)
        return f"read_parquet([{uris}], hive_partitioning = false)"

    def _path(self, file: Mapping[str, Any]) -> str:
        return str(file["filename"]).partition(self.storage.uri.rstrip("/") + "/")[2]

    def _staged(self, file: Mapping[str, Any], kinds: Mapping[str, str]) -> StagedFile:
        columns = plain_columns(self.partition_by)
        partition = {k: partition_value(v, kinds[k]) for k, v in (file["partition_keys"] or {}).items() if k in columns}
        if "" in partition.values():
            raise StorageError(
                f"empty text in a partition column below {self.storage.uri}",
                got=", ".join(name for name, value in partition.items() if value == ""),
                do="use null, which Delta does not distinguish from it, or do not partition by this column",
            )
        return StagedFile(
            path=self._path(file),
            size_bytes=int(file["file_size_bytes"]),
            rows=int(file["count"]),
            partition=partition,
            stats=delta_stats(int(file["count"]), file["column_statistics"], kinds, columns),
        )
