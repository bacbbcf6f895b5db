"""Maintenance at the end of a run, of the tables that it wrote: only what is due, and cheap.

A failure is logged and does not fail the run, whose commits are done.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable
from dataclasses import replace

from pipeline.commit.moments import Moment
from pipeline.commit.post_commit import post_commit
from pipeline.core.errors import quantity
from pipeline.core.logs import logger
from pipeline.governance import StepRecord
from pipeline.lake import CompactionOptions, LakeTable, Version, compactable
from pipeline.lake.unused_files import CLOCK
from pipeline.project.maintenance import compact_table, vacuum_table
from pipeline.runner.context import RunContext
from pipeline.runner.decide import DecisionKind

log = logger(__name__)
AUTO_FILES, AUTO_BYTES = 16, 256 << 20
"""A run compacts a table that has this many small files, of this many bytes at most: about two seconds of work."""
VACUUM_EVERY, VACUUM_AFTER = 10, dt.timedelta(days=1)
"""A run vacuums a table every so many versions, at most once in this time."""
_WRITES = frozenset(kind for kind in DecisionKind if kind.is_work)


def maintain_written(run: RunContext, steps: Iterable[StepRecord]) -> None:
    """Do the maintenance that is due of the tables that a run has written, unless their policy leaves it to users."""
    for step in steps:
        if step.decision in _WRITES and step.version is not None:
            table = run.workspace.table(step.name)
            try:
                if table.policy.maintenance == "auto":
                    _maintain(run, table, run.version(step.name, step.name))
            except Exception as error:  # noqa: BLE001 - whatever it is, the rows of the run are committed
                log.warning("maintenance failed and is retried by a later run", table=step.name, error=str(error))


def _maintain(run: RunContext, table: LakeTable, version: Version) -> None:
    begun, done = time.perf_counter(), []
    if is_compaction_due(table, version) and (compacted := compact_table(run.workspace, table.name)) is not None:
        done.append(f"compacted {quantity(compacted.before, 'file')} into {compacted.after}")
        post_commit(run.workspace, run.workspace.stored(table.name), run.workspace.require(table.name))
    if is_vacuum_due(table, version, dt.datetime.fromisoformat(run.at())):
        plans = vacuum_table(run.workspace, table.name)
        files, size = sum(len(plan.files) for plan in plans), sum(plan.size_bytes for plan in plans)
        done.append(f"removed {quantity(files, 'file')} of {size:,} bytes")
    if done:
        seconds = time.perf_counter() - begun
        log.info("maintained", table=table.name, what="; ".join(done), seconds=f"{seconds:.3f}")
        run.notify(Moment.MAINTAINED, table.name, f"{'; '.join(done)}; {seconds:.2f} s")


def is_compaction_due(table: LakeTable, version: Version) -> bool:
    """Return whether a table has many small files that are cheap to compact, or files that its policy lets write again."""
    how = CompactionOptions.of(table.policy)
    files = compactable(table, version, replace(how, rewrite_bytes=0))
    if len(files) >= AUTO_FILES and sum(file.size_bytes for file in files) <= AUTO_BYTES:
        return True
    return len(compactable(table, version, how)) > len(files)


def is_vacuum_due(table: LakeTable, version: Version, now: dt.datetime) -> bool:
    """Return whether a table has many versions since its last vacuum, which was some time ago."""
    if version.number == 0 or version.number % VACUUM_EVERY:
        return False
    last = table.storage.modified(CLOCK)
    return last is None or now - last >= VACUUM_AFTER
