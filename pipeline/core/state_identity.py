"""The identity of a stream's state, derived from its definition, and the difference between two identities.

It consists of what the user wrote (the statement, keys, bounds, the code of a function) and the types of the inputs. It
never contains generated SQL or names of classes, so the state remains valid after an upgrade.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.schema import Schema


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

    def change(self, before: StateIdentity) -> str | None:
        """Return how a state with the identity `before` differs; `None` if it does not."""
        return self.change_of_layout(before) or self.change_of_rules(before)


def identity_of(parts: Mapping[str, object] | None) -> StateIdentity | None:
    """Return an identity from the result of `dataclasses.asdict`."""
    return None if parts is None else StateIdentity(**parts)  # type: ignore[arg-type]


def columns_part(name: str, schema: Schema, event_time: str | None = None) -> dict[str, str]:
    """Return the part of a layout with the columns that are read from an input, and its event time."""
    marks = {event_time: " (event time)"}
    return {f"columns of {name!r}": ", ".join(f"{c.name} {c.type}{marks.get(c.name, '')}" for c in schema.columns)}


def _first_change(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    for part in sorted({*before, *now}):
        old, new = before.get(part, "none"), now.get(part, "none")
        if old != new:
            return f"its {part} changed: {old} before, {new} now"
    return None
