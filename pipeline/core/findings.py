"""What a check of a machine, a project or a source found: `headwater doctor` prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from pipeline.core.errors import HeadwaterError


class FindingState(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong now, but somebody should know."""
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was checked, its state, and for a note or a problem what to do."""

    what: str
    state: FindingState
    detail: str


def checked(what: str, check: Callable[[], Iterable[Finding]]) -> Iterable[Finding]:
    """Return what a check found; an error of Headwater's is a bad finding about `what`."""
    try:
        return tuple(check())
    except HeadwaterError as error:
        return (Finding(what, FindingState.BAD, str(error)),)
