"""What the windows of a monitor are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from ml.models.definition import Model
from ml.monitoring.counts import RowSource
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.event_time import parse_duration

WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Fixed:
    """Rows of a table, for all windows the same."""

    rows: RowSource
    words: str


@dataclass(frozen=True)
class Trailing:
    """The windows before each window."""

    length: timedelta
    text: str
    """The length as it was written."""
    place: Place = field(compare=False, repr=False)

    @property
    def words(self) -> str:
        """The reference in words."""
        return f"the {self.text} before"

    def require_fit(self, window: timedelta) -> None:
        """Raise `DefinitionError` unless windows divide the length."""
        if self.length < window or self.length % window:
            problem = "the length of trailing(…) must be a multiple of window="
            raise DefinitionError(problem, got=f"{self.length} and {window}", place=self.place)


@dataclass(frozen=True)
class SameWeekday:
    """The windows at the same time of the last weeks."""

    weeks: int
    place: Place = field(compare=False, repr=False)

    @property
    def words(self) -> str:
        """The reference in words."""
        return f"the same weekday of the last {self.weeks} weeks"

    def require_fit(self, window: timedelta) -> None:
        """Raise `DefinitionError` unless windows divide a week."""
        if WEEK % window:
            problem = "with same_weekday(…), a week must be a multiple of window="
            raise DefinitionError(problem, got=str(window), place=self.place)


Reference = Fixed | Trailing | SameWeekday


def training(model: Model) -> Fixed:
    """Compare with the rows that a model is trained on: those of its training set before its split.

    A slow drift is visible against these, and not against last week.
    """
    place = caller()
    if not isinstance(model, Model):
        raise DefinitionError("training(…) takes a model", got=repr(model), do="pass the model itself", place=place)
    split_at = model.evaluation.holdout.at
    if split_at is None:
        do = f"give the model split_at=, or pass rows_of({model.training_set!r})"
        problem = "training(…) needs a model whose rows are split at a time, and this one holds out others"
        raise DefinitionError(problem, got=f"rows {model.evaluation.holdout.words}", do=do, place=place)
    rows = RowSource(model.training_set, split_at.isoformat(), place)
    return Fixed(rows, f"the training rows of {model.name}")


def rows_of(table: str) -> Fixed:
    """Compare with all rows of another table, which has the same columns."""
    return Fixed(RowSource(table), f"the rows of {table}")


def trailing(length: str | timedelta) -> Trailing:
    """Compare each window with the windows before it, for example of the last `28 days`."""
    place = caller()
    return Trailing(parse_duration(length, "length", place), str(length), place)


def same_weekday(weeks: int = 4) -> SameWeekday:
    """Compare each window with those at the same time of the last weeks, so that weekends are compared with weekends."""
    place = caller()
    if weeks < 1:
        raise DefinitionError("same_weekday(…) takes a number of weeks", got=repr(weeks), place=place)
    return SameWeekday(weeks, place)
