"""The versions in a table's log that can be read, and when each was committed.

The time of a version is that in its commit. Clocks of writers differ and jump, so the times are made monotone, as the
Delta protocol does: a version is at least a millisecond later than the one before it.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow.parquet as pq

from pipeline.core.format_versions import require_known
from pipeline.lake.log_files import LogFiles, entry_name, number_of
from pipeline.lake.storage import Storage

KEPT = "_headwater/kept_versions.json"
"""The file with the times of versions that have a checkpoint and no entry any more."""
FORMAT_VERSION = 1
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class CommitNote:
    """What a commit says about itself: its time, which may be before that of an earlier version, and its notes."""

    number: int
    time_ms: int
    facts: Mapping[str, Any]


def notes(storage: Storage, numbers: Iterable[int]) -> dict[int, CommitNote]:
    """Return the notes of those versions that have an entry."""
    names = {entry_name(number): number for number in numbers}
    return {names[name]: _note(names[name], text.decode()) for name, text in storage.read_existing(list(names)).items()}


def commit_times(storage: Storage, files: LogFiles | None = None) -> dict[int, dt.datetime]:
    """Return when each version was committed that can be opened, in UTC; monotone."""
    files = LogFiles.of(storage) if files is None else files
    readable = frozenset(files.readable())
    noted = {number: note.time_ms for number, note in notes(storage, files.entries).items()}
    if any(number not in noted for number in readable):
        noted = kept_times(storage) | noted
    return {number: at for number, at in monotone(noted).items() if number in readable}


def monotone(times_ms: Mapping[int, int]) -> dict[int, dt.datetime]:
    """Return times by version, in milliseconds since 1970, as increasing times."""
    last, times = 0, {}
    for number in sorted(times_ms):
        last = max(times_ms[number], last + 1)
        times[number] = _EPOCH + dt.timedelta(milliseconds=last)
    return times


def kept_times(storage: Storage) -> dict[int, int]:
    """Return the times of the versions that have only a checkpoint, in milliseconds since 1970."""
    text = storage.read_existing([KEPT]).get(KEPT)
    if text is None:
        return {}
    parts = json.loads(text)
    require_known(parts["format_version"], FORMAT_VERSION, f"{KEPT} below {storage.uri}", "upgrade Headwater")
    return {int(number): int(time) for number, time in parts["versions"].items()}


def keep_times(storage: Storage, times_ms: Mapping[int, int]) -> None:
    """Write the times of the versions that have only a checkpoint."""
    versions = {str(number): times_ms[number] for number in sorted(times_ms)}
    storage.write_text(KEPT, json.dumps({"format_version": FORMAT_VERSION, "versions": versions}))


def logged_stats(storage: Storage, number: int) -> dict[str, str]:
    """Return the statistics of files that the log has for a version, as JSON by path below the table."""
    files = LogFiles.of(storage)
    base = max((each for each in files.checkpoints if each <= number), default=-1)
    stats: dict[str, str] = {}
    for name in files.names:
        if number_of(name) == base and ".checkpoint" in name and name.endswith(".parquet"):
            with storage.open(name) as content:
                adds = pq.read_table(content, columns=["add.path", "add.stats"]).column("add").to_pylist()
            stats |= {unquote(add["path"]): add["stats"] for add in adds if add is not None and add["stats"]}
    texts = storage.read_existing([entry_name(each) for each in files.entries if base < each <= number])
    for text in texts.values():
        adds = [json.loads(line)["add"] for line in text.decode().splitlines() if line.startswith('{"add"')]
        stats |= {unquote(add["path"]): add["stats"] for add in adds if add.get("stats")}
    return stats


def _note(number: int, text: str) -> CommitNote:
    for line in text.splitlines():
        if '"commitInfo"' in line and (facts := json.loads(line).get("commitInfo")) is not None:
            return CommitNote(number, int(facts.get("inCommitTimestamp") or facts.get("timestamp") or 0), facts)
    return CommitNote(number, 0, {})
