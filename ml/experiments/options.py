"""Checks of the options that experiments, metrics and interleavings have."""

from __future__ import annotations

import math
from datetime import datetime
from numbers import Real
from typing import TYPE_CHECKING

from pipeline.core.errors import DefinitionError
from pipeline.kernel.sql_text import literal

if TYPE_CHECKING:
    from pipeline.core.errors import Place


def require_number(value: object, what: str, place: Place | None = None) -> None:
    """Raise `DefinitionError` unless an option is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise DefinitionError(f"{what} must be a finite number", got=repr(value), place=place)


def require_text(value: object, what: str, place: Place | None = None) -> None:
    """Raise `DefinitionError` unless an option is a text with more than spaces."""
    if not isinstance(value, str) or not value.strip():
        raise DefinitionError(f"{what} must be a text that is not empty", got=repr(value), place=place)


def require_plan(units: object, alpha: object, place: Place) -> None:
    """Raise `DefinitionError` unless the planned number of units and the probability of a wrong result can be."""
    if isinstance(units, bool) or not isinstance(units, int) or units < 1:
        raise DefinitionError("units= must be a positive whole number", got=repr(units), place=place)
    require_number(alpha, "alpha=", place)
    if not 0 < float(str(alpha)) < 1:
        raise DefinitionError("alpha= must be between 0 and 1", got=f"{alpha}", place=place)


def moment(value: str | datetime, what: str, place: Place) -> str:
    """Return the SQL of a time that is given as text or as a datetime; raise `DefinitionError` for a text that is none."""
    try:
        at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        do = f'write {what}"2026-03-05 10:00" or {what}"2026-03-05T10:00Z"'
        raise DefinitionError(f"{what} is not a time", got=repr(value), do=do, place=place) from None
    return f"{'timestamp' if at.tzinfo is None else 'timestamptz'} {literal(at.isoformat(sep=' '))}"
