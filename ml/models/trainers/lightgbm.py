"""LightGBM."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from ml.models.tasks import TaskName
from ml.models.trainers.boosting import SEEDS, Boosting
from ml.models.trainers.rounds import AfterRound, BoostingRows, Library, Rounds
from ml.models.trainers.trainer import SEED

_ADDRESSES = ("[machines:", "[local_listen_port:")


@dataclass(frozen=True, init=False)
class LightGBM(Boosting):
    """Gradient boosting by LightGBM; needs `headwater[boosting]`.

    Further options are [parameters of LightGBM](https://lightgbm.readthedocs.io/en/stable/Parameters.html) such as `learning_rate`.
    """

    library: ClassVar[Library] = "lightgbm"
    objectives: ClassVar[Mapping[TaskName, str]] = MappingProxyType(
        {
            "binary": "binary",
            "multiclass": "multiclass",
            "regression": "regression",
            "forecasting": "regression",
            "ranking": "lambdarank",
        }
    )

    def known_params(self) -> Collection[str]:
        """Return the names and other names of all parameters."""
        from lightgbm import basic  # noqa: PLC0415 - an extra

        # it has no public list, and ignores what it does not know
        aliases: Mapping[str, list[str]] = basic._ConfigAliases._get_all_param_aliases()  # noqa: SLF001
        return {name for names in aliases.values() for name in names}

    def grow(self, rows: BoostingRows, newest: BoostingRows | None, rounds: Rounds, after: AfterRound | None) -> bytes:
        """Return the trees as LightGBM's text. The same rows and parameters give the same text."""
        import lightgbm  # noqa: PLC0415 - an extra

        params = {
            "verbosity": -1,
            "deterministic": True,
            "force_row_wise": True,
            **({} if SEEDS & rounds.params.keys() else {"seed": SEED}),
            **rounds.params,
        }
        dataset = _dataset(rows, params)
        callbacks: list[Any] = []
        if newest is not None and rounds.stop_after:
            callbacks.append(lightgbm.early_stopping(rounds.stop_after, verbose=False))
        if after is not None:
            callbacks.append(lambda env: after(env.iteration + 1, lambda: env.model.model_to_string().encode()))
        booster = lightgbm.train(
            params,
            dataset,
            rounds.count,
            valid_sets=[] if newest is None else [_dataset(newest, params, dataset)],
            init_model=None if rounds.start is None else lightgbm.Booster(model_str=rounds.start.decode()),
            callbacks=callbacks,
        )
        text = str(booster.model_to_string(num_iteration=booster.best_iteration if newest is not None else None))
        # the addresses of workers differ in each run, and do not matter to the trees
        return "".join(line for line in text.splitlines(keepends=True) if not line.startswith(_ADDRESSES)).encode()


def _dataset(rows: BoostingRows, params: dict[str, object], reference: Any = None) -> Any:
    import lightgbm  # noqa: PLC0415 - an extra

    return lightgbm.Dataset(
        rows.features,
        label=rows.label,
        weight=rows.weight,
        group=list(rows.group_sizes) or None,
        feature_name=[f"f{number}" for number in range(len(rows.names))],  # names may have characters that it refuses
        categorical_feature=list(rows.categorical),
        reference=reference,
        params=dict(params),
        free_raw_data=True,
    )
