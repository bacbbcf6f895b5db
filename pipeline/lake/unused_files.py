"""Vacuum: removes the files that no version needs which can still be read, of the log too.

A version can be read for as long as its table's policy says (`history`, `min_versions`), counted from when a newer version
replaced it, and while it is held. Files that no commit in the log refers to are those of killed writers, or of running
ones, so they are removed after a day.

Clocks jump. The current time is the earlier one of this machine's and the store's; the time of a commit is the later one
of its own and that at which the store received its log entry. So a clock that is wrong keeps files too long, never too short.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from deltalake.exceptions import DeltaError

from pipeline.core.clock import Clock, now
from pipeline.core.errors import StorageError
from pipeline.core.staging import Manifest
from pipeline.lake.actions import actions_of, uris
from pipeline.lake.delta import LakeTable
from pipeline.lake.holds import held_versions
from pipeline.lake.log import LogEntry, entries
from pipeline.lake.log_files import LogFiles, entry_name
from pipeline.lake.log_maintenance import checkpoint, shorten
from pipeline.lake.maintenance_claims import Claim, maintaining
from pipeline.lake.manifests import manifest_name
from pipeline.lake.opening import open_table, write_checkpoint
from pipeline.lake.storage import StoredFile
from pipeline.lake.versions import commit_times

ORPHAN_AGE = dt.timedelta(days=1)
"""Files that no commit refers to may belong to a running writer, and are kept for this long.

Those of commits in the log are known to be committed, and go as soon as no version needs them.
"""
CLOCK = "_headwater/clock"
_LASTS = dt.timedelta(hours=1)
"""How long a vacuum may take."""
_BATCH = 500
_OWN = ("_headwater/part-", "_headwater/state/")
"""The files that manifests list, besides those of rows: deleted keys, merged changes, and state."""
_MANIFEST = re.compile(r"_headwater/[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class VacuumPlan:
    """What a vacuum removes from a table: files, and the versions that can no longer be read then."""

    table: str
    files: Mapping[str, int] = field(default_factory=dict)
    """The sizes of the files, in bytes, by their paths below the table."""
    oldest: int | None = None
    """The oldest version that can be read afterwards, besides held ones; `None` for a table that does not exist."""
    versions: int = 0
    """How many versions can no longer be read afterwards."""

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(self.files.values())


def plan_vacuum(table: LakeTable, keep: Collection[str] = (), clock: Clock = now) -> VacuumPlan:
    """Return what `vacuum` would remove. `keep` are paths of other files that are needed."""
    newest = table.number()
    if newest is None:
        return VacuumPlan(table.name)
    stored = table.storage.files()
    log = LogFiles(tuple(sorted(name for name in stored if name.startswith("_delta_log/"))))
    at = min(clock(), table.storage.time(CLOCK))
    held, readable = held_versions(table.storage, lambda: at), log.readable()
    retained = _retained(table, log, stored, at)
    oldest = min(retained, default=newest)
    needed = _needed(table, log, oldest, held & frozenset(readable)) | frozenset(keep)
    committed = _files_of(table, readable[0]) | _added_since(table, log, readable[0]) if readable[0] < oldest else ()
    unused = {
        name: file.size_bytes
        for name, file in stored.items()
        if (file.modified < at - ORPHAN_AGE or name in committed) and name not in needed and _may_go(name)
    }
    gone = [number for number in readable if number < oldest and number not in held]
    return VacuumPlan(table.name, dict(sorted(unused.items())), oldest, len(gone))


def vacuum(table: LakeTable, keep: Collection[str] = (), clock: Clock = now) -> VacuumPlan:
    """Remove the files that no version needs, and the log of versions that can no longer be read; return what went.

    Safe beside writers and readers of the table, and if it is killed: a version is first taken from the log, then its files are
    removed. Incremental readers that are further behind read the entire table again. Raises `ConflictError` while another
    process vacuums the table or shortens its log.
    """
    if table.number() is None:
        return VacuumPlan(table.name)
    with maintaining(table.storage, _LASTS, clock) as claim:
        plan = plan_vacuum(table, keep, clock)
        if plan.versions and plan.oldest is not None:
            try:
                _forget_versions(table, plan.oldest, claim)
            except (DeltaError, OSError) as error:
                problem = f"the log of table {table.name!r} cannot be shortened"
                raise table.storage.failed(problem, error, "nothing was removed; run the vacuum again") from error
        names = list(plan.files)
        for begin in range(0, len(names), _BATCH):
            claim.require()
            table.storage.remove(names[begin : begin + _BATCH])
    return plan


def _retained(table: LakeTable, log: LogFiles, stored: Mapping[str, StoredFile], at: dt.datetime) -> tuple[int, ...]:
    """Return the versions that the policy keeps."""
    times = commit_times(table.storage, log)
    numbers = sorted(times)
    kept = numbers[-table.policy.min_versions :]
    for number, following in itertools.pairwise(numbers):
        entry = stored.get(entry_name(following))
        replaced = max(times[following], times[following] if entry is None else entry.modified)
        if replaced > at - table.policy.history:
            kept.append(number)
    return tuple(kept)


def _needed(table: LakeTable, log: LogFiles, oldest: int, held: Collection[int]) -> frozenset[str]:
    """Return the files that versions from `oldest` on need, and those that are held: rows, tombstones, state, manifests."""
    needed = _files_of(table, oldest) | _added_since(table, log, oldest)
    for number in held:
        needed |= _files_of(table, number) if number < oldest else frozenset()
    later = entries(table.storage, oldest, max(log.readable()))
    earlier = [entries(table.storage, number, number) for number in held]
    if later is None or None in earlier:  # another engine maintains this log: every manifest may be needed
        names = {name for name in table.storage.names("_headwater/") if _MANIFEST.fullmatch(name)}
    else:
        commits = (*later, *(entry for each in earlier for entry in each or ()))
        names = {manifest_name(entry.manifest_id) for entry in commits if entry.manifest_id is not None}
    for text in table.storage.read_existing(sorted(names)).values():
        manifest = Manifest.from_json(text.decode())
        needed |= {file.path for file in manifest.tombstones}
        needed |= set() if manifest.epoch is None else {file.path for file in manifest.epoch.state}
    return needed | frozenset(names)


def _files_of(table: LakeTable, number: int) -> frozenset[str]:
    opened = open_table(table.place, number)
    if opened is None:
        raise StorageError(f"version {number} of table {table.name!r} cannot be read", do=f"check {table.storage.uri}")
    return frozenset(uri.removeprefix(f"{table.storage.uri}/") for uri in uris(table.storage, actions_of(opened)))


def _added_since(table: LakeTable, log: LogFiles, oldest: int) -> frozenset[str]:
    """Return all files that commits after a version added, also by compactions of any engine."""
    last = log.entries[-1] if log.entries else oldest
    commits: Sequence[LogEntry] | None = entries(table.storage, oldest, last)
    texts = table.storage.read_existing([entry_name(number) for number in log.entries if number >= oldest])
    if commits is None or not all(e.is_plain for e in commits if entry_name(e.number) not in texts):
        return frozenset().union(*(_files_of(table, number) for number in log.readable() if number >= oldest))
    lines = [line for text in texts.values() for line in text.decode().splitlines() if '"add"' in line]
    raw = [json.loads(line).get("add") for line in lines]
    named = {path for e in commits for path in (*(file.path for file in e.added), *e.moved)}
    return frozenset(named | {unquote(add["path"]) for add in raw if add is not None})


def _may_go(name: str) -> bool:
    """Return whether a file is one of those that vacuum looks after: of rows, deleted keys, changes, state, and manifests."""
    if name.startswith("_delta_log/"):
        return False
    return not name.startswith("_headwater/") or name.startswith(_OWN) or bool(_MANIFEST.fullmatch(name))


def _forget_versions(table: LakeTable, oldest: int, claim: Claim) -> None:
    """Take the versions before `oldest` from the log, except held ones."""
    log, held = LogFiles.of(table.storage), held_versions(table.storage, claim.clock)
    checkpoint(table.place, log, [oldest, *(number for number in held if number < oldest)])
    write_checkpoint(table.place)
    shorten(table.storage, oldest, dt.timedelta(), held, claim)
