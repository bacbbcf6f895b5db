"""The members that every dimension may have besides those of its data: "unknown" and "not applicable"."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.kernel.sql_text import literal, quoted

UNKNOWN = 0
"""The surrogate key of the unknown member."""
NOT_APPLICABLE = -1
"""The surrogate key of the member "not applicable"."""
Label = str | int | float | bool | Decimal | dt.date | None
"""The value of an attribute of such a member."""


@dataclass(frozen=True)
class SpecialMember:
    """A member that is in no data: its key, and the values of its attributes, of which the others are null."""

    key: int
    labels: tuple[tuple[str, Label], ...] = ()

    def sql(self, surrogate: str, columns: Sequence[str], extra: str = "") -> str:
        """Return a SELECT of its row; `extra` is SQL for further columns."""
        known = dict(self.labels)
        values = ", ".join(f"{_sql(known.get(name))} as {quoted(name)}" for name in columns)
        return f"select {self.key}::bigint as {quoted(surrogate)}, {values}{extra}"


def special_members(
    unknown: Mapping[str, Label] | None,
    not_applicable: Mapping[str, Label] | None,
    columns: Sequence[str],
    place: Place,
) -> tuple[SpecialMember, ...]:
    """Return the special members of a dimension: the unknown one, and "not applicable" if it is declared.

    Raises `DefinitionError` for a label of a column that the dimension does not have.
    """
    members = [SpecialMember(UNKNOWN, tuple((unknown or {}).items()))]
    if not_applicable is not None:
        members.append(SpecialMember(NOT_APPLICABLE, tuple(not_applicable.items())))
    for option, labels in (("unknown", unknown), ("not_applicable", not_applicable)):
        for name in labels or {}:
            if name not in columns:
                raise DefinitionError(
                    f"{option}= names a column {name!r}, which the dimension does not have",
                    do=did_you_mean(name, columns),
                    place=place,
                )
    return tuple(members)


def _sql(value: Label) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | Decimal):
        return str(value)
    if isinstance(value, float):
        return f"{value!r}::double"
    if isinstance(value, dt.datetime):
        return f"{literal(value.isoformat(sep=' '))}::{'timestamptz' if value.tzinfo else 'timestamp'}"
    return f"{literal(value.isoformat())}::date" if isinstance(value, dt.date) else literal(value)
