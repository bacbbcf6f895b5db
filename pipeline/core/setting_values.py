"""Checks of the values of settings."""

from __future__ import annotations

from typing import TypeVar

from pipeline.core.errors import Place, SettingsError

T = TypeVar("T")


def typed(key: str, value: object, kind: type[T], words: str, place: Place) -> T:
    """Return a value of this type; raise `SettingsError` for another one."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise SettingsError(f"{key!r} must be {words}", got=repr(value), place=place)
    return value


def positive(key: str, value: object, words: str, place: Place, *, least: int = 1) -> int:
    """Return a positive integer, or with `least=0` also 0; raise `SettingsError` for another value."""
    number = typed(key, value, int, words, place)
    if number < least:
        problem = f"{key!r} must {'be positive' if least else 'not be negative'}"
        raise SettingsError(problem, got=repr(number), place=place)
    return number
