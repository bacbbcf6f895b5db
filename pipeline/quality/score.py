"""The quality score of a table."""

from __future__ import annotations

from collections.abc import Iterable


def score(checks: Iterable[tuple[int, int]]) -> float | None:
    """Return the mean percentage of rows that satisfy each expectation, or `None` if no rows were validated.

    Each check is `(rows, violations)`. All expectations have equal weight, regardless of their action.
    """
    shares = [1 - violations / rows for rows, violations in checks if rows]
    return 100 * sum(shares) / len(shares) if shares else None
