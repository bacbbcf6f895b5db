"""Determines which files of a store are new since a cursor, and which changed, were renamed or vanished."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from pipeline.connectors.files.stores import FileStore, IfNone
from pipeline.core.cursors import Bound, Cursor, ReadPlan
from pipeline.core.errors import Place, SourceError, few, quantity
from pipeline.core.event_time import format_duration
from pipeline.core.splits import SourceObject, SourceSplit

KIND = "files"
OnChange = Literal["reread", "refuse", "keep"]
OnVanish = Literal["keep", "refuse", "reread"]
Order = Literal["location", "time"]
_AT_ONCE = 4
_SECOND_NS = 1_000_000_000
_SHOWN = 3
"""Number of files in a message."""


@dataclass(frozen=True)
class _ConsumedFile:
    """A file as recorded in a cursor."""

    size_bytes: int
    time_ns: int
    content: str = ""
    """A checksum, or the entity tag of the store; empty if it is not known."""

    @classmethod
    def of(cls, source_object: SourceObject) -> _ConsumedFile:
        """Return a listed file; without its checksum, unless the listing contains it."""
        _, _, rest = source_object.stamp.partition("-")
        content, _, time = rest.rpartition("-")
        return cls(source_object.size_bytes, int(time), content)

    def is_as(self, other: _ConsumedFile) -> bool:
        """Return whether this file is another one, as far as it is known without reading it."""
        is_other_content = bool(self.content and other.content) and self.content != other.content
        return (self.size_bytes, self.time_ns) == (other.size_bytes, other.time_ns) and not is_other_content


@dataclass(frozen=True)
class DiscoveryRules:
    """When a file is complete, in which order new files are read, and what happens if one that was read is different."""

    settled: timedelta = timedelta()
    """How long ago a file must have changed; until then, it waits."""
    changed: OnChange = "reread"
    """Whether a file that changed makes all files be read again, is an error, or keeps the rows that were read."""
    vanished: OnVanish = "keep"
    """Whether the rows of a file that no longer exists are kept, that is an error, or all other files are read again."""
    order: Order = "location"
    required: bool = True
    """Whether it is an error that there has never been a file."""

    def waits(self, source_object: SourceObject, now: datetime) -> bool:
        """Return whether a file may still be written."""
        if not self.settled:
            return False
        return int(source_object.stamp.rpartition("-")[2]) > (now - self.settled).timestamp() * 1e9

    def place_of(self, location: str, file: _ConsumedFile) -> tuple[int, str]:
        """Return what files are sorted by."""
        return (file.time_ns if self.order == "time" else 0, location)


DEFAULT_RULES = DiscoveryRules()


def plan_files(  # noqa: PLR0913 - facts of one decision
    store: FileStore,
    cursor: Cursor | None,
    bound: Bound,
    rules: DiscoveryRules,
    now: datetime,
    in_manifest: frozenset[str] | None = None,
) -> ReadPlan:
    """Plan the files that are not consumed yet.

    A file is unchanged if its size and time, or its size and content, are equal. A renamed file has the time and
    content of a file that no longer exists, and is not read again. With a manifest, other files than those `in_manifest`
    wait, and one of them that does not exist is an error, unless it was read. Raises `SourceError` for a file that changed or
    vanished, if the rules say so, and if there has never been a file.
    """
    known = {} if cursor is None else _known(store, cursor)
    if_none: IfNone = "require folders" if known else "raise" if rules.required else "accept"
    every = {each.uri: each for each in store.source_objects(if_none)}
    unlisted = [] if in_manifest is None else [each for each in every if each not in in_manifest and each not in known]
    _require_listed((in_manifest or frozenset()) - every.keys() - known.keys())
    for location in unlisted:
        del every[location]
    waiting = {location: source_object for location, source_object in every.items() if rules.waits(source_object, now)}
    listed = {location: every[location] for location in every if location not in waiting}
    same, changed = _compared(store, known, listed)
    missing = {location: file for location, file in known.items() if location not in every}
    fresh = {location: _ConsumedFile.of(listed[location]) for location in sorted(listed) if location not in known}
    renamed, alike = _match_missing(_with_contents(store, fresh, listed), missing) if missing else ({}, {})
    lost = tuple(location for location in missing if location not in renamed.values())
    _require_allowed(rules, changed, lost)
    unread = {location: fresh[location] for location in fresh if location not in renamed}
    taken, has_more = _limit(bound, dict(sorted(unread.items(), key=lambda each: rules.place_of(*each))))
    kept = {location: file for location, file in known.items() if location not in renamed.values()}
    accepted = changed if rules.changed == "keep" else {}
    taken_back = lost if rules.vanished == "reread" else ()
    recorded = {**{location: fresh[location] for location in renamed}, **taken, **accepted}
    last, first = ([rules.place_of(*each) for each in files.items()] for files in (known, taken))
    return ReadPlan(
        splits=tuple(SourceSplit(listed[location]) for location in taken),
        cursor=_cursor({**kept, **same, **_with_contents(store, recorded, listed)}),
        new=f"{quantity(len(taken), 'new file')}{', more are left' * has_more}" if taken else "",
        changed=_cause_to_reread(() if accepted else tuple(changed), taken_back),
        lost=() if taken_back else lost,
        is_later=not last or not first or min(first) > max(last),
        has_more=has_more,
        notes=(
            *(f"{new} is {old}, renamed" for new, old in renamed.items()),
            *(
                f"{new} has the content of {old}, which no longer exists: its rows are loaded again"
                for new, old in alike.items()
            ),
            *_notes(rules, sorted(accepted), sorted(waiting)),
            *([f"{quantity(len(unlisted), 'file')} not in the manifest: {few(unlisted, _SHOWN)}"] if unlisted else []),
            *(
                []
                if every or not known or taken_back
                else [f"no file is there any more; the rows of {quantity(len(known), 'file')} are kept"]
            ),
        ),
    )


def _cause_to_reread(changed: Sequence[str], vanished: Sequence[str]) -> str:
    """Return why all files must be read again; empty if they need not."""
    for locations, words in ((changed, "changed"), (vanished, "no longer exists")):
        if locations:
            return f"{locations[0].rpartition(os.sep)[2]} {words}"
    return ""


def _require_listed(missing: Collection[str]) -> None:
    if missing:
        raise SourceError(
            "the manifest lists a file that does not exist",
            got=few(sorted(missing), _SHOWN),
            do="write a file before the manifest that lists it, or remove it from the list",
        )


def _require_allowed(rules: DiscoveryRules, changed: Iterable[str], lost: Sequence[str]) -> None:
    """Raise `SourceError` for files that must not have changed or vanished."""
    changed = sorted(changed)
    if changed and rules.changed == "refuse":
        raise SourceError(
            "a file that was read has changed",
            got=few(changed, _SHOWN),
            do='restore it, or pass changed="reread" to read all files again, or changed="keep" to keep the rows',
            place=Place(changed[0]),
        )
    if lost and rules.vanished == "refuse":
        raise SourceError(
            "a file that was read no longer exists",
            got=few(lost, _SHOWN),
            do='restore it, or pass vanished="keep" to keep its rows, or vanished="reread" to read the other files again',
            place=Place(lost[0]),
        )


def _notes(rules: DiscoveryRules, changed: Sequence[str], waiting: Sequence[str]) -> Iterator[str]:
    if changed:
        yield f"{few(changed, _SHOWN)} changed after it was read: its rows are kept, as declared"
    if waiting:
        age = format_duration(rules.settled)
        yield f"{quantity(len(waiting), 'file')} changed less than {age} ago and will be read later: {few(waiting, _SHOWN)}"


def _compared(
    store: FileStore, known: Mapping[str, _ConsumedFile], now: Mapping[str, SourceObject]
) -> tuple[dict[str, _ConsumedFile], dict[str, _ConsumedFile]]:
    """Return the files whose time changed but not their content, and the files that changed."""
    listed = {location: _ConsumedFile.of(now[location]) for location in known if location in now}
    touched = {location: file for location, file in listed.items() if not file.is_as(known[location])}
    of_size = {u: f for u, f in touched.items() if known[u].content and known[u].size_bytes == f.size_bytes}
    read = _with_contents(store, of_size, now)
    same = {location: file for location, file in read.items() if file.content == known[location].content}
    return same, {location: file for location, file in touched.items() if location not in same}


def _match_missing(
    fresh: Mapping[str, _ConsumedFile], missing: Mapping[str, _ConsumedFile]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the new files that are renamed removed files, and those that only have the content of one.

    Without a known content, a file is recognized by its time only if that is more precise than a second.
    """
    by_file = {file: u for u, file in missing.items() if file.content or file.time_ns % _SECOND_NS}
    renamed = {location: old for location, file in fresh.items() if (old := by_file.pop(file, None)) is not None}
    by_content = {file.content: location for file, location in by_file.items() if file.content}
    return renamed, {
        location: by_content[file.content]
        for location, file in fresh.items()
        if location not in renamed and file.content in by_content
    }


def _limit(bound: Bound, files: Mapping[str, _ConsumedFile]) -> tuple[dict[str, _ConsumedFile], bool]:
    """Return the files within a limit, and whether there are more."""
    taken: dict[str, _ConsumedFile] = {}
    size = 0
    for location, file in files.items():
        if bound.until is not None and file.time_ns > bound.until.timestamp() * 1e9:
            continue
        size += file.size_bytes
        if bound.size_bytes is not None and size > bound.size_bytes and taken:
            break
        taken[location] = file
    return taken, len(taken) < len(files)


def _with_contents(
    store: FileStore, files: Mapping[str, _ConsumedFile], now: Mapping[str, SourceObject]
) -> dict[str, _ConsumedFile]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        contents = pool.map(store.content, (now[location] for location in files))
        return {u: replace(file, content=c) for (u, file), c in zip(files.items(), contents, strict=True)}


def _known(store: FileStore, cursor: Cursor) -> dict[str, _ConsumedFile]:
    files: Mapping[str, tuple[int, int, str]] = cursor.of_kind(KIND)["files"]
    fields = zip(store.recorded(files), files.values(), strict=True)
    return {location: _ConsumedFile(*values) for location, values in fields}


def _cursor(files: Mapping[str, _ConsumedFile]) -> Cursor:
    return Cursor(KIND, {"files": {u: [f.size_bytes, f.time_ns, f.content] for u, f in sorted(files.items())}})
