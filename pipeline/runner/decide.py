"""Decides what a run does with a definition: pure functions of facts already read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pipeline.core.cursors import ReadPlan
from pipeline.core.errors import SourceError, few, quantity
from pipeline.core.splits import SourceSplit
from pipeline.core.staging import Manifest
from pipeline.kernel.scan import DataFile


class DecisionKind(StrEnum):
    """What a run does with a definition."""

    SKIP = "skip"
    CREATE = "create"
    """Everything is computed, for the first time."""
    APPEND = "append"
    MERGE = "merge"
    REFRESH = "refresh"
    """New rows are added to the aggregate states of the existing ones, and the result replaces the existing rows."""
    REBUILD = "rebuild"
    """Everything is computed and replaces the existing rows."""
    FAIL = "fail"
    STREAMED = "streamed"
    """Nothing: a stream updates it."""

    @property
    def is_work(self) -> bool:
        """Whether a run computes something."""
        return self not in {DecisionKind.SKIP, DecisionKind.FAIL, DecisionKind.STREAMED}


Changing = Mapping[str, DecisionKind]
"""What a run does with those inputs of a definition that it changes first."""
_NOT_MADE, _FOREIGN = "does not exist yet", "was not written by a run or a stream of Headwater"
_SHOWN = 3


@dataclass(frozen=True)
class RunOptions:
    """The options of a run."""

    select: tuple[str, ...] = ()
    """Patterns of `Graph.select`; empty: all definitions."""
    full: bool = False
    """Whether to recompute everything, also if data that no longer exists is lost."""
    accept_gaps: bool = False
    """Whether to continue after data that a source lost before it was read."""
    until: datetime | None = None
    """Sources are read only up to their state at this time."""
    threads: int | None = None
    """Number of definitions computed concurrently; `None`: number of cores."""
    deadline: timedelta | None = None
    """The time within which the run should end; `None`: that of the settings."""


@dataclass(frozen=True)
class Decision:
    """A decision: skip, append, merge or compute everything, with the reason and the new data."""

    kind: DecisionKind
    reason: str
    plan: ReadPlan | None = None
    """For a source, and for a table that reads an unstored source: the data to read."""
    added: tuple[DataFile, ...] = field(default=(), repr=False)
    """For a table that appends, merges or refreshes: the new files of its driving input."""
    removed: tuple[DataFile, ...] = field(default=(), repr=False)
    """The removed files of the driving input; rows with the keys in them are replaced."""

    is_later: bool = True
    """Whether new rows sort after existing ones, in the order of a full recomputation."""

    @property
    def source_splits(self) -> tuple[SourceSplit, ...]:
        """The source splits to read."""
        return () if self.plan is None else self.plan.splits

    @property
    def takes_new(self) -> bool:
        """Whether only new data is read and added to the existing rows."""
        return self.kind in {DecisionKind.APPEND, DecisionKind.MERGE}

    @property
    def takes_all(self) -> bool:
        """Whether everything is read and computed; existing rows are replaced."""
        return self.kind in {DecisionKind.CREATE, DecisionKind.REBUILD}


def compute_all(reason: str, *, exists: bool) -> Decision:
    """Return the decision to compute everything; `exists` says whether the table exists already."""
    return Decision(DecisionKind.REBUILD if exists else DecisionKind.CREATE, reason)


@dataclass(frozen=True)
class TableFacts:
    """Facts about a table itself."""

    manifest: Manifest | None = None
    """The manifest of its current version; `None` without a version, if another program wrote it, or with `--full`."""
    is_current: bool = False
    """Whether its definition is the one that computed this version."""
    exists: bool = False
    """Whether the table has a version."""
    stays: bool = False
    """Whether it has rows that were computed once, and does not follow its inputs."""


@dataclass(frozen=True)
class InputFacts:
    """Facts about a table's inputs: their current versions, and the additions to the driving input."""

    versions: Mapping[str, int]
    manifest_ids: Mapping[str, int | None]
    driving: str
    added: tuple[DataFile, ...] | None
    """The files added to the driving input since it was consumed; `None` if it changed in another way."""
    splits_alone: bool
    """Whether new rows of the driving input can be processed without the existing ones."""
    merges: bool = False
    """Whether the table merges new rows by their key."""
    removed: tuple[DataFile, ...] = ()
    """The files removed from the driving input since it was consumed, if the table can apply that by key."""
    rows: int = 0
    """The current number of rows of the driving input."""
    is_later: bool = True
    """Whether new rows of the driving input are known to sort after the existing ones."""
    has_states: bool = False
    """Whether the aggregate states of the consumed rows are kept."""


def decide_source(table: TableFacts, since: ReadPlan | None, options: RunOptions) -> Decision:
    """Decide for a source from what is new since its cursor; `since` is `None` without a cursor.

    If everything is read, the caller plans it. Raises `SourceError` if the source must be read again and some of
    the consumed data no longer exists, and if data was deleted before it was read.
    """
    manifest = table.manifest
    if options.full:
        return compute_all("--full", exists=table.exists)
    if manifest is None or since is None:
        return compute_all(_FOREIGN if table.exists else _NOT_MADE, exists=table.exists)
    redefined = not table.is_current
    if redefined or since.changed:
        return reread(manifest, since, "the definition changed" if redefined else since.changed)
    if since.gaps and not options.accept_gaps:
        raise SourceError(
            f"the source of {manifest.table!r} no longer has the next records: they were deleted before they were read",
            got=few(map(str, since.gaps), _SHOWN),
            do="continue with the remaining records: headwater run --accept-gaps",
        )
    kind = DecisionKind.APPEND if since.splits else DecisionKind.SKIP
    reason = "; ".join([since.new or "nothing new", *since.notes])
    return Decision(kind, reason, since, is_later=since.is_later)


def decide_reading(table: TableFacts, since: ReadPlan | None, inputs: InputFacts, options: RunOptions) -> Decision:
    """Decide for a table that reads an unstored source, from new data in the source and the table's other inputs."""
    read, manifest = decide_source(table, since, options), table.manifest
    if read.takes_all or manifest is None or since is None:
        return read
    changed = _changed(manifest, inputs)
    if changed:
        return reread(manifest, since, f"{', '.join(map(repr, changed))} changed")
    if read.kind is DecisionKind.APPEND and not inputs.splits_alone:
        return reread(manifest, since, read.reason)
    read = replace(read, is_later=read.is_later and inputs.is_later)
    return replace(read, kind=DecisionKind.MERGE) if read.kind is DecisionKind.APPEND and inputs.merges else read


def reread(manifest: Manifest, since: ReadPlan, reason: str) -> Decision:
    """Read everything again; raise `SourceError` if some of the consumed data no longer exists."""
    if since.lost:
        raise SourceError(
            f"the source of {manifest.table!r} must be read again ({reason}), which would lose rows",
            got=f"{quantity(len(since.lost), 'missing source object')}, the first {since.lost[0]}",
            do="restore them, or accept the loss with --full",
        )
    return Decision(DecisionKind.REBUILD, reason)


def decide_table(table: TableFacts, inputs: InputFacts, options: RunOptions) -> Decision:
    """Decide for a table from its manifest and its inputs."""
    manifest = table.manifest
    if options.full:
        return compute_all("--full", exists=table.exists)
    if manifest is None:
        return compute_all(_FOREIGN if table.exists else _NOT_MADE, exists=table.exists)
    if not table.is_current:
        return Decision(DecisionKind.REBUILD, "the definition changed")
    if table.stays:
        return Decision(DecisionKind.SKIP, "computed once; --full computes it again")
    changed = _changed(manifest, inputs)
    if not changed:
        return Decision(DecisionKind.SKIP, "up to date")
    taken = _with_new_rows(inputs) if changed == [inputs.driving] else None
    return taken or Decision(DecisionKind.REBUILD, f"{', '.join(map(repr, changed))} changed")


def _with_new_rows(inputs: InputFacts) -> Decision | None:
    """Return how a table takes the changes of its driving input only, or `None` if it must be recomputed."""
    if inputs.added is None:
        return None
    if inputs.splits_alone:
        return _take_new(inputs, inputs.added)
    if not inputs.has_states or inputs.removed:
        return None
    rows = sum(file.rows for file in inputs.added)
    reason = f"{quantity(rows, 'new row')} in {inputs.driving!r}, added to the aggregates"
    return Decision(DecisionKind.REFRESH, reason, added=inputs.added)


def _changed(manifest: Manifest, inputs: InputFacts) -> list[str]:
    """Return the inputs whose version differs from the consumed one. A compaction keeps the manifest id, and no row changes."""
    return [
        name
        for name, version in inputs.versions.items()
        if manifest.manifest_ids.get(name) != inputs.manifest_ids.get(name)
        or (inputs.manifest_ids.get(name) is None and manifest.inputs.get(name) != version)
    ]


def _take_new(inputs: InputFacts, added: tuple[DataFile, ...]) -> Decision:
    """Append or merge new rows; replace rows with the keys in removed files, unless these are most of the input."""
    if not inputs.removed:
        rows = sum(file.rows for file in added)
        reason = f"{quantity(rows, 'new row')} in {inputs.driving!r}"
        return Decision(
            DecisionKind.MERGE if inputs.merges else DecisionKind.APPEND, reason, added=added, is_later=inputs.is_later
        )
    touched = max(sum(file.rows for file in added), sum(file.rows for file in inputs.removed))
    if touched > inputs.rows // 2:
        return Decision(DecisionKind.REBUILD, f"{inputs.driving!r} changed")
    reason = f"{touched:,} rows of {inputs.driving!r} are in files that were written again"
    return Decision(DecisionKind.MERGE, reason, added=added, removed=inputs.removed)
