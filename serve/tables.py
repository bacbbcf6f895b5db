"""The tables that are served, and the version that a request reads."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.core.definitions import Layer, StoredDefinition
from pipeline.core.errors import StorageError, did_you_mean
from pipeline.kernel.planner.pruning import value_conditions
from pipeline.kernel.scan import Scan
from pipeline.lake import Version, files_for
from pipeline.project.workspace import Workspace
from serve.http_errors import GoneError, UnknownError
from serve.query import COMPARISONS, Filter, shown

FRESH_S = 1.0
"""How long a version is used as the newest before the lake is read again, in seconds."""
_PINNED = 64


@dataclass(frozen=True)
class _Seen:
    version: Version | None
    at: float


class Tables:
    """A project's tables of some layers. Versions are read from the lake at most once a second per table.

    Tables of other layers are not served. Thread-safe.
    """

    def __init__(
        self, workspace: Workspace, layers: Collection[Layer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create the collection without reading anything. `clock` returns seconds."""
        stored = workspace.project.graph.all_of(StoredDefinition)
        self._definitions = {d.name: d for d in stored if d.layer in layers}
        self._workspace = workspace
        self._clock = clock
        self._locks = {name: threading.Lock() for name in self._definitions}
        self._newest: dict[str, _Seen] = {}
        self._pinned: OrderedDict[tuple[str, int], Version] = OrderedDict()

    @property
    def definitions(self) -> tuple[StoredDefinition, ...]:
        """The definitions, in dependency order."""
        return tuple(self._definitions.values())

    def definition(self, name: str) -> StoredDefinition:
        """Return a table's definition; raise `UnknownError` if it is not served."""
        if name not in self._definitions:
            raise UnknownError(f"there is no table {shown(name)}", do=did_you_mean(name[:200], self._definitions))
        return self._definitions[name]

    def newest(self, name: str) -> Version | None:
        """Return the newest version, at most `FRESH_S` old, or `None` if the table is not computed yet.

        Raises `StorageError` if it cannot be read.
        """
        self.definition(name)
        with self._locks[name]:
            seen = self._newest.get(name)
            if seen is None or self._clock() - seen.at > FRESH_S:
                seen = _Seen(self._read(name), self._clock())
                self._newest[name] = seen
            return seen.version

    def version(self, name: str, number: int | None = None) -> Version:
        """Return the newest or a given version.

        Raises `UnknownError` if it does not exist, `GoneError` if it is no longer available.
        """
        newest = self.newest(name)
        if newest is None:
            raise UnknownError(f"table {name!r} is not computed yet", do="run the project, then try again")
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

    def version_at(self, name: str, time: datetime) -> Version:
        """Return the newest version committed at or before a time; raise as `version` does."""
        newest = self.version(name)
        try:
            number = self._workspace.table(name).number_at(time)
        except StorageError as error:
            raise GoneError(error.problem, got=error.got, do=error.do) from error
        return self.version(name, min(number, newest.number))

    def scan(self, name: str, version: Version, filters: Sequence[Filter]) -> Scan:
        """Return the rows of a version that may satisfy the filters, without the files that they exclude."""
        conditions = [
            each
            for one in filters
            for each in value_conditions(one.column, COMPARISONS.get(one.operator, one.operator), one.values)
        ]
        table = self._workspace.table(name)
        files = files_for(table, version, conditions)
        self._workspace.reads.note(table.storage.uri, files)
        return replace(version.scan(), files=files)

    def _kept(self, name: str, number: int) -> Version:
        try:
            version = self._read(name, number)
        except StorageError as error:
            raise gone(name, number) from error
        if version is None:
            raise gone(name, number)
        return version

    def _read(self, name: str, number: int | None = None) -> Version | None:
        try:
            return self._workspace.table(name).version(number)
        except OSError as error:
            raise StorageError(f"table {name!r} cannot be read", got=error.strerror or str(error)) from error


def gone(name: str, number: int) -> GoneError:
    """Return the error for a version that is no longer available."""
    return GoneError(
        f"this version of table {name!r} is no longer available", got=str(number), do="start again without version="
    )
