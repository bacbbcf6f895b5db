"""Decides how a stream starts: a pure function of the last commit, the current definition and the options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.core.cursors import Gap
from pipeline.core.epochs import Epoch, InputProgress
from pipeline.core.errors import IncompatibleStateError, Place, RequestError, SourceError, StorageError
from pipeline.core.schema import Schema, compare
from pipeline.core.sources import Extent
from pipeline.core.staging import Manifest
from pipeline.core.state_identity import StateIdentity

StartPosition = Literal["committed", "earliest", "latest"] | Mapping[str, int]
"""Where a stream begins: at its last commit, at the begin or end of its logs, or at offsets by partition."""


StateMode = Literal["restore", "keep", "rebuild"]
"""How a stream gets its state: restored if the identity is the same, kept although the rules changed, or recomputed."""


@dataclass(frozen=True)
class StartDecision:
    """How a stream starts: from a commit, or from its logs."""

    epoch: Epoch | None
    anew: bool
    """Whether the first commit replaces all rows of the table."""


@dataclass(frozen=True)
class StreamIdentity:
    """The current definition of a stream, as far as its state and its rows depend on it."""

    name: str
    state: StateIdentity | None
    """None for a stream without state."""
    engine: str
    schema: Schema
    table: Schema | None
    """The columns of the existing table."""
    place: Place | None = None
    """Where it is defined."""
    may_grow: bool = False
    """Whether new columns are null in the existing rows of the table."""
    first_fingerprint: str = ""
    """What epochs of format 1 have instead of the state's identity."""


def decide_start(
    manifest: Manifest | None,
    begin: StartPosition,
    now: StreamIdentity,
    *,
    anew: bool = False,
    state: StateMode = "restore",
) -> StartDecision:
    """Decide how a stream starts. `anew` allows to rebuild the table from given offsets.

    Raises `StorageError` if the stream cannot resume from its last commit, with the reason and the options, and
    `RequestError` for offsets that are given to a stream with commits.
    """
    if begin != "committed" and (anew or isinstance(begin, str)):
        return StartDecision(None, anew=now.table is not None)
    if manifest is None:
        return StartDecision(None, anew=False)
    if not isinstance(begin, str):
        raise RequestError(
            f"stream {now.name!r} already has commits: starting at other offsets would lose or duplicate rows",
            do="rebuild its table with --anew or --from earliest, or restore a savepoint",
        )
    if manifest.epoch is None:
        raise StorageError(
            f"table {now.name!r} was computed in batch, so a stream cannot resume from it",
            do="rebuild it from its source: headwater stream --from earliest",
            place=now.place,
        )
    obstacle = _obstacle(manifest.epoch, now, state)
    if obstacle is not None:
        reason, ways = obstacle
        raise IncompatibleStateError(
            f"stream {now.name!r} cannot resume from its last commit: {reason}",
            do=f"{ways} or rebuild the table: headwater stream {now.name} --from earliest",
            place=now.place,
        )
    return StartDecision(manifest.epoch, anew=False)


_BACK = "revert the change, define a table with another name,"
_REBUILD = "recompute the state from the log with --rebuild-state,"
_KEEP = "keep the state unchanged with --keep-state,"


def _obstacle(epoch: Epoch, now: StreamIdentity, state: StateMode) -> tuple[str, str] | None:
    """Return why a stream cannot resume from a commit, and the options; `None` if it can."""
    change = None if now.table is None else compare(now.table, now.schema)
    if change and not (now.may_grow and not change.removed and not change.retyped):
        return f"its columns differ from those of its table: {change}", _BACK
    if state == "rebuild":
        return None
    reason = _change_of_layout(epoch, now)
    if reason is not None:
        return reason, f"{_BACK} {_REBUILD}"
    if now.state is not None and epoch.engine != now.engine:
        return f"its state was written by DuckDB {epoch.engine}, and this is {now.engine}", _REBUILD
    reason = None if now.state is None or epoch.identity is None else now.state.change_of_rules(epoch.identity)
    return None if reason is None or state == "keep" else (reason, f"{_BACK} {_REBUILD} {_KEEP}")


def _change_of_layout(epoch: Epoch, now: StreamIdentity) -> str | None:
    """Return why the state of an epoch cannot be read, or `None` if it can."""
    if epoch.format_version == 1:
        if epoch.definition == now.first_fingerprint:
            return None
        return "its definition or the layout of its state has changed since an earlier version of Headwater"
    if epoch.identity is None or now.state is None:
        kinds = [each.kind if each else "none" for each in (epoch.identity, now.state)]
        return None if kinds[0] == kinds[1] else f"its operator changed: {kinds[0]} before, {kinds[1]} now"
    return now.state.change_of_layout(epoch.identity)


def stamps_of(extents: Mapping[str, Extent]) -> dict[str, str]:
    """Return the stamp of each partition, which distinguishes it from a recreated one."""
    return {uri: extent.stamp for uri, extent in extents.items()}


def require_same_partitions(reached: InputProgress, extents: Mapping[str, Extent], *, may_lose: bool = False) -> None:
    """Raise `SourceError` if a partition that was read has been recreated or deleted, so that its offsets are invalid.

    With `may_lose`, a deleted partition is not an error, because it was read completely.
    """
    for uri, stamp in reached.stamps.items():
        extent = extents.get(uri)
        if extent is None and may_lose:
            continue
        if extent is None or extent.stamp != stamp:
            raise SourceError(
                f"{uri} {'no longer exists' if extent is None else 'was recreated since it was read'}",
                got=f"{'nothing' if extent is None else repr(extent.stamp)}, not {stamp!r}",
                do="restore it, or rebuild the table from the existing data: headwater stream --from earliest",
            )


def gaps_in(offsets: Mapping[str, int], extents: Mapping[str, Extent]) -> tuple[Gap, ...]:
    """Return the ranges from the next offsets that the partitions no longer contain."""
    return tuple(
        Gap(uri, offset, extents[uri].begin)
        for uri, offset in sorted(offsets.items())
        if uri in extents and offset < extents[uri].begin
    )


def first_offsets(extents: Mapping[str, Extent], begin: StartPosition) -> dict[str, int]:
    """Return the first offset of each partition that was not read yet."""
    if isinstance(begin, str):
        return {uri: extent.end if begin == "latest" else extent.begin for uri, extent in extents.items()}
    return {uri: begin.get(uri, extent.begin) for uri, extent in extents.items()}
