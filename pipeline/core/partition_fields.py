"""Partition fields: what `partition_by=` names, which is a column or a transform of one, such as `day(placed_at)`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.errors import DefinitionError, Place, did_you_mean

TIMES = ("year", "month", "day", "hour")
"""The transforms of dates and timestamps."""
SIZED = ("bucket", "truncate")
"""The transforms with a number: of buckets, and the width of integers or the length of text."""
_CALL = re.compile(r"(\w+)\((?:\s*(\d+)\s*,)?\s*([^,]+?)\s*\)")
_MOST_BUCKETS = 10_000


@dataclass(frozen=True)
class PartitionField:
    """A column, or a transform of it. Rows with the same value are in the same files."""

    column: str
    transform: str = ""
    """Empty for the value of the column itself."""
    size: int = 0
    """The number of buckets, or the width or length of `truncate`."""

    def __str__(self) -> str:
        """Return the text in a definition."""
        if not self.transform:
            return self.column
        return f"{self.transform}({f'{self.size}, ' if self.size else ''}{self.column})"

    @classmethod
    def of(cls, text: str) -> PartitionField:
        """Return the field of a text; a text that is not a transform is the name of a column."""
        call = _CALL.fullmatch(text.strip())
        if call is None or call[1].lower() not in (*TIMES, *SIZED):
            return cls(text)
        return cls(call[3].strip('"'), call[1].lower(), int(call[2] or 0))


def fields_of(partition_by: Sequence[str]) -> tuple[PartitionField, ...]:
    """Return the fields of a definition's `partition_by`."""
    return tuple(PartitionField.of(text) for text in partition_by)


def plain_columns(partition_by: Sequence[str]) -> tuple[str, ...]:
    """Return the columns if none is transformed; otherwise nothing: the table then has no partition columns in Delta."""
    fields = fields_of(partition_by)
    return () if any(field.transform for field in fields) else tuple(field.column for field in fields)


def partitioning(value: str | Sequence[str] | None, place: Place) -> tuple[str, ...]:
    """Return the value of `partition_by=` as normalized texts.

    Raises `DefinitionError` for an unknown transform, one without its number or with a superfluous one, and for a field
    that is named twice.
    """
    texts = () if value is None else (value,) if isinstance(value, str) else tuple(value)
    fields = [_checked(text, place) for text in texts]
    for number, field in enumerate(fields):
        if field in fields[:number]:
            raise DefinitionError(f"partition_by= names {str(field)!r} twice", do="remove one", place=place)
    return tuple(map(str, fields))


def _checked(text: str, place: Place) -> PartitionField:
    field, call = PartitionField.of(text), _CALL.fullmatch(text.strip())
    known = (*TIMES, *SIZED)
    if call is not None and not field.transform:
        do = did_you_mean(call[1], known)
        raise DefinitionError(f"partition_by= has an unknown transform {call[1]!r}", do=do, place=place)
    if field.transform in SIZED and not 1 <= field.size <= (_MOST_BUCKETS if field.transform == "bucket" else 1 << 62):
        most = f"from 1 to {_MOST_BUCKETS:,}" if field.transform == "bucket" else "of at least 1"
        do = f"write {field.transform}(16, {field.column}), with a number {most}"
        raise DefinitionError(f"{field.transform} in partition_by= needs a number", got=text, do=do, place=place)
    if field.transform in TIMES and call is not None and call[2]:
        do = f"write {field.transform}({field.column})"
        raise DefinitionError(f"{field.transform} in partition_by= has no number", got=text, do=do, place=place)
    return field
