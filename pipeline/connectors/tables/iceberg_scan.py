"""The data files of an Iceberg snapshot with the deletes that apply to them, and their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.core.errors import Place, SourceError
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import quoted

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile, ManifestEntry, ManifestFile
    from pyiceberg.table import FileScanTask, Table

_ROW = "_headwater_row"


@dataclass(frozen=True)
class IcebergFile:
    """A data file, with the files of deletes that apply to it."""

    task: FileScanTask
    equality_deletes: tuple[DataFile, ...] = ()

    @property
    def path(self) -> str:
        """The location of the data file."""
        return str(self.task.file.file_path)

    @property
    def rows(self) -> int:
        """The number of its rows, with the deleted ones."""
        return int(self.task.file.record_count)

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return int(self.task.file.file_size_in_bytes)


def snapshot_files(table: Table, snapshot_id: int) -> tuple[IcebergFile, ...]:
    """Return all data files of a snapshot, ordered by location."""
    snapshot = table.metadata.snapshot_by_id(snapshot_id)
    return () if snapshot is None else _planned(table, snapshot.manifests(table.io), None)


def appended_files(table: Table, snapshot_id: int) -> tuple[IcebergFile, ...]:
    """Return the data files that a snapshot appended, ordered by location."""
    from pyiceberg.manifest import ManifestContent  # noqa: PLC0415 - an extra

    snapshot = table.metadata.snapshot_by_id(snapshot_id)
    manifests = [] if snapshot is None else snapshot.manifests(table.io)
    own = [each for each in manifests if each.content == ManifestContent.DATA and each.added_snapshot_id == snapshot_id]
    return _planned(table, own, snapshot_id)


def _planned(table: Table, manifests: Sequence[ManifestFile], added_by: int | None) -> tuple[IcebergFile, ...]:
    from pyiceberg.manifest import DataFileContent, ManifestEntryStatus  # noqa: PLC0415 - an extra
    from pyiceberg.table import ManifestGroupPlanner  # noqa: PLC0415 - likewise

    planner = ManifestGroupPlanner(table.metadata, table.io)

    def is_wanted(entry: ManifestEntry) -> bool:
        is_new = added_by is None or (entry.snapshot_id == added_by and entry.status == ManifestEntryStatus.ADDED)
        return is_new and entry.data_file.content != DataFileContent.EQUALITY_DELETES

    tasks = planner.plan_files(manifests, is_wanted)
    entries = [entry for group in planner.plan_manifest_entries(manifests) for entry in group]
    sequence = {each.data_file.file_path: each.sequence_number or 0 for each in entries}
    deletes = [each for each in entries if each.data_file.content == DataFileContent.EQUALITY_DELETES]
    files = [IcebergFile(task, _equality_deletes(table, task, sequence, deletes)) for task in tasks]
    return tuple(sorted(files, key=lambda file: file.path))


def _equality_deletes(
    table: Table, task: FileScanTask, sequence: Mapping[str, int], deletes: Sequence[ManifestEntry]
) -> tuple[DataFile, ...]:
    """Return the equality deletes of a data file: newer ones of its partition, and those of no partition."""
    data, specs = task.file, table.specs()
    return tuple(
        each.data_file
        for each in deletes
        if (each.sequence_number or 0) > sequence[data.file_path]
        and (
            specs[each.data_file.spec_id].is_unpartitioned()
            or (each.data_file.spec_id == data.spec_id and each.data_file.partition == data.partition)
        )
    )


def rows_of(table: Table, file: IcebergFile, place: Place) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a data file that are not deleted, in its order, with the newest columns of the table."""
    from pyiceberg.expressions import AlwaysTrue  # noqa: PLC0415 - an extra
    from pyiceberg.io.pyarrow import ArrowScan  # noqa: PLC0415 - likewise

    batches = ArrowScan(table.metadata, table.io, table.schema(), AlwaysTrue()).to_record_batches([file.task])
    if not file.equality_deletes:
        yield from batches
        return
    rows = list(batches)
    if rows:
        yield from _without(table, pa.Table.from_batches(rows), file.equality_deletes, place).to_batches()


def _without(table: Table, rows: pa.Table, deletes: Sequence[DataFile], place: Place) -> pa.Table:
    """Return the rows that are in none of the equality deletes; nulls are equal to each other."""
    with connect() as con:
        con.register("rows", rows.append_column(_ROW, pa.array(range(rows.num_rows), pa.int64())))
        tests = []
        for number, delete in enumerate(deletes):
            names, keys = _equality_columns(table, delete, place)
            con.register(f"deletes{number}", keys)
            same = " and ".join(f"r.{quoted(name)} is not distinct from d.{quoted(name)}" for name in names)
            tests.append(f"not exists (select 1 from deletes{number} d where {same})")
        kept = arrow(con, f"select {_ROW} from rows r where {' and '.join(tests)} order by {_ROW}")
    return rows.take(kept.column(_ROW))


def _equality_columns(table: Table, delete: DataFile, place: Place) -> tuple[list[str], pa.Table]:
    """Return the names of the columns of a file of equality deletes in the table, and its rows under these names."""
    from pyarrow import parquet as pq  # noqa: PLC0415 - only here

    schema: Any = table.schema()
    names = {number: schema.find_column_name(number) for number in delete.equality_ids or ()}
    if None in names.values() or delete.file_format.value != "PARQUET":
        raise SourceError(
            "equality deletes of the Iceberg table cannot be applied",
            got=f"{delete.file_path} in {delete.file_format.value}, by the columns {sorted(names)}",
            do="compact the table, so that it has no equality deletes",
            place=place,
        )
    with table.io.new_input(delete.file_path).open() as stream:
        rows = pq.read_table(pa.PythonFile(stream, mode="r"))
    numbers = [int((field.metadata or {}).get(b"PARQUET:field_id", -1)) for field in rows.schema]
    columns = {str(names[number]): rows.column(at) for at, number in enumerate(numbers) if number in names}
    return list(columns), pa.table(columns)
