"""Expectations: SQL booleans with a name and a consequence, in Lakeflow's words.

A row for which the condition is null does not meet it: unknown is not good.
"""

from __future__ import annotations

from pipeline.core.definitions import Action, Expectation


def warn(name: str, condition: str) -> Expectation:
    """Count the rows that do not meet the condition; keep them."""
    return Expectation(name, condition, Action.WARN)


def quarantine(name: str, condition: str) -> Expectation:
    """Set the rows that do not meet the condition aside, with the reason; they can be replayed after a fix."""
    return Expectation(name, condition, Action.QUARANTINE)


def drop(name: str, condition: str) -> Expectation:
    """Count the rows that do not meet the condition and leave them out."""
    return Expectation(name, condition, Action.DROP)


def fail(name: str, condition: str) -> Expectation:
    """Fail the table when any row does not meet the condition; nothing of it is committed."""
    return Expectation(name, condition, Action.FAIL)
