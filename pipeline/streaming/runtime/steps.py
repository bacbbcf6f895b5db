"""The steps of a commit, heard by metrics and by tests that stop a stream anywhere."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class CommitStep(StrEnum):
    """The steps of a commit, in their order."""

    STAGED = "staged"
    """The rows are written, and nothing refers to them."""
    SAVED = "saved"
    """So is the state."""
    COMMITTED = "committed"
    """The table has the epoch."""
    SETTLED = "settled"
    """The quarantine has it too."""


OnStep = Callable[[CommitStep], None]
"""Hears each step when it is reached."""
