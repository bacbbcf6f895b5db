"""Expectations: named SQL conditions with an action, similar to Databricks Lakeflow.

A row for which the condition is null violates the expectation.
"""

from __future__ import annotations

from pipeline.core.definitions import Action, Expectation, caller


def warn(name: str, condition: str) -> Expectation:
    """Count rows that violate the condition, and keep them."""
    return Expectation(name, condition, Action.WARN, caller())


def quarantine(name: str, condition: str) -> Expectation:
    """Quarantine rows that violate the condition, with the reason; they can be replayed after a fix."""
    return Expectation(name, condition, Action.QUARANTINE, caller())


def drop(name: str, condition: str) -> Expectation:
    """Count rows that violate the condition, and drop them."""
    return Expectation(name, condition, Action.DROP, caller())


def fail(name: str, condition: str) -> Expectation:
    """Fail the table if any row violates the condition; nothing of it is committed."""
    return Expectation(name, condition, Action.FAIL, caller())
