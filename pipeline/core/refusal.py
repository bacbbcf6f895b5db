"""A result that explains why something is not possible, where this is not an error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Returned instead of a result: the reason as a clause, with a suggestion if there is one."""

    reason: str

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason
