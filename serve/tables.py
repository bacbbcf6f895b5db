"""The tables that are served, and the version that a request reads."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from pipeline.core.definitions import Layer, StoredDefinition
from pipeline.core.errors import StorageError, did_you_mean
from pipeline.kernel.planner.pruning import value_conditions
from pipeline.kernel.scan import DataFile, Scan
from pipeline.lake import Version, files_for
from pipeline.lake.changed_rows import changed_scans
from pipeline.project.workspace import Workspace
from serve.hot_tables import HotTables
from serve.http_errors import GoneError, UnknownError
from serve.queries.query import ColumnCondition
from serve.queries.values import shown

FRESH_S = 1.0
"""How long a version is used as the newest before the lake is read again, in seconds."""
_EXPECTED_S = 0.01
"""How long it is used if another process has seen another one."""
_PINNED = 64


@dataclass(frozen=True)
class _Seen:
    version: Version | None
    at: float

    @cached_property
    def identity(self) -> str:
        return "" if self.version is None else identity_of(self.version)


class Tables:
    """A project's tables of some layers, and those that access policies name. Versions are read at most once a second per table.

    Other tables are not served. Thread-safe.
    """

    def __init__(
        self, workspace: Workspace, layers: Collection[Layer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the collection without reading anything. `clock` returns seconds."""
        stored = workspace.project.graph.all_of(StoredDefinition)
        named = {name for policy in workspace.project.access for name in policy.tables}
        self._definitions = {d.name: d for d in stored if d.layer in layers or named & {d.name, d.layer}}
        self._workspace = workspace
        self._clock = clock
        self._locks = {name: threading.Lock() for name in self._definitions}
        self._newest: dict[str, _Seen] = {}
        self._pinned: OrderedDict[tuple[str, int], Version] = OrderedDict()
        self.hot: HotTables | None = None
        """Copies of tables that are asked for often."""
        self.is_draining = False
        """Whether the server ends, so that subscriptions do."""
        self.announce: Callable[[str, str], None] | None = None
        """Called with the name and the identity of each version that is newer than the one before; must not wait."""

    @property
    def definitions(self) -> tuple[StoredDefinition, ...]:
        """The definitions, in dependency order."""
        return tuple(self._definitions.values())

    def definition_or_none(self, name: str) -> StoredDefinition | None:
        """Return a table's definition, or `None` if it is not served."""
        return self._definitions.get(name)

    def newest(self, name: str) -> Version | None:
        """Return the newest version, at most `FRESH_S` old, or `None` if the table is not computed yet.

        Raises `StorageError` if it cannot be read.
        """
        with self._locks[name]:
            seen = self._newest.get(name)
            if seen is None or self._clock() - seen.at > FRESH_S:
                before, seen = seen, _Seen(self._read(name), self._clock())
                self._newest[name] = seen
                if before is not None and before.identity != seen.identity and self.announce is not None:
                    self.announce(name, seen.identity)
            return seen.version

    def expect(self, name: str, identity: str) -> None:
        """Read the lake again soon, because another process has seen this version of a table; never waits."""
        seen = self._newest.get(name)
        if seen is not None and seen.identity != identity:
            at = min(seen.at, self._clock() - FRESH_S + _EXPECTED_S)
            self._newest[name] = replace(seen, at=at)

    def known(self, name: str) -> str | None:
        """Return the identity of the newest version if it was read less than `FRESH_S` ago, without waiting for anything."""
        seen = self._newest.get(name)
        if seen is None or seen.version is None or self._clock() - seen.at > FRESH_S:
            return None
        return seen.identity

    def version(self, name: str, number: int | None = None, time: datetime | None = None) -> Version:
        """Return the newest version, the one with a number, or the newest committed at or before a time.

        Raises `UnknownError` if it does not exist, `GoneError` if it is no longer available.
        """
        newest = self.newest(name)
        if newest is None:
            raise UnknownError(f"table {name!r} is not computed yet", do="run the project, then try again")
        if time is not None:
            number = min(self._number_at(name, time), newest.number)
        if number is None or number == newest.number:
            return newest
        if number > newest.number:
            raise UnknownError(
                f"table {name!r} has no such version", got=str(number), do=f"its newest version is {newest.number}"
            )
        with self._locks[name]:
            if (name, number) not in self._pinned:
                self._pinned[name, number] = self._kept(name, number)
                if len(self._pinned) > _PINNED:
                    self._pinned.popitem(last=False)
            return self._pinned[name, number]

    def rows(self, name: str, version: Version, conditions: Sequence[ColumnCondition] = ()) -> str:
        """Return a SELECT of the rows of a version that may satisfy all conditions, from a copy if there is one."""
        newest = self._newest.get(name)
        if self.hot is not None and newest is not None and newest.version is version:
            copied = self.hot.rows(self._definitions[name], newest.identity, lambda: self.scan(name, version))
            if copied is not None:
                return copied
        return self.scan(name, version, conditions).query()

    def changed(self, name: str, before: Version, after: Version) -> tuple[str, str]:
        """Return a SELECT of the rows of each of two versions, without the files that both have."""
        scans = changed_scans(before, after)
        for scan in scans:
            self._note(name, scan.files)
        return scans[0].query(), scans[1].query()

    def scan(self, name: str, version: Version, conditions: Sequence[ColumnCondition] = ()) -> Scan:
        """Return the rows of a version that may satisfy all conditions, without the files that these exclude."""
        bounds = [
            each
            for one in conditions
            if not one.quantifier
            for each in value_conditions(one.column, one.operator, one.values)
        ]
        files = files_for(self._workspace.table(name), version, bounds)
        self._note(name, files)
        return replace(version.scan(), files=files)

    def _note(self, name: str, files: Sequence[DataFile]) -> None:
        self._workspace.reads.note(self._workspace.table(name).storage.uri, files)

    def _number_at(self, name: str, time: datetime) -> int:
        try:
            return self._workspace.table(name).number_at(time)
        except StorageError as error:
            raise GoneError(error.problem, got=error.got, do=error.do) from error

    def _kept(self, name: str, number: int) -> Version:
        try:
            version = self._read(name, number)
        except StorageError as error:
            raise _gone(name, number) from error
        if version is None:
            raise _gone(name, number)
        return version

    def _read(self, name: str, number: int | None = None) -> Version | None:
        try:
            return self._workspace.table(name).version(number)
        except OSError as error:
            raise StorageError(f"table {name!r} cannot be read", got=error.strerror or str(error)) from error


def identity_of(version: Version) -> str:
    """Return a text that no other version of the table has, also none of a table that was forgotten and made again."""
    files = (version.files[0].uri, version.files[-1].uri) if version.files else ()
    decisive = (version.manifest_id, files, len(version.files))
    return f"{version.number}-{hashlib.sha256(repr(decisive).encode()).hexdigest()[:16]}"


@contextmanager
def reading_files(name: str, number: int, *, is_pinned: bool) -> Iterator[None]:
    """Raise `GoneError` if files of a version cannot be read within the context and the request has named it: they may be removed."""
    try:
        yield
    except StorageError as error:
        if not is_pinned:
            raise
        raise _gone(name, number) from error


def _gone(name: str, number: int) -> GoneError:
    return GoneError(
        f"this version of table {name!r} is no longer available", got=str(number), do="read the newest version"
    )


def unknown_table(name: str, known: Collection[str]) -> UnknownError:
    """Return the error for a table that does not exist, or that the caller may not read."""
    return UnknownError(f"there is no table {shown(name)}", do=did_you_mean(name[:200], known))
