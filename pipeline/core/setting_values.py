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


def positive(key: str, value: object, words: str, place: Place) -> int:
    """Return a positive integer; raise `SettingsError` for another value."""
    number = typed(key, value, int, words, place)
    if number <= 0:
        raise SettingsError(f"{key!r} must be positive", got=repr(number), place=place)
    return number
