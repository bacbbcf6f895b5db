"""What a pattern is: steps of events, and how their matches become rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pipeline.core.errors import Place

Contiguity = Literal["first", "relaxed", "strict", "absent"]
"""How a step stands to the one before: nothing before it, any rows between, none between, or it must not come."""


_WORDS = {
    "first": "event",
    "relaxed": "followed by",
    "strict": "directly followed by",
    "absent": "not followed by",
}


@dataclass(frozen=True)
class Step:
    """One step of a pattern: what its event is called, and which rows it takes."""

    name: str
    table: str
    where: str
    contiguity: Contiguity
    times: int
    or_more: bool
    place: Place

    def __str__(self) -> str:
        """Return it in words, without its condition: `followed by high of ticks, 2 times`."""
        times = f" {self.times} times" if self.times > 1 else ""
        return f"{_WORDS[self.contiguity]} {self.name} of {self.table}{times}{' or more' * self.or_more}"

    @property
    def is_list(self) -> bool:
        """Whether its event is a list of rows."""
        return self.times > 1 or self.or_more


@dataclass(frozen=True)
class Pattern:
    """A pattern, checked."""

    steps: tuple[Step, ...]
    by: tuple[str, ...]
    within_us: int
    event_times: tuple[tuple[str, str], ...]
    """The tables, in the order of their rows of one time, with their event times."""
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
        """Return the events that must not come before the event of a number; for the number after the last, at the end."""
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
        """Whether a match is complete only when its time is over."""
        return self.steps[-1].contiguity == "absent" or self.steps[-1].or_more
