"""Fitted boosted trees: an estimator that is stored in its library's own format, which runs no code when it is loaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml.models.tasks import Class, TaskName
from ml.models.trainers.encoding import FeatureEncoding
from pipeline.core.errors import StorageError
from pipeline.core.extras import imports_of

if TYPE_CHECKING:
    import numpy as np

    from ml.models.tasks.task import Features

_FEW = 1000
_TREES, _DESCRIPTION = {"lightgbm": "trees.txt", "xgboost": "trees.ubj"}, "trees.json"


@dataclass(frozen=True)
class BoostedTrees:
    """Trees of LightGBM or XGBoost with the encoding of their features."""

    library: str
    trees: bytes
    """In the format of the library."""
    encoding: FeatureEncoding
    task: TaskName
    classes: Sequence[Class]

    @property
    def classes_(self) -> Sequence[Class]:
        """The classes in the order of the columns of `predict_proba`, as in scikit-learn."""
        return self.classes

    def predict_proba(self, features: Features) -> np.ndarray[Any, Any]:
        """Return the probability of each class for each row."""
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        raw = self._raw(features)
        return np.column_stack([1 - raw, raw]) if raw.ndim == 1 else raw

    def predict(self, features: Features) -> np.ndarray[Any, Any]:
        """Return the predicted number or score of each row."""
        return self._raw(features)

    @property
    def importances(self) -> dict[str, float]:
        """The share of each feature in the total gain of the splits."""
        if self.library == "lightgbm":
            gains = dict(zip(self.encoding.kinds, self._booster.feature_importance("gain").tolist(), strict=True))
        else:
            found = self._booster.get_score(importance_type="total_gain")
            gains = {name: float(found.get(f"f{number}", 0.0)) for number, name in enumerate(self.encoding.kinds)}
        total = sum(gains.values()) or 1.0
        return {name: gain / total for name, gain in gains.items()}

    def contributions(self, features: Features) -> np.ndarray[Any, Any]:
        """Return what each feature adds to the score of each row, and last what all rows have: rows x features + 1.

        With several classes, rows x classes x features + 1. The scores are the logarithms of odds for classes, otherwise the predicted
        number itself. These are the values of TreeSHAP, which the libraries compute exactly.
        """
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        matrix = self.encoding.matrix(features)
        if self.library == "lightgbm":
            found = np.asarray(self._booster.predict(matrix, pred_contrib=True, num_threads=_threads(matrix)))
        else:
            found = np.asarray(self._booster.predict(self._rows(matrix), pred_contribs=True), dtype=float)
        width = len(self.encoding.kinds) + 1
        return (
            found.reshape(len(features), -1, width)
            if self.task == "multiclass"
            else found.reshape(len(features), width)
        )

    def save(self, folder: Path) -> None:
        """Write the trees and their description to a folder."""
        (folder / _TREES[self.library]).write_bytes(self.trees)
        description = {
            "library": self.library,
            "task": self.task,
            "classes": list(self.classes),
            "kinds": dict(self.encoding.kinds),
            "categories": {name: list(values) for name, values in self.encoding.categories.items()},
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> BoostedTrees:
        """Read the trees in a folder; raise `StorageError` if they are damaged, or if their library is not installed."""
        try:
            known = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            categories = {name: tuple(values) for name, values in known["categories"].items()}
            encoding = FeatureEncoding(known["kinds"], categories)
            trees = (folder / _TREES[known["library"]]).read_bytes()
            loaded = cls(known["library"], trees, encoding, known["task"], tuple(known["classes"]))
        except (OSError, ValueError, KeyError) as error:
            raise StorageError("the boosted trees of a model are damaged", got=str(error)) from error
        _ = loaded._booster
        return loaded

    def _raw(self, features: Features) -> np.ndarray[Any, Any]:
        import numpy as np  # noqa: PLC0415 - needed only for training and serving

        matrix = self.encoding.matrix(features)
        if self.library == "lightgbm":
            return np.asarray(self._booster.predict(matrix, num_threads=_threads(matrix)))
        return np.asarray(self._booster.predict(self._rows(matrix)), dtype=float)

    def _rows(self, matrix: np.ndarray[Any, Any]) -> Any:
        import xgboost  # noqa: PLC0415 - an extra

        types = ["c" if kind == "text" else "q" for kind in self.encoding.kinds.values()]
        return xgboost.DMatrix(matrix, feature_types=types, enable_categorical=True, nthread=_threads(matrix) or -1)

    @cached_property
    def _booster(self) -> Any:
        with imports_of("boosting", "a model of boosted trees"):
            if self.library == "lightgbm":
                import lightgbm  # noqa: PLC0415 - an extra

                return lightgbm.Booster(model_str=self.trees.decode())
            import xgboost  # noqa: PLC0415 - an extra

            booster = xgboost.Booster()
            booster.load_model(bytearray(self.trees))
            return booster

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the trees in their own format, without the objects of the library."""
        return {name: value for name, value in self.__dict__.items() if name != "_booster"}


def _threads(matrix: np.ndarray[Any, Any]) -> int:
    """Return how many threads predict, 0 for all cores: for a few rows, starting others takes longer than they save."""
    return 1 if len(matrix) < _FEW else 0
