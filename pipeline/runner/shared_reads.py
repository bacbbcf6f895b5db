"""Which tables of a run share the read of a source that is not stored."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.batch.executor import StepLimits, executor_of
from pipeline.batch.planning import EXPANSION
from pipeline.batch.shared_read import read_shared
from pipeline.batch.step import StepSpec
from pipeline.batch.work import SharedRead
from pipeline.core.definitions import Definition, Feed, Table
from pipeline.core.errors import HeadwaterError
from pipeline.core.splits import SourceSplit
from pipeline.kernel.planner.projection import used_columns
from pipeline.kernel.sql import SqlTransform
from pipeline.project.workspace import Workspace
from pipeline.runner.facts import decide, feed_of, stored_inputs

if TYPE_CHECKING:
    from pipeline.runner.context import RunContext

LEAST_BYTES = 64 << 20
"""A smaller source is read by each of its tables."""


@dataclass
class SharedReads:
    """The shared reads of a run. Each takes place when the first of its tables is computed; the others wait for it."""

    readers: Mapping[str, Sequence[Table]] = field(default_factory=dict)
    """The tables of the run by the source that they read, if there are several."""
    _read: dict[tuple[str, tuple[SourceSplit, ...]], SharedRead] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    @classmethod
    def among(cls, workspace: Workspace, definitions: Sequence[Definition]) -> SharedReads:
        """Find the sources that several of the definitions read."""
        readers: dict[str, list[Table]] = {}
        for definition in definitions:
            feed = feed_of(workspace, definition) if isinstance(definition, Table) else None
            if feed is not None and isinstance(definition, Table):
                readers.setdefault(feed.name, []).append(definition)
        several = {name: tables for name, tables in readers.items() if len(tables) > 1}
        return cls(several, _locks={name: threading.Lock() for name in several})

    def read(self, run: RunContext, spec: StepSpec) -> SharedRead | None:
        """Return the rows that the tables of a step's source share; `None` if no other table reads the same now."""
        feed = spec.feed
        if feed is None or feed.name not in self.readers or spec.size_bytes < LEAST_BYTES:
            return None
        others = [table for table in self.readers[feed.name] if table.name != spec.definition.name]
        with self._locks[feed.name]:
            key = (feed.name, spec.source_splits)
            if key not in self._read and any(_takes(run, table, spec.source_splits) for table in others):
                self._read[key] = self._read_now(run, spec, feed)
            return self._read.get(key)

    def _read_now(self, run: RunContext, spec: StepSpec, feed: Feed) -> SharedRead:
        needed_bytes = 0 if spec.execution_plan.executor == "ray" else EXPANSION * spec.size_bytes
        with run.memory.reserve(needed_bytes) as memory_bytes:
            limits = StepLimits(memory_bytes, run.deadline_of(spec.definition))
            executor = executor_of(spec, run.workspace.settings, limits)
            stage = f"read {feed.name} for several tables"
            return read_shared(
                spec,
                self._columns(spec, feed),
                run.workspace.lake,
                executor,
                lambda share: run.notify_progress(spec, share, stage),
            )

    def _columns(self, spec: StepSpec, feed: Feed) -> set[str]:
        """Return the columns of the source that one of its tables uses."""
        columns: set[str] = set()
        for table in self.readers[feed.name]:
            if isinstance(table.transform, SqlTransform) and spec.schema is not None:
                columns.update(used_columns(table.transform.tree, feed.name, spec.schema))
            elif spec.schema is not None:
                columns.update(spec.schema.names)
        return columns


def _takes(run: RunContext, table: Table, source_splits: Sequence[SourceSplit]) -> bool:
    """Return whether a table is going to read exactly these source splits."""
    workspace = run.workspace
    try:
        if table.name in run.streamed:
            return False
        versions = {name: workspace.version(name) for name in stored_inputs(workspace, table)}
        inputs = {name: version for name, version in versions.items() if version is not None}
        version = workspace.version(table.name, lenient=run.options.full)
        return decide(workspace, run.options, table, version, inputs).source_splits == source_splits
    except HeadwaterError:  # its own step reports it
        return False
