"""Which tables of a run share the read of a source that is not stored."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from pipeline.batch.executor import StepLimits, executor_of
from pipeline.batch.shared_read import read_shared
from pipeline.batch.step import StepSpec, columns_read
from pipeline.batch.work import SharedRead
from pipeline.core.definitions import Definition, Feed, Table
from pipeline.core.errors import HeadwaterError
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceSplit
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
        if feed is None or feed.name not in self.readers:
            return None
        if sum(source_split.size_bytes for source_split in spec.source_splits) < LEAST_BYTES:
            return None
        others = [table for table in self.readers[feed.name] if table.name != spec.definition.name]
        with self._locks[feed.name]:
            key = (feed.name, spec.source_splits)
            if key not in self._read and any(_takes(run, table, spec.source_splits) for table in others):
                self._read[key] = self._read_now(run, spec, feed)
            return self._read.get(key)

    def _read_now(self, run: RunContext, spec: StepSpec, feed: Feed) -> SharedRead:
        schema, stage = cast("Schema", spec.schema), f"read {feed.name} for several tables"
        columns = [columns_read(table, feed.name, schema) for table in self.readers[feed.name]]
        with run.reserve(spec) as memory_bytes:
            limits = StepLimits(memory_bytes, run.deadline_of(spec.definition))
            executor = executor_of(spec, run.workspace.settings, limits)
            return read_shared(
                spec,
                frozenset().union(*columns),
                run.workspace.lake,
                executor,
                lambda share: run.notify_progress(spec, share, stage),
            )


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
