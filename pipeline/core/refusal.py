"""Why something cannot be done, where that is an answer and no error."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Returned in place of a result: the reason, as the end of a sentence, with the way out where there is one."""

    reason: str

    def __str__(self) -> str:
        """Return the reason."""
        return self.reason
