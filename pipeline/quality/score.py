"""One number for how well a table's rows meet what is expected of them."""

from __future__ import annotations

from collections.abc import Iterable


def score(checks: Iterable[tuple[int, int]]) -> float | None:
    """Return the mean share of rows that meet each expectation, in percent, or `None` when nothing was judged.

    Each check is `(rows, violations)`; every expectation counts alike, whatever its action.
    """
    shares = [1 - violations / rows for rows, violations in checks if rows]
    return 100 * sum(shares) / len(shares) if shares else None
