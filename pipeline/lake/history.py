"""The history of a table: what each version that can be read did, when, by which run, and what holds it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.staging import Manifest
from pipeline.lake.holds import holders, holds
from pipeline.lake.log import APP, COMPACTED, REPARTITIONED
from pipeline.lake.log_files import LogFiles, entry_name
from pipeline.lake.manifests import manifest_name
from pipeline.lake.storage import Storage
from pipeline.lake.versions import commit_times

RESTORED = "headwater.restored"
"""The key of a restore's note: the version whose files it made the table's files again."""


@dataclass(frozen=True)
class VersionFacts:
    """What a version did. The counts of rows are of its run; those of files and bytes are of its commit."""

    version: int
    at: dt.datetime
    mode: str = ""
    """`append`, `overwrite`, `merge`, `compact`, `columns`, `partitioning`, `restore of N`, or the operation of another engine."""
    run_id: str = ""
    rows_in: int | None = None
    rows_out: int | None = None
    added_files: int | None = None
    removed_files: int | None = None
    added_bytes: int | None = None
    removed_bytes: int | None = None
    epoch: int | None = None
    """For a table of a stream: the number of the epoch."""
    held_by: tuple[str, ...] = ()
    """What needs this version: see `pipeline.lake.holds`."""


def history(storage: Storage, limit: int | None = None) -> tuple[VersionFacts, ...]:
    """Return the versions that can be read, the newest first; of those without a log entry, only the time is known."""
    files = LogFiles.of(storage)
    times = commit_times(storage, files)
    every, chosen = holds(storage), sorted(times, reverse=True)[:limit]
    actions = _actions(storage, sorted(set(chosen) & set(files.entries)))
    manifests = _manifests(storage, {_manifest_id(each) for each in actions.values()})
    facts = []
    for number in chosen:
        known = VersionFacts(number, times[number], held_by=holders(every, number))
        mine = actions.get(number)
        facts.append(known if mine is None else _described(known, mine, manifests.get(_manifest_id(mine))))
    return tuple(facts)


def _actions(storage: Storage, numbers: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    names = {entry_name(number): number for number in numbers}
    texts = storage.read_existing(list(names))
    return {names[name]: [json.loads(line) for line in text.decode().splitlines()] for name, text in texts.items()}


def _manifest_id(actions: Sequence[Mapping[str, Any]]) -> int | None:
    ids = [a["txn"]["version"] for a in actions if "txn" in a and a["txn"]["appId"] == APP]
    return int(ids[-1]) if ids else None


def _manifests(storage: Storage, ids: set[int | None]) -> dict[int | None, Manifest]:
    names = {manifest_name(manifest_id): manifest_id for manifest_id in ids if manifest_id is not None}
    manifests: dict[int | None, Manifest] = {}
    for name, text in storage.read_existing(list(names)).items():
        try:
            manifests[names[name]] = Manifest.from_json(text.decode())
        except (StorageError, ValueError, KeyError, TypeError):  # a damaged or later manifest is reported by its reader
            continue
    return manifests


def _described(known: VersionFacts, actions: Sequence[Mapping[str, Any]], manifest: Manifest | None) -> VersionFacts:
    note: Mapping[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
    added, removed = ([a[kind] for a in actions if kind in a] for kind in ("add", "remove"))
    mode, is_run = _mode(note), "headwater.run" in note
    return replace(
        known,
        mode=mode,
        run_id=str(note.get("headwater.run", "")),
        rows_in=manifest.flow.rows_in if is_run and manifest is not None else None,
        rows_out=manifest.flow.rows_out if is_run and manifest is not None else None,
        added_files=len(added),
        removed_files=len(removed),
        added_bytes=sum(int(each["size"]) for each in added),
        removed_bytes=sum(int(each.get("size") or 0) for each in removed),
        epoch=manifest.epoch.number if is_run and manifest is not None and manifest.epoch is not None else None,
    )


def _mode(note: Mapping[str, Any]) -> str:
    if RESTORED in note:
        return f"restore of {note[RESTORED]}"
    if COMPACTED in note:
        return "compact"
    if REPARTITIONED in note:
        return "partitioning"
    operation = str(note.get("operation", "")).lower()
    return str(note.get("headwater.mode") or ("columns" if operation == "add column" else operation))
