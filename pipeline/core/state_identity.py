"""The identity of a stream's state, derived from its definition, and the difference between two identities.

It consists of what the user wrote (the statement, keys, bounds, the code of a function) and the types of the inputs. It
never contains generated SQL or names of classes, so the state remains valid after an upgrade.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.core.schema import Schema

_COLUMNS = "columns of "
_SEPARATOR = re.compile(r", (?![^(]*\))")
"""What separates columns, but not the parts of a nested type."""


@dataclass(frozen=True)
class StateIdentity:
    """The identity of a state. Its parts are short texts, by name, that can be shown in an error."""

    kind: str
    """The kind of operator, for example `tumble` or `interval join`."""
    version: int
    """The version of the operator's state columns."""
    layout: Mapping[str, str]
    """What determines the columns of the state, its distribution to shards, and when rows are emitted."""
    rules: Mapping[str, str]
    """What determines the rows of the state."""

    def change_of_layout(self, before: StateIdentity) -> str | None:
        """Return why a state with the identity `before` cannot be read; `None` if it can."""
        if before.kind != self.kind:
            return f"its operator changed: {before.kind} before, {self.kind} now"
        if before.version != self.version:
            return f"the format of the state of a {self.kind} changed: {before.version} before, {self.version} now"
        return _first_change(before.layout, self.layout)

    def change_of_rules(self, before: StateIdentity) -> str | None:
        """Return why a state with the identity `before` contains other rows; `None` if it does not."""
        return _first_change(before.rules, self.rules)

    def widens(self, before: StateIdentity, is_wider: Callable[[str, str], bool]) -> bool:
        """Return whether the same columns are read as `before`, some with wider types, under the same rules.

        Other parts of the layout may follow from these types. `is_wider` tells whether a type, its first argument, may
        be replaced by another.
        """
        if (before.kind, before.version, before.rules) != (self.kind, self.version, self.rules):
            return False
        then, current = _columns_of(before), _columns_of(self)
        return (
            then != current
            and [*then] == [*current]
            and all(_columns_widen(columns, current[name], is_wider) for name, columns in then.items())
        )

    def change(self, before: StateIdentity) -> str | None:
        """Return how a state with the identity `before` differs; `None` if it does not."""
        return self.change_of_layout(before) or self.change_of_rules(before)


def identity_of(parts: Mapping[str, object] | None) -> StateIdentity | None:
    """Return an identity from the result of `dataclasses.asdict`."""
    return None if parts is None else StateIdentity(**parts)  # type: ignore[arg-type]


def columns_part(name: str, schema: Schema, event_time: str | None = None) -> dict[str, str]:
    """Return the part of a layout with the columns that are read from an input, and its event time."""
    marks = {event_time: " (event time)"}
    return {f"{_COLUMNS}{name!r}": ", ".join(f"{c.name} {c.type}{marks.get(c.name, '')}" for c in schema.columns)}


def _first_change(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    for part in sorted({*before, *now}):
        old, new = before.get(part, "none"), now.get(part, "none")
        if old != new:
            return f"its {part} changed: {old} before, {new} now"
    return None


def _columns_of(identity: StateIdentity) -> dict[str, str]:
    return {name: columns for name, columns in sorted(identity.layout.items()) if name.startswith(_COLUMNS)}


def _columns_widen(before: str, now: str, is_wider: Callable[[str, str], bool]) -> bool:
    """Return whether two parts of `columns_part` have the same columns, of which some have wider types now."""
    then, current = _SEPARATOR.split(before), _SEPARATOR.split(now)
    return len(then) == len(current) and all(
        old == new or _column_widens(old, new, is_wider) for old, new in zip(then, current, strict=True)
    )


def _column_widens(before: str, now: str, is_wider: Callable[[str, str], bool]) -> bool:
    name, _, kind = before.rpartition(" ")
    other, _, wider = now.rpartition(" ")
    return name == other and is_wider(kind, wider)
