"""The findings of checks of the machine, the project and its sources, printed by `headwater doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FindingState(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    NOTE = "note"
    """Not a problem, but the user should know."""
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """The subject of a check, its state, and a detail: for notes and problems, what to do."""

    what: str
    state: FindingState
    detail: str
