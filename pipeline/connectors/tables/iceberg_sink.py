"""Iceberg metadata of a table's files, so that engines that read Iceberg read the lake; no rows are copied.

Delivery: exactly once. The data files of a version and its number are in one commit of the Iceberg table.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.connectors.tables.iceberg import IcebergLocation, catalog_of
from pipeline.connectors.tables.store_options import references, resolved
from pipeline.core.clients import message_of
from pipeline.core.definitions import caller
from pipeline.core.errors import ConflictError, DefinitionError, HeadwaterError, SinkError
from pipeline.core.event_time import parse_duration
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition, is_delivered

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction

_REACHED = "headwater.reached"
"""The property of the Iceberg table with the version that it mirrors."""
_NAME_MAPPING = "schema.name-mapping.default"
"""The property that maps names to columns, because the files have no ids of columns."""


@dataclass(frozen=True)
class ToIceberg:
    """An Iceberg table in a catalog. Create it with `to_iceberg`."""

    table: str
    catalog: tuple[tuple[str, str], ...] = field(repr=False)
    keep: dt.timedelta

    def open(self, context: SinkContext) -> IcebergTarget:
        """Open the catalog; raise `SinkError` if it cannot be reached."""
        del context
        return IcebergTarget(self)

    @property
    def shares_files(self) -> bool:
        """See `SharesFiles`."""
        return True

    def __str__(self) -> str:
        """Return the table's name."""
        return f"Iceberg table {self.table}"


def to_iceberg(table: str, *, catalog: Mapping[str, str], keep: str | dt.timedelta = "7 days") -> ToIceberg:
    """Keep an Iceberg table whose data files are those of a lake table, for engines that read Iceberg.

        published = sink("orders", to=to_iceberg("shop.orders", catalog={"type": "glue"}))

    `table` is a namespace and a name, which are created if they do not exist. `catalog` are the properties of pyiceberg for
    the catalog and its store; credentials are `env:NAME` or `file:PATH`. Snapshots older than `keep` expire, because
    vacuum removes their files. The Iceberg table belongs to the sink: what others write to it is taken back.

    Raises `DefinitionError` for a credential that is written out, and for a name without a namespace.
    """
    place = caller()
    if "." not in table.strip("."):
        raise DefinitionError(
            "an Iceberg table needs a namespace", got=repr(table), do="write namespace.table", place=place
        )
    return ToIceberg(table, references(catalog), parse_duration(keep, "keep", place))


class IcebergTarget:
    """The Iceberg table of a sink."""

    def __init__(self, to: ToIceberg) -> None:
        """Connect to the catalog."""
        self._to = to
        self._location = IcebergLocation(to.table, to.catalog)
        with self._translated():
            self._catalog: Catalog = catalog_of(resolved(to.catalog))

    def reached(self) -> SinkPosition | None:
        """Return the version that the Iceberg table mirrors; raise `SinkError` if it belongs to another writer."""
        with self._translated():
            table = self._loaded()
        return None if table is None else self._reached(table)

    def write(self, delivery: Delivery) -> None:
        """Commit the files of a version: those that are new are added, and those that are gone are removed."""
        with self._translated():
            table = self._loaded()
            reached = None if table is None else self._reached(table)
            if is_delivered(delivery, reached):
                return
            table = table or self._created(delivery.rows.schema)
            self._mirror(table, delivery)
            self._expire(table)

    def close(self) -> None:
        """Close the catalog."""
        close = getattr(self._catalog, "close", None)
        if close is not None:
            close()

    def _loaded(self) -> Table | None:
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError  # noqa: PLC0415 - an extra

        try:
            return self._catalog.load_table(self._to.table)
        except (NoSuchTableError, NoSuchNamespaceError):
            return None

    def _created(self, schema: pa.Schema) -> Table:
        """Return an empty table; its data files have no ids of columns, so their names are mapped."""
        self._catalog.create_namespace_if_not_exists(self._to.table.rpartition(".")[0])
        return self._catalog.create_table(self._to.table, schema=_plain(schema))

    def _reached(self, table: Table) -> SinkPosition | None:
        text = table.properties.get(_REACHED)
        if text is None and table.current_snapshot() is not None:
            raise SinkError(
                f"the Iceberg table {self._to.table!r} was not written by this sink",
                do="choose another name, or drop the table",
            )
        return None if text is None else SinkPosition.from_json(text)

    def _mirror(self, table: Table, delivery: Delivery) -> None:
        from pyiceberg.io.pyarrow import parquet_files_to_data_files  # noqa: PLC0415 - an extra

        known = {file.file_path: file for file in _data_files(table)}
        wanted = {uri if "://" in uri else f"file://{Path(uri).absolute()}" for uri in delivery.files}  # never decoded
        with table.transaction() as transaction:
            with transaction.update_schema() as update:
                update.union_by_name(_plain(delivery.rows.schema))
            schema = transaction.table_metadata.schema()
            transaction.set_properties(
                {
                    _NAME_MAPPING: schema.name_mapping.model_dump_json(),
                    _REACHED: delivery.to.to_json(),
                }
            )
            new = parquet_files_to_data_files(table.io, transaction.table_metadata, iter(sorted(wanted - known.keys())))
            _commit_files(transaction, list(new), [known[uri] for uri in sorted(known.keys() - wanted)])

    def _expire(self, table: Table) -> None:
        before = dt.datetime.now(dt.UTC) - self._to.keep
        old = [each for each in table.snapshots() if each.timestamp_ms < before.timestamp() * 1000]
        current = table.current_snapshot()
        if any(current is None or each.snapshot_id != current.snapshot_id for each in old):
            table.maintenance.expire_snapshots().older_than(before).commit()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate the errors of the catalog and the store."""
        from pyiceberg.exceptions import CommitFailedException  # noqa: PLC0415 - an extra

        try:
            yield
        except HeadwaterError:
            raise
        except CommitFailedException as error:
            problem = f"another process has written to the Iceberg table {self._to.table!r}"
            raise ConflictError(problem, got=self._shown(error), do="run one sender") from error
        except Exception as error:  # pyiceberg and the clients of stores have no common type
            problem = f"the Iceberg table {self._to.table!r} cannot be written"
            raise SinkError(problem, got=self._shown(error), do="check the catalog, the store and the types") from error

    def _shown(self, error: Exception) -> str:
        return self._location.without_secrets(message_of(error))


def _commit_files(transaction: Transaction, new: Collection[DataFile], gone: Collection[DataFile]) -> None:
    """Add and remove data files in one snapshot, which is an append if none are removed."""
    if not new and not gone:
        return
    update = transaction.update_snapshot()
    with update.overwrite() if gone else update.fast_append() as snapshot:
        for file in gone:
            snapshot.delete_data_file(file)
        for file in new:
            snapshot.append_data_file(file)


def _data_files(table: Table) -> Iterator[DataFile]:
    snapshot = table.current_snapshot()
    for manifest in () if snapshot is None else snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io):
            yield entry.data_file


def _plain(schema: pa.Schema) -> pa.Schema:
    """Return a schema without the types of Arrow that Iceberg has under another name."""
    return pa.schema([pa.field(each.name, each.type) for each in schema])
