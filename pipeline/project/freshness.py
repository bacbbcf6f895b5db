"""How far the warehouse is behind the lake, for each gold table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipeline.core.definitions import StoredDefinition
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.warehouse import LoadRecord

Freshness = Literal["current", "behind", "not loaded", "not computed"]


@dataclass(frozen=True)
class TableFreshness:
    """A gold table: its versions in lake and warehouse, and the time between their commits."""

    table: str
    state: Freshness
    lake_version: int | None
    loaded_version: int | None
    rows: int | None
    """The rows of the loaded version."""
    behind_s: float | None
    """The seconds between the commit of the loaded version and that of the newest; 0 if it is the newest."""
    committed_at: datetime | None
    """When the loaded version was committed to the lake."""
    loaded_at: datetime | None


def freshness(workspace: Workspace) -> tuple[TableFreshness, ...]:
    """Return the freshness of each gold table, in dependency order; raise `StorageError` if lake or warehouse cannot be read."""
    loads = workspace.warehouse.loads()
    definitions = workspace.project.graph.all_of(StoredDefinition)
    return tuple(
        _freshness(each.name, workspace.version(each.name), loads.get(each.name))
        for each in definitions
        if each.is_in_warehouse
    )


def _freshness(table: str, newest: Version | None, load: LoadRecord | None) -> TableFreshness:
    number = None if newest is None else newest.number
    if load is None:
        return TableFreshness(table, "not computed" if newest is None else "not loaded", number, None, *(None,) * 4)
    is_current = newest is not None and newest.manifest_id == load.manifest_id  # a compaction has another number
    behind = 0.0 if is_current else _seconds_between(load.committed_at, newest)
    state: Freshness = "current" if is_current else "behind"
    return TableFreshness(table, state, number, load.version, load.rows, behind, load.committed_at, load.loaded_at)


def _seconds_between(committed_at: datetime | None, newest: Version | None) -> float | None:
    manifest = None if newest is None else newest.manifest
    if committed_at is None or manifest is None or not manifest.at:
        return None
    return (datetime.fromisoformat(manifest.at) - committed_at).total_seconds()
