"""What a system contains that a source could read: its tables, files, topics or endpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class ReaderCall:
    """A call of a function of the package `pipeline` that creates a reader, as it is written in definitions."""

    function: str
    arguments: tuple[object, ...]
    options: tuple[tuple[str, object], ...] = ()

    def code(self) -> str:
        """Return the call as Python code."""
        parts = [*map(_literal, self.arguments), *(f"{name}={_literal(value)}" for name, value in self.options)]
        return f"{self.function}({', '.join(parts)})"

    def having(self, **options: object) -> ReaderCall:
        """Return the call with more options."""
        return replace(self, options=(*self.options, *options.items()))


@dataclass(frozen=True)
class DiscoveredObject:
    """Something that one source could read."""

    name: str
    kind: str
    """What it is, such as `table`, `CSV files` or `topic`."""
    reader: ReaderCall
    key: tuple[str, ...] = ()
    """The columns that the system declares as the key."""
    rows: int | None = None
    """The number of rows as the system knows it, which may be an estimate."""
    size_bytes: int | None = None
    partitioning: str = ""
    """How it is divided, such as `by the folders year=, month=` or `6 partitions`; empty if it is not, or not known."""
    notes: tuple[str, ...] = ()
    """What else is known, one sentence each."""


@dataclass(frozen=True)
class DiscoveryLimits:
    """How much of a system is looked at."""

    rows: int = 1_000
    """Of each object."""
    size_bytes: int = 8 << 20
    """Of each object, as far as it can be read in parts."""
    objects: int = 100
    time_s: float = 60.0


class Discoverable(Protocol):
    """A system that can say what it contains. Nothing is written to it."""

    @property
    def uri(self) -> str:
        """Where it is, without credentials."""

    def objects(self, limits: DiscoveryLimits) -> Sequence[DiscoveredObject]:
        """Return what it contains, ordered by name, at most `limits.objects + 1`; raise `SourceError` if it is unavailable."""

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return some rows of an object, with their types; raise `SourceError` if it cannot be read."""


def matching_names(names: Iterable[str], wanted: str) -> list[str]:
    """Return the names that a name stands for: itself, otherwise those whose last part it is; all for an empty one.

    `orders` stands for `public.orders`, if nothing else is called `orders`.
    """
    every = list(names)
    if not wanted or wanted in every:
        return [name for name in every if not wanted or name == wanted]
    return [name for name in every if re.split(r"[.:/]", name)[-1] == wanted]


def _literal(value: object) -> str:
    if isinstance(value, str):
        text = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{text}"' if text.isprintable() else repr(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(name)}: {_literal(each)}" for name, each in value.items()) + "}"
    return repr(value)
