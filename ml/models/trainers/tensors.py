"""The features of neural networks: standardized numbers, a column for each text, and columns that say which values are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml.models.rows import Kind, LabelledRows
from ml.models.stored_rows import StoredRows
from ml.models.trainers.encoding import FeatureEncoding

if TYPE_CHECKING:
    import numpy as np

    from ml.models.tasks.task import Features

MOST_CATEGORIES = 100
_FARTHEST = 100.0
"""The most standard deviations that a value is from the mean."""


@dataclass(frozen=True)
class ColumnScale:
    """The mean and the standard deviation of a column, with six digits, so that the order of rows does not matter."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, mean: float | None, deviation: float | None) -> ColumnScale:
        """Return the scale of a column; a column without values, or with equal ones, is not scaled."""
        return cls(float(f"{mean or 0.0:.6g}"), float(f"{deviation or 0.0:.6g}") or 1.0)


@dataclass(frozen=True)
class TensorEncoding:
    """How rows become numbers of about the same size."""

    codes: FeatureEncoding
    scales: Mapping[str, ColumnScale]
    """Of numbers, conditions and times."""
    missing: tuple[str, ...]
    """The columns that had missing values in training, which are told by a column of their own."""

    @classmethod
    def learned(cls, rows: LabelledRows | StoredRows, kinds: Mapping[str, Kind]) -> TensorEncoding:
        """Return the encoding of training rows."""
        if isinstance(rows, StoredRows):
            codes = FeatureEncoding(dict(kinds), rows.categories(MOST_CATEGORIES))
            moments = rows.moments([name for name, kind in kinds.items() if kind != "text"])
        else:
            codes = FeatureEncoding.learned(rows.features, kinds, MOST_CATEGORIES)
            matrix = codes.matrix(rows.features)
            moments = {
                name: _moments(matrix[:, number]) for number, (name, kind) in enumerate(kinds.items()) if kind != "text"
            }
        scales = {name: ColumnScale.of(mean, deviation) for name, (mean, deviation, _) in moments.items()}
        return cls(codes, scales, tuple(name for name, (_, _, missing) in moments.items() if missing))

    @property
    def width(self) -> int:
        """The number of columns of the matrix."""
        return len(self.scales) + len(self.missing) + sum(map(len, self.codes.categories.values()))

    def matrix(self, features: Features) -> np.ndarray[Any, Any]:
        """Return features, with the types of `ARROW`, as float32, one row each.

        A number is its distance from the mean in standard deviations, at most 100; a missing or infinite one is 0. A text is 1 in the
        column of its value; null and values that did not occur in the training rows are 0 in all.
        """
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        raw = self.codes.matrix(features)
        matrix, column = np.zeros((len(raw), self.width), dtype=np.float32), 0
        for number, name in enumerate(self.codes.kinds):
            values = raw[:, number]
            if name in self.codes.categories:
                known = np.flatnonzero(~np.isnan(values))
                matrix[known, column + values[known].astype(int)] = 1
                column += len(self.codes.categories[name])
                continue
            finite, scale = np.isfinite(values), self.scales[name]
            scaled = (np.where(finite, values, scale.mean) - scale.mean) / scale.deviation
            matrix[:, column] = np.clip(scaled, -_FARTHEST, _FARTHEST)
            column += 1
            if name in self.missing:
                matrix[:, column] = ~finite
                column += 1
        return matrix


def _moments(values: np.ndarray[Any, Any]) -> tuple[float | None, float | None, int]:
    import numpy as np  # noqa: PLC0415 - needed only for training

    finite = values[np.isfinite(values)]
    missing = len(values) - len(finite)
    return (None, None, missing) if not len(finite) else (float(finite.mean()), float(finite.std()), missing)
