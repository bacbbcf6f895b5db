"""Iceberg tables in a catalog of SQLite; deletes in files, which other engines write and pyiceberg does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("pyiceberg", reason="the extra headwater[iceberg] is not installed")

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record

PATHS = pa.schema(
    [
        pa.field("file_path", pa.string(), metadata={"PARQUET:field_id": "2147483546"}),
        pa.field("pos", pa.int64(), metadata={"PARQUET:field_id": "2147483545"}),
    ]
)


class IcebergCatalog:
    """A catalog in a folder."""

    def __init__(self, folder: Path) -> None:
        warehouse = folder / "warehouse"
        warehouse.mkdir()
        self.properties = {
            "name": "rig",
            "type": "sql",
            "uri": f"sqlite:///{folder}/catalog.db",
            "warehouse": f"file://{warehouse}",
        }
        self.catalog: Catalog = load_catalog(**self.properties)
        self.catalog.create_namespace("shop")

    def create(self, name: str, schema: pa.Schema, **options: Any) -> Table:
        return self.catalog.create_table(f"shop.{name}", schema=schema, **options)

    def close(self) -> None:
        self.catalog.engine.dispose()  # type: ignore[attr-defined]


def loaded(properties: dict[str, str], table: str) -> Table:
    """Load a table of a catalog with these properties."""
    named = {name: value for name, value in properties.items() if name != "name"}
    return load_catalog(properties.get("name", "rig"), **named).load_table(table)


class _DeleteWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _AddDeletes(_FastAppendFiles):
    """Commits files of deletes."""

    files: list[DataFile]

    def _manifests(self) -> list[ManifestFile]:
        spec = self._transaction.table_metadata.spec()
        with _DeleteWriter(spec, self.schema(), self.new_manifest_output(), self._snapshot_id, "gzip") as writer:
            for file in self.files:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED,
                    snapshot_id=self._snapshot_id,
                    sequence_number=None,
                    data_file=file,
                )
                writer.add_entry(entry)
        return [writer.to_manifest_file(), *self._existing_manifests()]


def delete_positions(table: Table, path: str, positions: list[int]) -> None:
    """Delete rows of a data file by their positions."""
    rows = pa.table([[path] * len(positions), positions], schema=PATHS)
    _commit(table, _written(table, rows, DataFileContent.POSITION_DELETES, None))


def delete_equal(table: Table, rows: pa.Table, partition: Record | None = None, suffix: str = "parquet") -> None:
    """Delete the rows that are equal to these in their columns."""
    fields = {field.name: field for field in schema_to_pyarrow(table.schema())}
    typed = rows.cast(pa.schema([fields[name] for name in rows.column_names]))
    ids = [int(field.metadata[b"PARQUET:field_id"]) for field in typed.schema]
    _commit(table, _written(table, typed, DataFileContent.EQUALITY_DELETES, ids, partition, suffix))


def _written(  # noqa: PLR0913 - the fields of a file
    table: Table,
    rows: pa.Table,
    content: DataFileContent,
    ids: list[int] | None,
    partition: Record | None = None,
    suffix: str = "parquet",
) -> DataFile:
    path = f"{table.location()}/data/deletes-{len(table.snapshots())}.{suffix}"
    local = path.removeprefix("file://")
    pq.write_table(rows, local)
    return DataFile.from_args(
        content=content,
        file_path=path,
        file_format=FileFormat(suffix.upper()),
        partition=partition or Record(),
        record_count=rows.num_rows,
        file_size_in_bytes=Path(local).stat().st_size,
        equality_ids=ids,
        spec_id=table.spec().spec_id,
        column_sizes={},
        value_counts={},
        null_value_counts={},
        nan_value_counts={},
        lower_bounds={},
        upper_bounds={},
        split_offsets=[],
    )


def _commit(table: Table, file: DataFile) -> None:
    with table.transaction() as transaction:
        deletes = _AddDeletes(Operation.DELETE, transaction, table.io, branch="main")
        deletes.files = [file]
        deletes.commit()
