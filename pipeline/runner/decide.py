"""What a run does with a definition: a pure decision on facts already read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from pipeline.core.cursors import ReadPlan
from pipeline.core.errors import SourceError, few
from pipeline.core.splits import SourceSplit
from pipeline.core.staging import Manifest
from pipeline.kernel.scan import DataFile


class DecisionKind(StrEnum):
    """What a run does with a definition."""

    SKIP = "skip"
    CREATE = "create"
    """All of it is computed, for the first time."""
    APPEND = "append"
    MERGE = "merge"
    REBUILD = "rebuild"
    """All of it is computed, in place of what is there."""
    FAIL = "fail"
    STREAMED = "streamed"
    """Nothing: a stream makes it."""


_NOT_MADE = "not made yet"
_SHOWN = 3


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked to do."""

    select: tuple[str, ...] = ()
    """Patterns of `Graph.select`; without any, all definitions."""
    full: bool = False
    """Whether to recompute what is up to date, and to lose what is no longer there."""
    accept_gaps: bool = False
    """Whether to go on where a source lost something before it was read."""
    until: datetime | None = None
    """Sources are read only as far as they were at this time."""
    threads: int | None = None
    """How many definitions are done at once; `None`: as many as there are cores."""


DEFAULTS = RunOptions()


@dataclass(frozen=True)
class Decision:
    """Skip, append or merge what is new, or compute all; why; and what is new."""

    kind: DecisionKind
    reason: str
    plan: ReadPlan | None = None
    """For a source, and for a table that reads one which is not stored: what is to be read."""
    added: tuple[DataFile, ...] = field(default=(), repr=False)
    """For a table that appends or merges: the new files of its driving input."""
    removed: tuple[DataFile, ...] = field(default=(), repr=False)
    """The files of the driving input that are gone since: rows of the keys in them are replaced."""

    is_later: bool = True
    """Whether new rows come after those that are there, in the order in which all would come at once."""

    @property
    def parts(self) -> tuple[SourceSplit, ...]:
        """What of a source is to be read."""
        return () if self.plan is None else self.plan.parts

    @property
    def takes_new(self) -> bool:
        """Whether only what is new is read, and joins what is there."""
        return self.kind in {DecisionKind.APPEND, DecisionKind.MERGE}

    @property
    def takes_all(self) -> bool:
        """Whether all is read and computed, in place of what is there if there is something."""
        return self.kind in {DecisionKind.CREATE, DecisionKind.REBUILD}


def compute_all(reason: str, *, exists: bool) -> Decision:
    """Return the decision to compute all of a definition, which exists already or does not."""
    return Decision(DecisionKind.REBUILD if exists else DecisionKind.CREATE, reason)


@dataclass(frozen=True)
class InputFacts:
    """What is known of a table's inputs: their versions now, and what was added to the driving one."""

    versions: Mapping[str, int]
    manifest_ids: Mapping[str, int | None]
    driving: str
    added: tuple[DataFile, ...] | None
    """The files added to the driving input since it was consumed; `None` when it changed in another way."""
    splits_alone: bool
    """Whether the new rows of the driving input can be handled without the old ones."""
    merges: bool = False
    """Whether the table merges new rows by their key."""
    removed: tuple[DataFile, ...] = ()
    """The files of the driving input that went since it was consumed, where the table can follow that by its key."""
    rows: int = 0
    """The rows of the driving input now."""
    is_later: bool = True
    """Whether the new rows of the driving input come after the old ones, as far as the table can tell."""


def decide_source(
    fingerprint: str, manifest: Manifest | None, since: ReadPlan | None, options: RunOptions = DEFAULTS
) -> Decision:
    """Decide for a source from what is new since its cursor; `since` is `None` where there is no cursor to go on from.

    A rebuild leaves it to the caller to plan all that is there. Raises `SourceError` when the source would have to be
    read again and some of what was read is no longer there, and when something went before it was read.
    """
    if options.full:
        return compute_all("--full", exists=manifest is not None)
    if manifest is None or since is None:
        return compute_all(_NOT_MADE, exists=manifest is not None)
    redefined = manifest.fingerprint != fingerprint
    if redefined or since.changed:
        return reread(manifest, since, "the definition changed" if redefined else since.changed)
    if since.gaps and not options.accept_gaps:
        raise SourceError(
            f"the source of {manifest.table!r} no longer has what comes next: it was deleted before it was read",
            got=few(map(str, since.gaps), _SHOWN),
            do="go on with what is left: headwater run --accept-gaps",
        )
    kind = DecisionKind.APPEND if since.parts else DecisionKind.SKIP
    reason = "; ".join([since.new or "nothing new", *since.notes])
    return Decision(kind, reason, since, is_later=since.is_later)


def decide_reading(
    fingerprint: str,
    manifest: Manifest | None,
    since: ReadPlan | None,
    inputs: InputFacts,
    options: RunOptions = DEFAULTS,
) -> Decision:
    """Decide for a table that reads a source which is not stored, from what is new in it and the table's other inputs."""
    read = decide_source(fingerprint, manifest, since, options)
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
    """Read all again; raise `SourceError` when some of what was read is no longer there."""
    if since.lost:
        raise SourceError(
            f"the source of {manifest.table!r} must be read again ({reason}), which would lose rows",
            got=f"{len(since.lost)} of what was read is no longer there, the first {since.lost[0]}",
            do="bring it back, or accept the loss with --full",
        )
    return Decision(DecisionKind.REBUILD, reason)


def decide_table(
    fingerprint: str, manifest: Manifest | None, inputs: InputFacts, options: RunOptions = DEFAULTS
) -> Decision:
    """Decide for a table from its manifest and its inputs."""
    if options.full:
        return compute_all("--full", exists=manifest is not None)
    if manifest is None:
        return compute_all(_NOT_MADE, exists=False)
    if manifest.fingerprint != fingerprint:
        return Decision(DecisionKind.REBUILD, "the definition changed")
    changed = _changed(manifest, inputs)
    if not changed:
        return Decision(DecisionKind.SKIP, "up to date")
    if changed == [inputs.driving] and inputs.splits_alone and inputs.added is not None:
        return _take_new(inputs, inputs.added)
    others = ", ".join(repr(name) for name in changed)
    return Decision(DecisionKind.REBUILD, f"{others} changed")


def _changed(manifest: Manifest, inputs: InputFacts) -> list[str]:
    """Return the inputs that are at another version than the one that was consumed."""
    return [
        name
        for name, version in inputs.versions.items()
        if (manifest.inputs.get(name), manifest.manifest_ids.get(name)) != (version, inputs.manifest_ids.get(name))
    ]


def _take_new(inputs: InputFacts, added: tuple[DataFile, ...]) -> Decision:
    """Append or merge new rows; replace those of the keys in files that went, unless these are most of the input."""
    if not inputs.removed:
        rows = sum(file.rows for file in added)
        reason = f"{rows:,} new row{'s' * (rows != 1)} in {inputs.driving!r}"
        return Decision(
            DecisionKind.MERGE if inputs.merges else DecisionKind.APPEND, reason, added=added, is_later=inputs.is_later
        )
    touched = max(sum(file.rows for file in added), sum(file.rows for file in inputs.removed))
    if touched > inputs.rows // 2:
        return Decision(DecisionKind.REBUILD, f"{inputs.driving!r} changed")
    reason = f"{touched:,} rows of {inputs.driving!r} are in files that were written again"
    return Decision(DecisionKind.MERGE, reason, added=added, removed=inputs.removed)
