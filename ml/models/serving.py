"""Predictions: loads the champion of a model and applies it to plain rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ml.models.fitted import Explanation, FittedModel
from ml.models.rows import ARROW, Kind
from ml.models.tasks import Task
from pipeline.core.errors import ModelError, RequestError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.models.tasks.task import Features


@dataclass(frozen=True)
class Predictor:
    """A champion that is ready to predict. It does not need the project that trained it."""

    name: str
    version: str
    fitted: FittedModel

    @property
    def inputs(self) -> Mapping[str, Kind]:
        """The kind of each feature: `number`, `integer`, `text`, `boolean` or `timestamp`."""
        return self.fitted.kinds

    @property
    def task(self) -> Task:
        """The kind of its label."""
        return self.fitted.task

    def predict(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, object]]:
        """Return the prediction for each row, in order, as an object of JSON; see `Task.answers`.

        A row has every feature by name, null if unknown. A timestamp is a datetime or ISO 8601 text, in UTC unless it
        has an offset. Raises `RequestError` with the row (from 0) and the feature that is missing, unknown or of
        another kind.
        """
        return self.fitted.answers(self._features(rows)) if rows else []

    def explain(self, rows: Sequence[Mapping[str, Any]]) -> list[Explanation]:
        """Return what makes the score of each row; see `FittedModel.explanations`."""
        return self.fitted.explanations(self._features(rows)) if rows else []

    def _features(self, rows: Sequence[Mapping[str, Any]]) -> Features:
        for number, row in enumerate(rows):
            for name in row:
                if name not in self.inputs:
                    do = did_you_mean(name, self.inputs)
                    raise RequestError(f"row {number} has an unknown feature {name!r}", do=do)
        return self.fitted.features(self.table(rows))

    def table(self, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Return the features of rows as a table; raises as `predict` does, except for unknown features."""
        import pyarrow as pa  # noqa: PLC0415 - not needed to define models

        for number, row in enumerate(rows):
            missing = [name for name in self.inputs if name not in row]
            if missing:
                problem = f"row {number} lacks {', '.join(map(repr, missing))}"
                raise RequestError(problem, do="pass null for unknown values")
        columns = {
            name: pa.array([_value(row[name], kind, name, n) for n, row in enumerate(rows)], ARROW[kind])
            for name, kind in self.inputs.items()
        }
        return pa.table(columns)


def load_champion(store: str, name: str) -> Predictor:
    """Load and return the champion of a model.

    Raises `ModelError` if there is none yet, and `StorageError` if the store cannot be used.
    """
    from ml.models.registry.registry import Registry  # noqa: PLC0415 - imports MLflow, which is slow

    champion = Registry(store).champion(name)
    if champion is None:
        raise ModelError(f"model {name!r} has no champion yet", do=f"train one: headwater run --select +{name}")
    return Predictor(name, champion.version, champion.fitted)


def _value(value: Any, kind: str, name: str, number: int) -> Any:
    """Return a value as its Arrow type accepts it; raise `RequestError` for a value of another kind."""
    if value is None:
        return None
    read = _READ[kind](value)
    if read is None:
        raise RequestError(f"row {number}: {name!r} must be {_WORDS[kind]} or null", got=repr(value)[:80])
    return read


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _integer(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number.is_integer() else None


def _boolean(value: Any) -> float | None:
    return float(value) if isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        value.encode()  # JSON can have halves of characters, which no other format can
    except UnicodeEncodeError:
        return None
    return value


def _timestamp(value: Any) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(time, datetime):
        return None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


_READ = {"number": _number, "integer": _integer, "boolean": _boolean, "text": _text, "timestamp": _timestamp}
_WORDS = {
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "text": "text",
    "timestamp": "an ISO 8601 time",
}
