"""Maintenance of a table's log: checkpoints make it fast to open, and folding old entries makes it fast to list.

Each of the last `KEPT_VERSIONS` versions can be opened, and the newest `KEPT_MANIFESTS` manifests can be read. A reader
that follows the table from an older version still gets the changes since (`pipeline/lake/log.py`).
"""

from __future__ import annotations

from pipeline.lake.head import TableDescription, open_table
from pipeline.lake.log import LogEntry, entries, entry_name, fold, number_of
from pipeline.lake.manifests import manifest_name
from pipeline.lake.storage import Storage

TIDY_INTERVAL = 100
"""The number of versions between two runs."""
KEPT_VERSIONS = 500
"""The number of versions that can always be opened; up to `TIDY_INTERVAL` more may be."""
KEPT_MANIFESTS = 20
"""The number of newest manifests that are kept, for readers that have just opened their version."""


def tidy(place: TableDescription, *, versions: int = KEPT_VERSIONS) -> None:
    """Write a checkpoint of the newest version, fold old entries, and remove old manifests.

    Safe during reads and writes, and if it is interrupted: an entry is removed only after a later checkpoint and its
    folded line are written, a manifest only after a later one is committed. Run one at a time per table.
    Raises `StorageError` or an error of `deltalake` if the store fails; the table stays intact.
    """
    table = open_table(place)
    if table is None:
        return
    table.create_checkpoint()
    now = int(table.version())
    newest = entries(place.storage, max(0, now - KEPT_MANIFESTS + 1), now)
    if newest is None:  # another engine maintains this log
        return
    kept = frozenset(entry.manifest_id for entry in newest)
    names = place.storage.names("_delta_log/")
    _remove_manifests(
        place.storage,
        _present(place.storage, names, now - KEPT_MANIFESTS - 2 * TIDY_INTERVAL, now - KEPT_MANIFESTS),
        kept,
    )
    checkpoints = sorted(number_of(name) for name in names if ".checkpoint" in name)
    old = [number for number in checkpoints if 0 <= number <= now - versions]
    if old:
        going = [name for name in names if 0 <= number_of(name) < old[-1]]
        numbers = sorted(number for name in going if entry_name(number := number_of(name)) == name)
        if numbers:
            _remove_manifests(place.storage, fold(place.storage, numbers[0], numbers[-1]), kept)
        place.storage.remove(sorted(going))


def _present(storage: Storage, names: tuple[str, ...], first: int, last: int) -> tuple[LogEntry, ...]:
    """Return the entries between two numbers that exist as files."""
    numbers = sorted(n for name in names if first <= (n := number_of(name)) <= last and name == entry_name(n))
    return (entries(storage, numbers[0], numbers[-1]) or ()) if numbers else ()


def _remove_manifests(storage: Storage, older: tuple[LogEntry, ...], kept: frozenset[int | None]) -> None:
    """Remove the manifests of older versions; those of commits in progress are kept."""
    obsolete = {
        manifest_name(entry.manifest_id)
        for entry in older
        if entry.manifest_id is not None and entry.manifest_id not in kept
    }
    storage.remove(sorted(obsolete & set(storage.names("_headwater/"))))
