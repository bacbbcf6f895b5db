"""The tables that are served, and which of their versions a request sees."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from pipeline.core.definitions import Layer, StoredDefinition
from pipeline.core.errors import StorageError, did_you_mean
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from serve.query import shown
from serve.refusals import GoneError, UnknownError

FRESH_S = 1.0
"""How old the newest version that a request sees may be."""
_PINNED = 64


@dataclass(frozen=True)
class _Seen:
    version: Version | None
    at: float


class Tables:
    """A project's tables of some layers. Versions are read from the lake at most once a second per table.

    The tables of other layers are not there for any request. Safe to use from several threads.
    """

    def __init__(
        self, workspace: Workspace, layers: Collection[Layer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep what to serve; nothing is read yet. `clock` gives seconds."""
        stored = workspace.project.graph.all_of(StoredDefinition)
        self._definitions = {d.name: d for d in stored if d.layer in layers}
        self._workspace = workspace
        self._clock = clock
        self._locks = {name: threading.Lock() for name in self._definitions}
        self._newest: dict[str, _Seen] = {}
        self._pinned: OrderedDict[tuple[str, int], Version] = OrderedDict()

    @property
    def definitions(self) -> tuple[StoredDefinition, ...]:
        """The definitions, inputs before what reads them."""
        return tuple(self._definitions.values())

    def definition(self, name: str) -> StoredDefinition:
        """Return a table's definition; raise `UnknownError` when it is not served."""
        if name not in self._definitions:
            raise UnknownError(f"there is no table {shown(name)}", do=did_you_mean(name[:200], self._definitions))
        return self._definitions[name]

    def newest(self, name: str) -> Version | None:
        """Return the newest version, at most `FRESH_S` old, or `None` when the table is not made yet.

        Raises `StorageError` when it cannot be read.
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

        Raises `UnknownError` when there is none, `GoneError` when it is no longer kept.
        """
        newest = self.newest(name)
        if newest is None:
            raise UnknownError(f"table {name!r} is not made yet", do="run the project, then ask again")
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
    """Return the refusal of a version that is no longer kept."""
    return GoneError(
        f"this version of table {name!r} is no longer kept", got=str(number), do="start again without version="
    )
