"""Gradient boosting by LightGBM and XGBoost: in this process, or by several workers of Ray Train."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from ml.models.options import require_whole_number
from ml.models.rows import LabelledRows
from ml.models.stored_rows import StoredRows
from ml.models.tasks import TaskName
from ml.models.trainers.boosted_trees import BoostedTrees
from ml.models.trainers.encoding import MOST_CATEGORIES, FeatureEncoding
from ml.models.trainers.rounds import AfterRound, BoostingRows, Library, Rounds
from ml.models.trainers.trainer import FitRequest, Trainer, set_passive_openmp_wait, translated_failures
from pipeline.core.definitions import caller
from pipeline.core.errors import DefinitionError, ModelError, Place, did_you_mean
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint

_ROUNDS = frozenset({
    "max_iter", "n_estimators", "n_iter", "nrounds", "num_boost_round", "num_iteration", "num_iterations", "num_round",
    "num_rounds", "num_tree", "num_trees",
})  # fmt: skip
"""The names that LightGBM and XGBoost have for the number of trees."""
SEEDS = frozenset({"seed", "random_seed", "random_state"})
"""Their names for the seed."""
STOPPING_SHARE = 0.1
"""The share of the newest training rows that decides when to stop early."""


@dataclass(frozen=True, init=False)
class Boosting(Trainer):
    """Fits boosted trees to features of all kinds. Texts become codes, nulls are missing values."""

    library: ClassVar[Library]
    objectives: ClassVar[Mapping[TaskName, str]]
    """The objective of each task."""

    rounds: int
    workers: int
    stop_after: int
    balanced: bool
    params: Mapping[str, object]

    def __init__(
        self,
        *,
        rounds: int = 200,
        workers: int = 0,
        stop_after: int = 0,
        balanced: bool = False,
        **params: object,
    ) -> None:
        """Take the number of trees and options, of which `params` are those of the library, such as `learning_rate`.

        `stop_after` stops earlier if so many rounds bring no progress on the newest tenth of the training rows. `balanced`
        weighs rows so that all classes count the same. With `workers`, so many workers of Ray Train fit together, each on its
        share of the rows, which they read; with 0, this process fits.

        Raises `DefinitionError` for numbers that are too small, and for params that are not numbers, texts, booleans or lists.
        """
        _require_options(rounds, workers, stop_after, params)
        values = {
            "rounds": rounds,
            "workers": workers,
            "stop_after": stop_after,
            "balanced": balanced,
            "params": params,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def hyperparameters(self) -> Mapping[str, object]:
        """The number of rounds, and the parameters of the library."""
        return {"rounds": self.rounds, **self.params}

    @property
    def takes_any(self) -> bool:
        """The library knows its parameters."""
        return True

    @property
    def continues(self) -> bool:
        """Trees are added to trees, unless other workers or the newest rows decide about them."""
        return not self.workers and not self.stop_after

    @property
    def has_workers(self) -> bool:
        """Whether workers of Ray Train fit it."""
        return bool(self.workers)

    @property
    def tasks(self) -> Collection[TaskName]:
        """The tasks that have an objective."""
        return self.objectives

    @property
    def fingerprint(self) -> str:
        """Changes with all options. Trees of two workers differ from those of one, so the number of workers is one of them."""
        options = (self.rounds, self.workers, self.stop_after, self.balanced, sorted(self.params.items()))
        return fingerprint(self.library, options)

    def known_params(self) -> Collection[str]:
        """Return the names of the library's parameters; none if it does not tell. The library is installed."""
        return ()

    def require_known(self, names: Collection[str], place: Place) -> None:
        """Raise `ModelError` for a parameter that the library does not have, which it would ignore."""
        self._require_library()
        known = self.known_params()
        for name in names:
            if known and name not in known and name != "rounds":
                raise ModelError(f"{self.library} has no parameter {name!r}", do=did_you_mean(name, known), place=place)

    def _require_library(self) -> None:
        set_passive_openmp_wait()
        with imports_of("boosting", f"a model of {type(self).__name__}"):
            __import__(self.library)

    @abstractmethod
    def grow(self, rows: BoostingRows, newest: BoostingRows | None, rounds: Rounds, after: AfterRound | None) -> bytes:
        """Return the trees that the library fits to rows, in its own format."""

    def fit(self, request: FitRequest) -> BoostedTrees:
        """Return the fitted trees.

        A list among the values has one for each stage of as many rounds; each stage goes on from the trees of the stage before.
        Raises `ModelError` if the library fails, for example for an unknown parameter's value.
        """
        values = {**self.params, **request.values}
        self.require_known(values, request.place)
        if request.task.name == "ranking" and (self.workers or self.stop_after):
            do = "remove workers= and stop_after="
            raise ModelError("a ranking is fitted to all of its groups at once", do=do, place=request.place)
        count = values.pop("rounds", self.rounds)
        start = None if request.start is None else request.start.trees
        rounds = Rounds(int(str(count)), {**_objective(self, request), **values}, self.stop_after, start)
        with translated_failures(request):
            if isinstance(request.rows, StoredRows):
                return self._fit_stored(request, request.rows, rounds)
            return self._fit_here(request, request.rows, rounds)

    def _fit_here(self, request: FitRequest, labelled: LabelledRows, rounds: Rounds) -> BoostedTrees:
        encoding = FeatureEncoding.learned(labelled.features, request.kinds)
        rows, newest, start = _encoded(request, labelled, encoding, balanced=self.balanced), None, rounds.start
        if self.stop_after:
            cut = len(rows.label) - max(1, int(len(rows.label) * STOPPING_SHARE))
            rows, newest = rows.part(slice(0, cut)), rows.part(slice(cut, None))

        def trees(grown: bytes) -> BoostedTrees:
            return BoostedTrees(self.library, grown, encoding, request.task.name, request.task.classes)

        progress = request.progress
        after = None if progress is None else lambda number, grown: progress(number, lambda: trees(grown()))
        *earlier, last = _stages(rounds, request.values)
        for stage in earlier:
            start = self.grow(rows, newest, replace(stage, start=start), None)
        return trees(self.grow(rows, newest, replace(last, start=start), after))

    def _fit_stored(self, request: FitRequest, stored: StoredRows, rounds: Rounds) -> BoostedTrees:
        from ml.models.trainers.distributed import StoredBoostingRows, grow_on_ray  # noqa: PLC0415 - Ray takes seconds

        rows, newest = stored.newest(STOPPING_SHARE) if self.stop_after else (stored, None)
        encoding = FeatureEncoding(dict(request.kinds), stored.categories(MOST_CATEGORIES))
        classes = tuple(request.task.classes)
        weights = stored.class_weights(classes) if self.balanced and classes else ()
        work = StoredBoostingRows(rows, newest, encoding, classes, weights)
        grown = grow_on_ray(self, work, rounds, request.model)
        return BoostedTrees(self.library, grown, encoding, request.task.name, request.task.classes)


def rounds_of_stage(rounds: int, stage: int, stages: int) -> int:
    """Return how many of the rounds belong to a stage, from 0."""
    return round(rounds * (stage + 1) / stages) - round(rounds * stage / stages)


def _stages(rounds: Rounds, values: Mapping[str, object]) -> list[Rounds]:
    """Return the rounds of each stage, with its values; one stage if no value changes."""
    changing = {name: value for name, value in values.items() if isinstance(value, list)}
    stages = max(map(len, changing.values()), default=1)
    return [
        replace(
            rounds,
            count=rounds_of_stage(rounds.count, stage, stages),
            params={**rounds.params, **{name: value[stage] for name, value in changing.items()}},
        )
        for stage in range(stages)
    ]


def _require_options(rounds: int, workers: int, stop_after: int, params: Mapping[str, object]) -> None:
    """Raise `DefinitionError` for invalid options of boosting."""
    place = caller()
    for name, number, least in (("rounds", rounds, 1), ("workers", workers, 0), ("stop_after", stop_after, 0)):
        require_whole_number(name, number, least, place)
    for option, value in params.items():
        if option in _ROUNDS:
            problem = f"the number of trees has two names, rounds= and {option}="
            raise DefinitionError(problem, do="use rounds=", place=place)
        if not isinstance(value, str | int | float | bool | list | tuple):
            problem = f"{option}= must be a number, a text, a boolean or a list"
            raise DefinitionError(problem, got=type(value).__name__, place=place)


def _objective(trainer: Boosting, request: FitRequest) -> dict[str, object]:
    task = request.task
    classes = {"num_class": len(task.classes)} if task.name == "multiclass" else {}
    return {"objective": trainer.objectives[task.name], **classes}


def _encoded(request: FitRequest, rows: LabelledRows, encoding: FeatureEncoding, *, balanced: bool) -> BoostingRows:
    import numpy as np  # noqa: PLC0415 - needed only for training

    label, weight = request.task.codes(rows.label.to_numpy()), None
    if balanced and request.task.classes:
        _, inverse, counts = np.unique(label, return_inverse=True, return_counts=True)
        weight = (len(label) / (len(counts) * counts))[inverse]
    features = encoding.matrix(rows.features)
    names, categorical = tuple(encoding.kinds), tuple(encoding.categorical)
    if request.task.name != "ranking":
        return BoostingRows(features, label, weight, names, categorical)
    _, queries = np.unique(rows.group.to_numpy(), return_inverse=True)
    order, sizes = np.argsort(queries, kind="stable"), tuple(np.bincount(queries).tolist())
    return BoostingRows(features[order], label[order], None, names, categorical, sizes)
