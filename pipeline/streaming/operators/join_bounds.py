"""Derives how far apart in event time two joined rows may be, from the conditions of the join.

A condition counts if it compares the two event times, each plus or minus constant intervals:
`b.ts between a.ts - interval 5 minutes and a.ts`, `a.ts < b.ts + interval '1 hour'`, `b.ts - a.ts <= interval 1 day`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import duckdb
from sqlglot import exp

from pipeline.kernel.engine import connect, one

Side = int
"""0 for the left of a join, 1 for the right."""


@dataclass(frozen=True)
class Bounds:
    """The time of the right row minus that of the left row, in microseconds: from `low` to `high`, both inclusive."""

    low: int | None = None
    high: int | None = None

    def narrowed(self, low: int | None = None, high: int | None = None) -> Bounds:
        """Return the intersection with other bounds."""
        lows = [value for value in (self.low, low) if value is not None]
        highs = [value for value in (self.high, high) if value is not None]
        return Bounds(max(lows, default=None), min(highs, default=None))


@dataclass(frozen=True)
class _Sum:
    """A linear expression: a multiple of the left and of the right event time, plus microseconds."""

    left: int = 0
    right: int = 0
    micros: int = 0

    def plus(self, other: _Sum, sign: int) -> _Sum:
        return _Sum(self.left + sign * other.left, self.right + sign * other.right, self.micros + sign * other.micros)


def bounds_of(conjuncts: Iterable[exp.Expr], time_of: Callable[[exp.Column], Side | None]) -> Bounds:
    """Return the bounds that all conditions imply. `time_of` returns the side whose event time a column is."""
    bounds = Bounds()
    for low, high in (pair for conjunct in conjuncts for pair in _at_most(conjunct)):
        left, right = _sum(low, time_of), _sum(high, time_of)
        if left is None or right is None:
            continue
        total = left.plus(right, -1)  # at most 0
        if (total.left, total.right) == (-1, 1):
            bounds = bounds.narrowed(high=-total.micros)
        elif (total.left, total.right) == (1, -1):
            bounds = bounds.narrowed(low=total.micros)
    return bounds


def _at_most(condition: exp.Expr) -> list[tuple[exp.Expr, exp.Expr]]:
    """Return the pairs of expressions for which a condition implies that the first is at most the second."""
    if isinstance(condition, exp.Between):
        return [(condition.args["low"], condition.this), (condition.this, condition.args["high"])]
    if isinstance(condition, exp.LT | exp.LTE):
        return [(condition.this, condition.expression)]
    if isinstance(condition, exp.GT | exp.GTE):
        return [(condition.expression, condition.this)]
    if isinstance(condition, exp.EQ):
        return [(condition.this, condition.expression), (condition.expression, condition.this)]
    return []


def _sum(node: exp.Expr, time_of: Callable[[exp.Column], Side | None]) -> _Sum | None:
    if isinstance(node, exp.Paren):
        return _sum(node.this, time_of)
    if isinstance(node, exp.Column):
        side = time_of(node)
        return None if side is None else _Sum(left=1 - side, right=side)
    if isinstance(node, exp.Add | exp.Sub):
        first, second = _sum(node.this, time_of), _sum(node.expression, time_of)
        sign = 1 if isinstance(node, exp.Add) else -1
        return None if first is None or second is None else first.plus(second, sign)
    if next(node.find_all(exp.Column, exp.Query), None) is None:
        micros = _micros(node.sql("duckdb"))
        return None if micros is None else _Sum(micros=micros)
    return None


@functools.lru_cache(maxsize=256)
def _micros(interval: str) -> int | None:
    """Return the length of a constant interval, or `None` for months, whose length depends on the date."""
    ends = ", ".join(f"epoch_us(timestamp '{day}' + {interval}) - epoch_us(timestamp '{day}')" for day in _DAYS)
    try:
        with connect() as con:
            lengths = set(one(con, f"select {ends}"))
    except duckdb.Error:
        return None
    length = lengths.pop()
    return length if isinstance(length, int) and not lengths else None


_DAYS = ("2000-01-01", "2001-02-01", "2004-02-01")
"""Days whose following months have different lengths."""
