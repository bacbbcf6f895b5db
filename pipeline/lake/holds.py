"""Holds: versions of a table that something still needs, such as a savepoint, an environment or a registered model.

A hold is a small file beside the table, so every writer of the lake sees it without the catalog. Vacuum removes no file
that a held version needs, and the version can be opened until the hold is released or its time is over.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass

from pipeline.core.clock import Clock, now
from pipeline.core.errors import RequestError
from pipeline.core.format_versions import require_known
from pipeline.lake.storage import Storage

FOLDER = "_headwater/holds/"
FORMAT_VERSION = 1
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")


@dataclass(frozen=True)
class Hold:
    """A version of a table that must stay readable."""

    id: str
    """The name of the hold, unique in its table; holding again under the same name replaces it."""
    version: int
    reason: str
    """What needs the version, as shown to users."""
    by: str = ""
    """Who placed the hold."""
    until: str = ""
    """When the hold ends by itself, ISO 8601 in UTC; empty: when it is released."""
    format_version: int = FORMAT_VERSION

    def is_over(self, at: dt.datetime) -> bool:
        """Return whether the time of the hold is over."""
        return bool(self.until) and dt.datetime.fromisoformat(self.until) <= at


def place_hold(storage: Storage, hold: Hold) -> None:
    """Hold a version of the table at `storage`; durable when this returns. Check afterwards that it can be opened."""
    if not _ID.fullmatch(hold.id):
        raise RequestError(
            "the id of a hold must consist of letters, digits, '.', '_' and '-'", got=repr(hold.id), do="use another id"
        )
    storage.write_text(f"{FOLDER}{hold.id}.json", json.dumps(asdict(hold), sort_keys=True))


def has_hold(storage: Storage, hold_id: str) -> bool:
    """Return whether there is a hold of this name, also if its time is over."""
    return storage.has(f"{FOLDER}{hold_id}.json")


def release_hold(storage: Storage, hold_id: str) -> None:
    """Release a hold, if it exists."""
    name = f"{FOLDER}{hold_id}.json"
    if storage.has(name):
        storage.remove([name])


def holds(storage: Storage, clock: Clock = now) -> tuple[Hold, ...]:
    """Return the holds of the table at `storage` whose time is not over, by version."""
    names = [name for name in storage.names(FOLDER) if name.endswith(".json")]
    every = (_of_json(storage, text.decode()) for text in storage.read_existing(names).values())
    return tuple(sorted((h for h in every if not h.is_over(clock())), key=lambda hold: (hold.version, hold.id)))


def held_versions(storage: Storage, clock: Clock = now) -> frozenset[int]:
    """Return the versions that are held."""
    return frozenset(hold.version for hold in holds(storage, clock))


def holders(every: Collection[Hold], version: int) -> tuple[str, ...]:
    """Return what needs a version."""
    return tuple(hold.reason for hold in every if hold.version == version)


def _of_json(storage: Storage, text: str) -> Hold:
    parts = json.loads(text)
    what = f"a hold of {storage.uri}"
    require_known(parts.get("format_version"), FORMAT_VERSION, what, "upgrade Headwater")
    return Hold(**parts)
