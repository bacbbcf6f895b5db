"""From the scores of a binary estimator to probabilities, and from probabilities to decisions. Pure functions of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pipeline.core.errors import DefinitionError, Place

if TYPE_CHECKING:
    import numpy as np

CalibrationMethod = Literal["isotonic", "sigmoid"]
METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
_POINTS = 256
"""The most points of a stored sigmoid."""


@dataclass(frozen=True)
class Costs:
    """What an error costs: a 0 that is predicted as 1, and a 1 that is predicted as 0."""

    false_positive: float
    false_negative: float

    @property
    def threshold(self) -> float:
        """The probability from which 1 is the cheaper prediction."""
        return self.false_positive / (self.false_positive + self.false_negative)

    def of(self, label: np.ndarray[Any, Any], predicted: np.ndarray[Any, Any]) -> float:
        """Return the mean cost of a row, for labels and predictions of 0 and 1."""
        wrong = self.false_positive * ((label == 0) & (predicted == 1)) + self.false_negative * (
            (label == 1) & (predicted == 0)
        )
        return float(wrong.mean())

    def best_threshold(self, label: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> float:
        """Return the threshold with the least cost on rows; of several, the one that is the nearest to `threshold`."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        order = np.argsort(probabilities, kind="stable")
        sorted_p, positive = probabilities[order], (label[order] == 1)
        # a threshold before position i: rows from i on are predicted as 1
        missed = np.concatenate([[0], np.cumsum(positive)]) * self.false_negative
        alarms = (len(label) - positive.sum()) - np.concatenate([[0], np.cumsum(~positive)])
        costs = missed + alarms * self.false_positive
        edges = np.concatenate([[-1.0], (sorted_p[:-1] + sorted_p[1:]) / 2, [1.0]])
        # positions between equal probabilities are no thresholds
        usable = np.concatenate([[True], sorted_p[:-1] < sorted_p[1:], [True]])
        costs = np.where(usable, costs, np.inf)
        best = np.flatnonzero(costs <= costs.min() + 1e-9)
        return float(edges[best[np.argmin(np.abs(edges[best] - self.threshold))]])


@dataclass(frozen=True)
class Calibration:
    """A rising function from scores to probabilities, linear between its points."""

    method: CalibrationMethod
    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    @classmethod
    def fitted(
        cls, method: CalibrationMethod, label: np.ndarray[Any, Any], scores: np.ndarray[Any, Any]
    ) -> Calibration:
        """Fit the function to the labels (0 and 1) and scores of rows that the estimator was not fitted to."""
        import numpy as np  # noqa: PLC0415 - needed only for training

        if method == "isotonic":
            from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - see above

            fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, label)
            return cls(method, tuple(fit.X_thresholds_.tolist()), tuple(fit.y_thresholds_.tolist()))
        from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - see above

        logits = _logit(scores).reshape(-1, 1)
        model = LogisticRegression(C=1e6).fit(logits, label)
        points = np.unique(np.concatenate([np.linspace(0, 1, _POINTS), np.quantile(scores, np.linspace(0, 1, 64))]))
        curve = model.predict_proba(_logit(points).reshape(-1, 1))[:, 1]
        return cls(method, tuple(points.tolist()), tuple(curve.tolist()))

    def __call__(self, scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the probabilities of scores."""
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        return np.asarray(np.interp(scores, self.scores, self.probabilities))


def costs_of(costs: Mapping[str, float] | None, place: Place) -> Costs | None:
    """Return the costs of errors; raise `DefinitionError` unless both are given and positive."""
    if costs is None:
        return None
    problem = "costs= must give the cost of each kind of error, above 0"
    do = 'pass {"false_positive": 1, "false_negative": 5}'
    if set(costs) != {"false_positive", "false_negative"}:
        raise DefinitionError(problem, got=", ".join(map(repr, costs)) or "nothing", do=do, place=place)
    for name, value in costs.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise DefinitionError(problem, got=f"{name}: {value!r}", do=do, place=place)
    return Costs(float(costs["false_positive"]), float(costs["false_negative"]))


def _logit(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np  # noqa: PLC0415 - needed only for training

    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(clipped / (1 - clipped)))
