"""Objects of a system that its client lists by name, such as collections of documents; one connector reads each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.connectors.discovery.system import first_rows
from pipeline.core.discovery import DiscoveredObject, DiscoveryLimits, ReaderCall, matching_names
from pipeline.core.errors import Place, SourceError


@dataclass(frozen=True)
class NamedDiscovery:
    """See `Discoverable`."""

    uri: str
    kind: str
    """What each object is, such as `collection`."""
    connector: Callable[..., Any]
    """The function that creates the reader of an object."""
    names: Callable[[int], Iterable[str]]
    """Returns the names; of more than its argument, at least as many."""
    arguments: Callable[[str], tuple[object, ...]]
    """Returns the positional arguments of `connector` for a name."""
    options: tuple[tuple[str, object], ...] = ()
    """Its other arguments."""
    only: str = ""
    """The object that was asked for; empty for all."""
    key: tuple[str, ...] = ()

    def objects(self, limits: DiscoveryLimits) -> Sequence[DiscoveredObject]:
        """Return the objects; raise `SourceError` if there is none of the name that was asked for."""
        most = limits.objects + 1
        names = matching_names(sorted(set(self.names(1 << 62 if self.only else most))), self.only)
        if self.only and not names:
            raise SourceError(f"there is no such {self.kind}", got=repr(self.only), place=Place(self.uri))
        return [self.described(name) for name in names[:most]]

    def described(self, name: str) -> DiscoveredObject:
        """Return what is known of an object."""
        call = ReaderCall(self.connector.__name__, self.arguments(name), self.options)
        return DiscoveredObject(name, self.kind, call, self.key)

    def reader(self, name: str) -> Any:
        """Return the reader of an object."""
        return self.connector(*self.arguments(name), **dict(self.options))

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return the first rows of an object."""
        return first_rows(self.reader(discovered.name), limits)
