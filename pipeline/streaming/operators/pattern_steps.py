"""The definition of a pattern: its steps, and how matches become rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.core.errors import Place

Contiguity = Literal["first", "relaxed", "strict", "absent"]
"""The relation of a step to the previous one: none; rows may come between; no rows may; or it must not occur."""


_WORDS = {
    "first": "event",
    "relaxed": "followed by",
    "strict": "directly followed by",
    "absent": "not followed by",
}


@dataclass(frozen=True)
class Step:
    """One step of a pattern: the name of its event, and the rows that it accepts."""

    name: str
    table: str
    where: str
    contiguity: Contiguity
    times: int
    or_more: bool
    place: Place

    def __str__(self) -> str:
        """Return a description without the condition: `followed by high of ticks 2 times`."""
        times = f" {self.times} times" if self.times > 1 else ""
        return f"{_WORDS[self.contiguity]} {self.name} of {self.table}{times}{' or more' * self.or_more}"

    @property
    def is_list(self) -> bool:
        """Whether its event is a list of rows."""
        return self.times > 1 or self.or_more


@dataclass(frozen=True)
class Pattern:
    """A validated pattern."""

    steps: tuple[Step, ...]
    by: tuple[str, ...]
    within_us: int
    event_times: tuple[tuple[str, str], ...]
    """The tables with their event time columns. Rows with equal times are ordered by table in this order."""
    select: tuple[tuple[str, str], ...]
    overlapping: bool

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that the steps read."""
        return tuple(table for table, _ in self.event_times)

    @cached_property
    def events(self) -> tuple[Step, ...]:
        """The steps whose events are part of a match."""
        return tuple(step for step in self.steps if step.contiguity != "absent")

    def forbidden(self, number: int) -> tuple[Step, ...]:
        """Return the steps whose events must not come before event `number`; after the last one, at the end."""
        forbidden_steps: list[Step] = []
        passed = 0
        for step in self.steps:
            if step.contiguity != "absent":
                passed += 1
            elif passed == number:
                forbidden_steps.append(step)
        return tuple(forbidden_steps)

    @property
    def ends_open(self) -> bool:
        """Whether a match is complete only when `within` has expired."""
        return self.steps[-1].contiguity == "absent" or self.steps[-1].or_more
