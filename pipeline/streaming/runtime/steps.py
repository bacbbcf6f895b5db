"""The steps of a commit. Metrics count them, and fault tests stop a stream at each one."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class CommitStep(StrEnum):
    """The steps of a commit, in order."""

    STAGED = "staged"
    """The rows are written, but nothing refers to them."""
    SAVED = "saved"
    """The state is written, but nothing refers to it."""
    COMMITTED = "committed"
    """The table contains the epoch."""
    SETTLED = "settled"
    """The quarantine is updated."""


OnStep = Callable[[CommitStep], None]
"""Called when a step is reached."""
