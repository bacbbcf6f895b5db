"""Maintenance of a table's log: checkpoints make it fast to open, and folding old entries makes it fast to list.

Each of the last `KEPT_VERSIONS` versions can be opened, with its manifest. Of earlier ones within the table's history, one
checkpoint every `SPACING` stays, and those of held versions. A reader that follows the table from any earlier version
still gets the changes since (`pipeline/lake/log.py`).

One process at a time shortens a log (`pipeline/lake/maintenance_claims.py`): of two that keep different versions, the slower one
would remove or forget what the other has kept. A checkpoint can be written at any time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping

from pipeline.core.clock import Clock, now
from pipeline.core.lake_policy import LakePolicy
from pipeline.lake.holds import held_versions
from pipeline.lake.log import entries, fold
from pipeline.lake.log_files import LogFiles, number_of
from pipeline.lake.maintenance_claims import Claim, maintaining
from pipeline.lake.manifests import manifest_name
from pipeline.lake.opening import TableDescription, open_table, write_checkpoint
from pipeline.lake.storage import Storage
from pipeline.lake.versions import keep_times, kept_times, monotone, notes

TIDY_INTERVAL = 100
"""The number of versions between two runs."""
KEPT_VERSIONS = 500
"""The number of versions that can always be opened; up to `TIDY_INTERVAL` more may be."""
SPACING = dt.timedelta(minutes=10)
"""The time between two earlier versions that can be opened."""
_LASTS = dt.timedelta(minutes=20)
"""How long it may take. Object stores refuse requests of clocks that are wrong by 15 minutes, so none takes over too early."""


def tidy(
    place: TableDescription,
    *,
    versions: int = KEPT_VERSIONS,
    history: dt.timedelta = LakePolicy.history,
    clock: Clock = now,
) -> None:
    """Write a checkpoint of the newest version, fold old entries, and remove old manifests.

    Safe during reads and writes, and if it is interrupted: an entry is removed only after a later checkpoint and its
    folded line are written, a manifest only when its version can no longer be opened. Raises `ConflictError` if there are
    old entries and another process maintains the table, and `StorageError` or an error of `deltalake` if the store fails; the table
    stays intact.
    """
    table = open_table(place)
    if table is None:
        return
    files, last = LogFiles.of(place.storage), int(table.version()) - versions
    write_checkpoint(place)
    if not any(number <= last for number in files.checkpoints):
        return
    with maintaining(place.storage, _LASTS, clock) as claim:
        held, files = held_versions(place.storage), LogFiles.of(place.storage)
        base = max(number for number in files.checkpoints if number <= last)
        checkpoint(place, files, [number for number in held if number < base])
        shorten(place.storage, base, history, held, claim)


def checkpoint(place: TableDescription, files: LogFiles, numbers: Collection[int]) -> None:
    """Write checkpoints of those versions that can be opened and have none."""
    missing = (frozenset(numbers) & frozenset(files.readable())) - frozenset(files.checkpoints)
    for number in sorted(missing):
        write_checkpoint(place, number)
    if missing:
        write_checkpoint(place)  # readers look for the one that was written last, and at those after it


def shorten(storage: Storage, base: int, history: dt.timedelta, held: Collection[int], claim: Claim) -> None:
    """Fold the entries before a checkpoint, and remove them and the manifests of versions that can no longer be opened."""
    files = LogFiles.of(storage)
    at_base = entries(storage, base, base)
    if at_base is None or base not in files.checkpoints:  # another engine maintains this log
        return
    going = [number for number in files.entries if number < base]
    checkpoints = [number for number in files.checkpoints if number < base]
    known = kept_times(storage)
    if not going and not (set(checkpoints) | set(known)):
        return
    noted = notes(storage, [*going, base, files.entries[-1]])
    times = known | {number: note.time_ms for number, note in noted.items()}
    kept = milestones(times, checkpoints, base, history, held)
    claim.require()
    folded = fold(storage, going[0], going[-1]) if going else ()
    expired = [entry for number in set(known) - set(kept) for entry in entries(storage, number, number) or ()]
    staying = [entry for number in kept for entry in entries(storage, number, number) or ()]
    ids = {entry.manifest_id for entry in (*at_base, *staying)}
    claim.require()
    if known or kept:
        keep_times(storage, {number: times[number] for number in kept if number in times})
    _remove_manifests(storage, {e.manifest_id for e in (*folded, *expired)} - ids)
    names = [name for name in files.names if 0 <= number_of(name) < base]
    claim.require()
    storage.remove([name for name in names if ".checkpoint" not in name or number_of(name) not in kept])


def milestones(
    times_ms: Mapping[int, int], checkpoints: Collection[int], base: int, history: dt.timedelta, held: Collection[int]
) -> tuple[int, ...]:
    """Return the checkpoints before `base` that stay: those of held versions, and one every `SPACING` within `history`.

    The age of a version is counted from the version after it, and until the newest commit.
    """
    times = monotone(times_ms)
    kept: list[int] = []
    last: dt.datetime | None = None
    following = dict(zip(times, [*list(times)[1:], None], strict=True))
    for number in sorted(checkpoints):
        at = times.get(number)
        if number in held:
            kept.append(number)
        elif at is not None and (next_one := following[number]) is not None:
            is_young = times[max(times)] - times[next_one] < history
            if is_young and (last is None or at - last >= SPACING):
                kept.append(number)
                last = at
    return tuple(number for number in kept if number < base)


def _remove_manifests(storage: Storage, ids: Collection[int | None]) -> None:
    obsolete = {manifest_name(manifest_id) for manifest_id in ids if manifest_id is not None}
    storage.remove(sorted(obsolete & set(storage.names("_headwater/"))))
