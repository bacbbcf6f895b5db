"""The spools of a project's sources: fetched rows outside the lake, which are removed when nobody reads them any more."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.connectors.spool.old_fetches import old_fetches, remove_old_fetches
from pipeline.connectors.spool.reader import SpooledReader
from pipeline.core.clock import Clock, now
from pipeline.core.definitions import SourceDefinition
from pipeline.project.workspace import Workspace


def spools(workspace: Workspace) -> tuple[str, ...]:
    """Return the folders and URIs of the spools of all sources that fetch rows when they are planned."""
    readers = (each.reader for each in workspace.project.graph.all_of(SourceDefinition))
    return tuple(dict.fromkeys(each.spool_location for each in readers if isinstance(each, SpooledReader)))


def plan_spool(location: str, clock: Clock = now) -> Mapping[str, int]:
    """Return the files of a spool that nobody reads any more, with their sizes in bytes; raise `SourceError` if it fails."""
    return old_fetches(location, clock())


def vacuum_spool(location: str, clock: Clock = now) -> Mapping[str, int]:
    """Remove the files of a spool that nobody reads any more; return them. Raises `SourceError` if it fails."""
    return remove_old_fetches(location, clock())
