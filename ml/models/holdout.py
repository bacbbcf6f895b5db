"""Which labelled rows train a model, and which it is evaluated on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import format_duration, parse_duration

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ml.models.rows import LabelledRows

SHARE = 0.2
"""The share of groups that is held out by default, and the share of training rows that validate."""
Purpose = Literal["holdout", "validation"]
_SALTS: dict[Purpose, str] = {"holdout": "headwater.holdout", "validation": "headwater.validation"}


@dataclass(frozen=True)
class Holdout:
    """The rows that training does not see: those from a time on, the newest, or those of some groups."""

    at: datetime | None = None
    """Rows at or after this time (UTC) are held out."""
    newest: timedelta | None = None
    """Rows later than so long before the latest one are held out."""
    share: float = SHARE
    """Otherwise, this share of the newest rows, or of the groups."""
    by: tuple[str, ...] = ()
    """Columns whose values are groups: rows of one group are all held out, or none is."""

    @property
    def words(self) -> str:
        """Which rows are held out, after `rows`."""
        if self.by:
            return f"of {self.share:.0%} of the values of {', '.join(self.by)}"
        if self.at is not None:
            return f"from {self.at:%Y-%m-%d %H:%M} on"
        if self.newest is not None:
            return f"of the newest {format_duration(self.newest)}"
        return f"that are the newest {self.share:.0%}"

    def mask(self, rows: LabelledRows) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which rows are held out. Rows are ordered by time."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        if self.by:
            return _drawn(rows, self.share, "holdout")
        times = rows.time.to_numpy(dtype="datetime64[us]")
        if self.at is not None:
            return np.asarray(times >= np.datetime64(self.at.astimezone(UTC).replace(tzinfo=None), "us"))
        if self.newest is not None:
            return np.asarray(times > times.max() - np.timedelta64(self.newest))
        return _newest(rows, self.share)

    def validation(self, rows: LabelledRows) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return which training rows validate choices: a share of the newest ones, or of the groups."""
        return _drawn(rows, SHARE, "validation") if self.by else _newest(rows, SHARE)

    def folds(self, rows: LabelledRows, count: int) -> list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Return masks of training and validation rows, which walk forward in time: each fold validates the next part.

        With groups, each fold validates other groups, and trains on all others.
        """
        import numpy as np  # noqa: PLC0415 - needed only for training

        if self.by:
            drawn = draws(rows.group, "validation")
            parts = np.minimum((drawn * count).astype(int), count - 1)
            return [(parts != number, parts == number) for number in range(count)]
        parts = np.arange(len(rows)) * (count + 1) // max(len(rows), 1)
        return [(parts <= number, parts == number + 1) for number in range(count)]


def holdout_of(split_at: str, holdout: str | float | None, split_by: Sequence[str], place: Place) -> Holdout:
    """Return the holdout of a model's options; raise `DefinitionError` if they are invalid or contradict each other."""
    if split_at and (holdout is not None or split_by):
        raise DefinitionError("a model has either split_at= or holdout=", do="remove one of them", place=place)
    if split_at:
        return Holdout(at=_time(split_at, place))
    if holdout is None and not split_by:
        do = "pass split_at='2026-01-01', holdout='30 days' or holdout=0.2"
        raise DefinitionError("the model has no rows to be evaluated on", do=do, place=place)
    if isinstance(holdout, str):
        if split_by:
            do = "pass a share, for example holdout=0.2"
            raise DefinitionError("split_by= holds out a share of the groups", got=repr(holdout), do=do, place=place)
        return Holdout(newest=parse_duration(holdout, "holdout", place))
    share = SHARE if holdout is None else holdout
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        do = "pass a share, for example 0.2, or a duration, for example '30 days'"
        raise DefinitionError("holdout= is neither a share nor a duration", got=repr(holdout), do=do, place=place)
    return Holdout(share=float(share), by=tuple(split_by))


def _newest(rows: LabelledRows, share: float) -> np.ndarray[Any, Any]:
    """Return the newest share of the rows; rows of one time are on one side."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    count = len(rows)
    times = rows.time.to_numpy(dtype="datetime64[us]")
    begin = max(count - round(count * share), 0)
    if begin >= count:
        return np.zeros(count, dtype=bool)
    return np.asarray(times >= times[begin])


def _drawn(rows: LabelledRows, share: float, purpose: Purpose) -> np.ndarray[Any, Any]:
    return draws(rows.group, purpose) < share


def draws(groups: pd.Series, purpose: Purpose) -> np.ndarray[Any, Any]:
    """Return a number from 0 to 1 for each row, by a hash of its group: the same for all rows of a group, in any run."""
    import numpy as np  # noqa: PLC0415 - needed only for training

    known = {
        group: int.from_bytes(hashlib.blake2b(f"{_SALTS[purpose]}:{group}".encode(), digest_size=8).digest()) / 2**64
        for group in groups.unique()
    }
    return np.asarray(groups.map(known), dtype=np.float64)


def _time(text: str, place: Place) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DefinitionError(
            "split_at is not a date or time", got=repr(text), do="write a date such as 2013-10-01", place=place
        ) from error
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
