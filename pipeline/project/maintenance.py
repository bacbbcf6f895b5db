"""Maintenance of the lake's tables by their policies: compaction, vacuum, and a short log, of each table and its quarantine.

Delivery: rows and what incremental readers see stay the same. Each part is a commit or a removal of its own, and can be
repeated after a failure.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.core.clock import Clock, now
from pipeline.core.definitions import StoredDefinition
from pipeline.core.errors import ConflictError
from pipeline.governance import Leases
from pipeline.kernel.budget import budget_here
from pipeline.lake import Compacted, CompactionOptions, LakeTable, VacuumPlan, compact, plan_vacuum, vacuum
from pipeline.lake.read_notes import ReadCounts
from pipeline.project.holds import SAVEPOINTS, release_holds
from pipeline.project.workspace import Workspace


@dataclass(frozen=True)
class TableMaintenance:
    """What the maintenance of a table did."""

    table: str
    files_before: int = 0
    """The number of files that were compacted."""
    files_after: int = 0
    removed_files: int = 0
    """The number of files that were vacuumed from the table and its quarantine."""
    removed_bytes: int = 0
    forgotten_versions: int = 0
    """How many versions can no longer be read."""
    seconds: float = 0.0
    reason: str = ""
    """What was compacted first, and why, if queries decided it."""
    note: str = ""
    """Why something was left for later, if it was."""
    error: str = ""
    """Why the maintenance failed, if it did."""


def maintain(workspace: Workspace, name: str, *, clock: Clock = now) -> TableMaintenance:
    """Compact and vacuum a table and its quarantine, and shorten their logs.

    A table whose stream runs is not compacted, because the stream does that itself. If another writer commits at the same time,
    the compaction is left for later; if another process maintains the table, the rest is.
    """
    begun = time.perf_counter()
    if workspace.table(name).number() is None:
        return TableMaintenance(name, note="does not exist yet")
    compacted, plans, notes = None, [], []
    reads = workspace.reads.counts(workspace.table(name).storage.uri)
    try:
        compacted = compact_table(workspace, name, reads)
    except ConflictError as error:
        notes.append(str(error))
    try:
        for table, keep in vacuumed_tables(workspace, name):
            plans.append(vacuum(table, keep, clock))
            table.tidy()
    except ConflictError as error:
        notes.append(str(error))
    return TableMaintenance(
        name,
        files_before=0 if compacted is None else compacted.before,
        files_after=0 if compacted is None else compacted.after,
        removed_files=sum(len(plan.files) for plan in plans),
        removed_bytes=sum(plan.size_bytes for plan in plans),
        forgotten_versions=plans[0].versions if plans else 0,
        seconds=time.perf_counter() - begun,
        reason="" if compacted is None else _reason(reads, compacted),
        note="; ".join(notes),
    )


def compact_table(workspace: Workspace, name: str, reads: ReadCounts | None = None) -> Compacted | None:
    """Compact the small files of a table by its policy; `None` if there are none. `reads` is what queries read, if it is known.

    Raises `ConflictError` if the stream of the table runs, or if another writer commits at the same time.
    """
    lease = Leases(workspace.catalog).get(name)
    if lease is not None and lease.is_living(time.time()):
        raise ConflictError(
            f"table {name!r} is not compacted while its stream runs, which compacts it every 100 versions",
            got=f"process {lease.pid} on {lease.host}",
            do=f"stop the stream first: headwater streams stop {name}",
        )
    table, limits = workspace.table(name), budget_here(workspace.settings.memory_bytes).whole()
    reads = reads or workspace.reads.counts(table.storage.uri)
    return compact(table, table.head(), CompactionOptions.of(table.policy, limits, reads.hot()))


def _reason(reads: ReadCounts, compacted: Compacted) -> str:
    """Return why the first folder was compacted first; empty if queries do not open it often."""
    first = compacted.folders[0]
    if first not in reads.hot():
        return ""
    return f"{first or 'all rows'}: read by {reads.folders[first]:.0f} of {reads.queries:.0f} queries"


def plan_vacuums(workspace: Workspace, name: str, clock: Clock = now) -> tuple[VacuumPlan, ...]:
    """Return what a vacuum would remove from a table and from its quarantine."""
    return tuple(plan_vacuum(table, keep, clock) for table, keep in vacuumed_tables(workspace, name))


def vacuum_table(workspace: Workspace, name: str, clock: Clock = now) -> tuple[VacuumPlan, ...]:
    """Vacuum a table and its quarantine, and return what was removed from each."""
    return tuple(vacuum(table, keep, clock) for table, keep in vacuumed_tables(workspace, name))


def vacuumed_tables(workspace: Workspace, name: str) -> tuple[tuple[LakeTable, Collection[str]], ...]:
    """Return a table and its quarantine, each with the paths of files that savepoints and unfinished commits need.

    Holds that nothing needs any more are released first.
    """
    release_holds(workspace, name)
    table = workspace.table(name)
    quarantined = workspace.lake.quarantine(name, table.policy)
    rows, rejected = _in_savepoints(table)
    version = table.version(lenient=False)
    if version is not None and version.manifest is not None:
        rejected |= {file.path for file in version.manifest.quarantined}
    return (table, rows), (quarantined, rejected)


def maintained_tables(workspace: Workspace) -> tuple[str, ...]:
    """Return the names of all tables that exist in the lake."""
    every = workspace.project.graph.all_of(StoredDefinition)
    return tuple(each.name for each in every if workspace.table(each.name).number() is not None)


def _in_savepoints(table: LakeTable) -> tuple[set[str], set[str]]:
    """Return the files of the table and of its quarantine that savepoints list, of any format."""
    names = [name for name in table.storage.names(f"{SAVEPOINTS}/") if name.endswith("/savepoint.json")]
    rows, rejected = set[str](), set[str]()
    for text in table.storage.read_existing(names).values():
        parts = json.loads(text)
        rows |= {file["path"] for file in parts["files"]}
        rejected |= {file["path"] for file in parts["aside"]}
    return rows, rejected
