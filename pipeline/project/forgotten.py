"""Forgotten tables: stored tables without a definition, after a definition was renamed, moved to a layer, or removed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.definitions import LAYERS
from pipeline.core.errors import ConflictError, RequestError, StorageError, did_you_mean
from pipeline.governance import Leases
from pipeline.lake import QUARANTINE_FOLDER, LakeTable
from pipeline.project.workspace import Workspace

WAREHOUSE = "warehouse"


@dataclass(frozen=True)
class ForgottenTable:
    """A stored table without a definition, in one layer of the lake, the quarantine or the warehouse."""

    name: str
    layer: str
    """A layer, `quarantine` or `warehouse`."""
    place: str
    """The folder, or the warehouse."""
    rows: int | None = None
    """`None` if the table cannot be read, and for tables in the warehouse."""
    size_bytes: int = 0


def forgotten_tables(workspace: Workspace) -> tuple[ForgottenTable, ...]:
    """Return the tables in the lake and the warehouse that have no definition, by layer and name."""
    definitions = {name: workspace.stored(name) for name in workspace.table_names}
    tables = []
    for layer in (*LAYERS, QUARANTINE_FOLDER):
        for name in workspace.lake.storage.list_folder(layer):
            is_known = name in definitions and layer in {definitions[name].layer, QUARANTINE_FOLDER}
            table = _table(workspace, layer, name)
            if not is_known and table.number() is not None:
                tables.append(_forgotten(table, layer))
    in_warehouse = {name for name, definition in definitions.items() if definition.is_in_warehouse}
    unknown = sorted(set(workspace.warehouse.loaded()) - in_warehouse)
    tables += [ForgottenTable(name, WAREHOUSE, workspace.settings.warehouse) for name in unknown]
    return tuple(tables)


def forget(workspace: Workspace, name: str, tables: Sequence[ForgottenTable]) -> None:
    """Remove a forgotten table from all layers, as `remains_of` found it.

    Raises `ConflictError` while a stream writes it. If another version of the project still defines the table, its next
    run recomputes the rows.
    """
    lease = Leases(workspace.catalog).get(name)
    if lease is not None and lease.is_living(time.time()):
        raise ConflictError(
            f"{name!r} is still written by a stream",
            got=f"process {lease.pid} on {lease.host}",
            do=f"stop it first: headwater streams stop {name}",
        )
    for table in sorted(tables, key=lambda table: table.layer != WAREHOUSE):
        if table.layer == WAREHOUSE:
            workspace.warehouse.drop(name)
        else:
            _table(workspace, table.layer, name).storage.clear()


def remains_of(workspace: Workspace, name: str) -> tuple[ForgottenTable, ...]:
    """Return the forgotten tables with a name; raise `RequestError` if there are none."""
    tables = forgotten_tables(workspace)
    of_name = tuple(table for table in tables if table.name == name)
    if of_name:
        return of_name
    if name in workspace.table_names:
        raise RequestError(
            f"{name!r} has a definition, so its table is not forgotten",
            do="remove or rename the definition first",
            place=workspace.definition(name).place,
        )
    names = sorted({table.name for table in tables})
    do = did_you_mean(name, names) if names else "every table of the lake has a definition"
    raise RequestError(f"the lake has no forgotten table {name!r}", do=do)


def _table(workspace: Workspace, layer: str, name: str) -> LakeTable:
    return workspace.lake.quarantine(name) if layer == QUARANTINE_FOLDER else workspace.lake.table(layer, name)


def _forgotten(table: LakeTable, layer: str) -> ForgottenTable:
    try:
        version = table.version(lenient=True)
    except StorageError:
        version = None
    if version is None:
        return ForgottenTable(table.name, layer, table.storage.uri)
    return ForgottenTable(
        table.name, layer, table.storage.uri, version.rows, sum(file.size_bytes for file in version.files)
    )
