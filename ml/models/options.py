"""Checks of options that several definitions of models have."""

from __future__ import annotations

from pipeline.core.errors import DefinitionError, Place


def require_whole_number(name: str, value: object, least: int, place: Place) -> None:
    """Raise `DefinitionError` unless an option is a whole number, at least so large."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise DefinitionError(f"{name}= must be a whole number, at least {least}", got=repr(value), place=place)
