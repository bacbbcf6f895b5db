"""The high-water mark of a cursor column: which rows of a page are new, and how far a source has been read.

Rows whose value equals the mark may be delivered again, and new rows with that value may follow. The mark therefore
keeps the hashes of the rows within `lag` of it, with their number: those that come again are dropped, all others are new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal, get_args

from pipeline.core.errors import DefinitionError, SourceError

Nulls = Literal["refuse", "include", "exclude"]
CursorKind = Literal["integer", "number", "instant", "timestamp", "text", "nothing"]
Key = int | Decimal | str
MOST_SEEN = 2000
"""Maximum number of hashes in a cursor, which is stored in each manifest."""
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class CursorColumn:
    """The field whose values say what is new. Nested fields are written with dots."""

    name: str
    lag: timedelta | int = 0
    """Rows up to this much below the highest value are fetched again, because they may have been committed later."""
    nulls: Nulls = "refuse"
    """What happens to rows without a value."""
    drops_repeated: bool = True
    """Whether rows that were read before are recognized by their content and dropped."""

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for an unknown option of nulls, and for a negative lag."""
        if self.nulls not in get_args(Nulls):
            known = ", ".join(map(repr, get_args(Nulls)))
            raise DefinitionError("unknown value of null_cursors=", got=repr(self.nulls), do=f"use one of {known}")
        if isinstance(self.lag, int) and self.lag < 0:
            raise DefinitionError("lag= must not be negative", got=str(self.lag))


@dataclass(frozen=True)
class HighWater:
    """The highest value so far, as an ordered key and as delivered, and the rows at it that were read."""

    kind: CursorKind
    key: Key
    text: str
    seen: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By key (as text; empty for none): the number of rows with each hash."""

    def to_json(self) -> dict[str, Any]:
        """Return the mark as JSON."""
        seen = {key: sorted(Counter(counts).elements()) for key, counts in sorted(self.seen.items())}
        key = str(self.key) if isinstance(self.key, Decimal) else self.key
        return {"type": self.kind, "key": key, "text": self.text, "seen": seen}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> HighWater:
        """Return the mark from JSON."""
        seen = {key: Counter(hashes) for key, hashes in value["seen"].items()}
        return cls(value["type"], key_of(value["type"], value["key"]), value["text"], seen)

    @property
    def has_value(self) -> bool:
        """Whether there was a row with a value; without one, only rows without a value are known."""
        return self.kind != "nothing"

    def floor(self, column: CursorColumn) -> Key:
        """Return the lowest key that is fetched again.

        Raises `DefinitionError` if the lag has another type than the column.
        """
        return floor_of(self.kind, self.key, column)


NO_VALUE = HighWater("nothing", 0, "")


def key_of(kind: CursorKind, value: Any) -> Key:
    """Return a key from its value in JSON or DuckDB."""
    if kind == "text":
        return str(value)
    return Decimal(str(value)) if kind == "number" else int(value)


def floor_of(kind: CursorKind, key: Key, column: CursorColumn) -> Key:
    """Return a key less the lag."""
    lag = column.lag
    if isinstance(key, str) or not lag:
        if lag:
            raise _wrong_lag(column, kind, "remove lag=, because texts have no distance")
        return key
    if isinstance(lag, timedelta) != (kind in {"instant", "timestamp"}):
        do = (
            "write a number, in the unit of the column"
            if isinstance(lag, timedelta)
            else "write for example '5 minutes'"
        )
        raise _wrong_lag(column, kind, do)
    return key - (lag // _MICROSECOND if isinstance(lag, timedelta) else lag)


def text_of(kind: CursorKind, key: Key) -> str:
    """Return a key as text: times in ISO 8601, with `Z` if they have a zone."""
    if kind not in {"instant", "timestamp"}:
        return f"{key.normalize():f}" if isinstance(key, Decimal) else str(key)
    moment = datetime(1970, 1, 1, tzinfo=UTC) + int(key) * _MICROSECOND
    text = moment.replace(tzinfo=None).isoformat(timespec="microseconds" if moment.microsecond else "seconds")
    return text + "Z" * (kind == "instant")


def _wrong_lag(column: CursorColumn, kind: CursorKind, do: str) -> DefinitionError:
    return DefinitionError(
        f"lag= does not fit the cursor column {column.name!r}", got=f"{column.lag} for {kind}s", do=do
    )


def valued(mark: HighWater | None) -> HighWater | None:
    """Return a mark if it has a value."""
    return mark if mark is not None and mark.has_value else None


def near(high: HighWater, seen: Mapping[str, Mapping[str, int]], column: CursorColumn) -> dict[str, Mapping[str, int]]:
    """Return the rows within the lag, and those without a value."""
    floor = high.floor(column) if high.has_value else None
    return {
        name: counts
        for name, counts in seen.items()
        if name == "" or (floor is not None and key_of(high.kind, name) >= floor)  # type: ignore[operator]
    }


def merged(before: HighWater | None, running: HighWater | None, column: CursorColumn) -> HighWater | None:
    """Return the mark after a complete fetch: rows near the mark that did not come again remain known."""
    if before is None or running is None:
        return running or before
    if before.has_value and running.has_value:
        high = running if running.key >= before.key else before  # type: ignore[operator]
    else:
        high = running if running.has_value else before
    seen = {
        name: Counter(before.seen.get(name, {})) | Counter(running.seen.get(name, {}))
        for name in {*before.seen, *running.seen}
    }
    kept = near(high, seen, column)
    require_few(kept, column)
    return replace(high, seen=kept)


def require_few(seen: Mapping[str, Mapping[str, int]], column: CursorColumn) -> None:
    """Raise `SourceError` if more rows than a cursor can hold are within the lag, or have no value."""
    numbers = {name: sum(counts.values()) for name, counts in seen.items()}
    number, without = sum(numbers.values()), numbers.get("", 0)
    if number <= MOST_SEEN:
        return
    if without > number - without:
        raise SourceError(
            f"too many rows have no value in the cursor column {column.name!r} to recognize them later",
            got=f"{without:,} rows, at most {MOST_SEEN:,}",
            do="fill the column, choose another, leave them out by null_cursors='exclude', or pass repeated='keep' and give the source a key=",
        )
    raise SourceError(
        f"too many rows have the highest values of the cursor column {column.name!r} to recognize them later",
        got=f"{number:,} rows, at most {MOST_SEEN:,}",
        do="reduce lag=, use a finer cursor column, or pass repeated='keep' and give the source a key=",
    )
