"""What the state of a stream is by its definition, and how two of these differ.

It is made of what the user wrote (the statement, keys, bounds, the code of a function) and of the types of the inputs,
never of SQL that Headwater generates nor of the names of its classes, so that an upgrade keeps the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.schema import Schema


@dataclass(frozen=True)
class StateIdentity:
    """The identity of a state. The parts are short texts that an error can show, by what they say."""

    kind: str
    """Of the operator, for example `tumble` or `interval join`."""
    version: int
    """Of the columns in which that operator keeps its state."""
    layout: Mapping[str, str]
    """What decides which columns the state has, how it is dealt to shards, and when rows come out of it."""
    rules: Mapping[str, str]
    """What decides which rows are in it."""

    def change_of_layout(self, before: StateIdentity) -> str | None:
        """Return in words why a state of `before` cannot be read as this one; `None` when it can."""
        if before.kind != self.kind:
            return f"its operator changed: {before.kind} before, {self.kind} now"
        if before.version != self.version:
            return f"the format of the state of a {self.kind} changed: {before.version} before, {self.version} now"
        return _first_change(before.layout, self.layout)

    def change_of_rules(self, before: StateIdentity) -> str | None:
        """Return in words why a state of `before` holds other rows than this one would; `None` when it does not."""
        return _first_change(before.rules, self.rules)

    def change(self, before: StateIdentity) -> str | None:
        """Return in words how a state of `before` differs; `None` when it is this one."""
        return self.change_of_layout(before) or self.change_of_rules(before)


def identity_of(parts: Mapping[str, object] | None) -> StateIdentity | None:
    """Return what `dataclasses.asdict` made of an identity."""
    return None if parts is None else StateIdentity(**parts)  # type: ignore[arg-type]


def columns_part(name: str, schema: Schema, event_time: str | None = None) -> dict[str, str]:
    """Return the part of a layout that says which columns of an input are read, and which one is its event time."""
    marks = {event_time: " (event time)"}
    return {f"columns of {name!r}": ", ".join(f"{c.name} {c.type}{marks.get(c.name, '')}" for c in schema.columns)}


def _first_change(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    for part in sorted({*before, *now}):
        old, new = before.get(part, "none"), now.get(part, "none")
        if old != new:
            return f"its {part} changed: {old} before, {new} now"
    return None
