"""XGBoost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from ml.models.tasks import TaskName
from ml.models.trainers.boosting import SEEDS, Boosting
from ml.models.trainers.rounds import AfterRound, BoostingRows, Library, Rounds
from ml.models.trainers.trainer import SEED

_BATCH_ROWS = 1 << 17


@dataclass(frozen=True, init=False)
class XGBoost(Boosting):
    """Gradient boosting by XGBoost; needs `headwater[boosting]`.

    Further options are [parameters of XGBoost](https://xgboost.readthedocs.io/en/stable/parameter.html) such as `learning_rate`.
    """

    library: ClassVar[Library] = "xgboost"
    objectives: ClassVar[Mapping[TaskName, str]] = MappingProxyType(
        {
            "binary": "binary:logistic",
            "multiclass": "multi:softprob",
            "regression": "reg:squarederror",
            "forecasting": "reg:squarederror",
            "ranking": "rank:ndcg",
        }
    )

    def grow(self, rows: BoostingRows, newest: BoostingRows | None, rounds: Rounds, after: AfterRound | None) -> bytes:
        """Return the trees as XGBoost's UBJSON. The same rows and parameters give the same trees."""
        import xgboost  # noqa: PLC0415 - an extra

        params = {"verbosity": 0, "tree_method": "hist", **rounds.params}
        if not SEEDS & params.keys():
            params["seed"] = SEED

        class _After(xgboost.callback.TrainingCallback):
            def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
                del evals_log
                if after is not None:
                    after(epoch + 1, lambda: bytes(model.save_raw("ubj")))
                return False

        matrix = _matrix(rows, params)
        stops = newest is not None and bool(rounds.stop_after)
        booster = xgboost.train(
            params,
            matrix,
            rounds.count,
            evals=[] if newest is None else [(_matrix(newest, params, matrix), "newest")],
            early_stopping_rounds=rounds.stop_after if stops else None,
            xgb_model=None if rounds.start is None else bytearray(rounds.start),
            callbacks=[] if after is None else [_After()],
            verbose_eval=False,
        )
        best = booster[: booster.best_iteration + 1] if stops else booster
        return bytes(best.save_raw("ubj"))


def _matrix(rows: BoostingRows, params: Mapping[str, object], like: Any = None) -> Any:
    import numpy as np  # noqa: PLC0415 - needed only for training
    import xgboost  # noqa: PLC0415 - an extra

    coded = set(rows.categorical)
    types = ["c" if number in coded else "q" for number in range(len(rows.names))]
    if isinstance(rows.features, np.memmap) and params["tree_method"] == "hist":
        return _quantized(rows, types, params, like)
    matrix = xgboost.DMatrix(
        rows.features, label=rows.label, weight=rows.weight, feature_types=types, enable_categorical=True
    )
    if rows.group_sizes:
        matrix.set_group(rows.group_sizes)
    return matrix


def _quantized(rows: BoostingRows, types: list[str], params: Mapping[str, object], like: Any) -> Any:
    """Return rows of a file as XGBoost's bins, read in batches: about a byte for each value instead of eight."""
    import xgboost  # noqa: PLC0415 - an extra

    class _Batches(xgboost.DataIter):
        def __init__(self) -> None:
            super().__init__()
            self._start = 0

        def next(self, input_data: Any) -> bool:
            part = slice(self._start, self._start + _BATCH_ROWS)
            if part.start >= len(rows.label):
                return False
            weight = None if rows.weight is None else rows.weight[part]
            input_data(data=rows.features[part], label=rows.label[part], weight=weight, feature_types=types)
            self._start = part.stop
            return True

        def reset(self) -> None:
            self._start = 0

    bins = params.get("max_bin")
    return xgboost.QuantileDMatrix(
        _Batches(), max_bin=None if bins is None else int(str(bins)), ref=like, enable_categorical=True
    )
