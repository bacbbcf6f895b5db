"""What a start may do: a pure decision on what was committed, what the definition is now, and what was asked for."""

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
"""Where a stream begins: where it was, at the beginning or end of what its logs hold, or at offsets by partition."""


StateMode = Literal["restore", "keep", "rebuild"]
"""How a stream comes to its state: restored where its identity is the same, kept although its rules changed, or recomputed."""


@dataclass(frozen=True)
class StartDecision:
    """How a stream begins: from a commit, or anew with the table's rows made again."""

    epoch: Epoch | None
    anew: bool
    """Whether the first commit takes the place of all rows that are there."""


@dataclass(frozen=True)
class StreamIdentity:
    """What a stream is now, as far as its state and its rows depend on it."""

    name: str
    state: StateIdentity | None
    """None for a stream without state."""
    engine: str
    schema: Schema
    table: Schema | None
    """The columns of the table that is there."""
    place: Place | None = None
    """Where it is defined."""
    may_grow: bool = False
    """Whether new columns of its rows are null in the rows of its table."""
    first_fingerprint: str = ""
    """What epochs of format 1 have in place of the state's identity."""


def decide_start(
    manifest: Manifest | None,
    begin: StartPosition,
    now: StreamIdentity,
    *,
    anew: bool = False,
    state: StateMode = "restore",
) -> StartDecision:
    """Decide how a stream begins; `anew` allows the table to be made anew from offsets.

    Raises `StorageError` when the stream cannot go on from what was committed, with the reason and the ways on, and
    `RequestError` for offsets given to a stream that has committed already.
    """
    if begin != "committed" and (anew or isinstance(begin, str)):
        return StartDecision(None, anew=now.table is not None)
    if manifest is None:
        return StartDecision(None, anew=False)
    if not isinstance(begin, str):
        raise RequestError(
            f"stream {now.name!r} has committed epochs: other offsets would lose rows or count them twice",
            do="make its table anew with --anew or --from earliest, or go back to a savepoint",
        )
    if manifest.epoch is None:
        raise StorageError(
            f"table {now.name!r} was made in batch, so there is nothing to go on from",
            do="make it anew from its source: headwater stream --from earliest",
            place=now.place,
        )
    obstacle = _obstacle(manifest.epoch, now, state)
    if obstacle is not None:
        reason, ways = obstacle
        raise IncompatibleStateError(
            f"stream {now.name!r} cannot go on from its last commit: {reason}",
            do=f"{ways} or make the table anew: headwater stream {now.name} --from earliest",
            place=now.place,
        )
    return StartDecision(manifest.epoch, anew=False)


_BACK = "take the change back, define a table of another name,"
_REBUILD = "recompute the state from the log with --rebuild-state,"
_KEEP = "keep the state as it is with --keep-state,"


def _obstacle(epoch: Epoch, now: StreamIdentity, state: StateMode) -> tuple[str, str] | None:
    """Return why a commit cannot be gone on from, and the ways on; `None` when it can."""
    change = None if now.table is None else compare(now.table, now.schema)
    if change and not (now.may_grow and not change.removed and not change.retyped):
        return f"its rows have other columns than its table: {change}", _BACK
    if state == "rebuild":
        return None
    reason = _change_of_layout(epoch, now)
    if reason is not None:
        return reason, f"{_BACK} {_REBUILD}"
    if now.state is not None and epoch.engine != now.engine:
        return f"its state was kept by engine {epoch.engine}, and this is {now.engine}", _REBUILD
    reason = None if now.state is None or epoch.identity is None else now.state.change_of_rules(epoch.identity)
    return None if reason is None or state == "keep" else (reason, f"{_BACK} {_REBUILD} {_KEEP}")


def _change_of_layout(epoch: Epoch, now: StreamIdentity) -> str | None:
    """Return why the state of an epoch cannot be read, or `None` when it can."""
    if epoch.format_version == 1:
        if epoch.definition == now.first_fingerprint:
            return None
        return "its definition, or how its state is kept, changed since an earlier version of Headwater"
    if epoch.identity is None or now.state is None:
        kinds = [each.kind if each else "none" for each in (epoch.identity, now.state)]
        return None if kinds[0] == kinds[1] else f"its operator changed: {kinds[0]} before, {kinds[1]} now"
    return now.state.change_of_layout(epoch.identity)


def stamps_of(extents: Mapping[str, Extent]) -> dict[str, str]:
    """Return what tells each partition from one made anew."""
    return {uri: extent.stamp for uri, extent in extents.items()}


def require_same_partitions(reached: InputProgress, extents: Mapping[str, Extent], *, may_lose: bool = False) -> None:
    """Raise `SourceError` when a partition that was read was made anew, or is gone: its offsets would mean other records.

    With `may_lose` one that is gone is no error: it was read whole.
    """
    for uri, stamp in reached.stamps.items():
        extent = extents.get(uri)
        if extent is None and may_lose:
            continue
        if extent is None or extent.stamp != stamp:
            raise SourceError(
                f"{uri} is {'gone' if extent is None else 'not the one that was read: it was made anew'}",
                got=f"{'nothing' if extent is None else repr(extent.stamp)}, not {stamp!r}",
                do="bring it back, or make the table anew from what is there: headwater stream --from earliest",
            )


def gaps_in(offsets: Mapping[str, int], extents: Mapping[str, Extent]) -> tuple[Gap, ...]:
    """Return what partitions no longer hold of what comes next."""
    return tuple(
        Gap(uri, offset, extents[uri].begin)
        for uri, offset in sorted(offsets.items())
        if uri in extents and offset < extents[uri].begin
    )


def first_offsets(extents: Mapping[str, Extent], begin: StartPosition) -> dict[str, int]:
    """Return where each partition begins that was not read yet."""
    if isinstance(begin, str):
        return {uri: extent.end if begin == "latest" else extent.begin for uri, extent in extents.items()}
    return {uri: begin.get(uri, extent.begin) for uri, extent in extents.items()}
