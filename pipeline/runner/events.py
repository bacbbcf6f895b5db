"""The events of a run, in order, for progress bars, logs, and tests that stop it at any point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.commit.moments import Moment

if TYPE_CHECKING:
    from pipeline.governance import StepRecord


@dataclass(frozen=True)
class Event:
    """A moment that was just reached, for one definition or (`begun`, `ended`) for the run."""

    moment: Moment
    run_id: str
    name: str = ""
    note: str = ""
    step: StepRecord | None = None
    work: StepProgress | None = None


@dataclass(frozen=True)
class StepProgress:
    """The progress of a step: the completed share, and the total input."""

    share: float
    rows: int
    size_bytes: int
    stage: str = ""
    """What the step does, if it has several stages."""


Observer = Callable[[Event], None]


def no_observer(event: Event) -> None:
    """Ignore all events."""
    del event
