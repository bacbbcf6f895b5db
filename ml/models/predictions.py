"""Batch inference: a table with a prediction for each row of another table, by the champion of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.core.definitions import Expectation, Table, caller, checks, names
from pipeline.core.errors import DefinitionError, ModelError, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.core.functions import FunctionTransform
from pipeline.core.partition_fields import partitioning

if TYPE_CHECKING:
    import pyarrow as pa

    from ml.models.fitted import FittedModel
    from ml.models.tasks.task import Features

VERSION = "model_version"
PREDICTED = ("predicted", "probability", "score", VERSION)


@dataclass(frozen=True)
class Scorer:
    """Predicts the rows of blocks. It contains the model, so that workers need no model store."""

    model: str
    keep: tuple[str, ...]
    fitted: FittedModel | None = None
    version: str = ""

    @property
    def __name__(self) -> str:
        """The name of the model, for messages."""
        return self.model

    def __call__(self, **tables: pa.Table) -> pa.Table:
        """Return the kept columns of a block with its predictions. Raises `ModelError` if the rows do not fit the model."""
        (rows,) = tables.values()
        if self.fitted is None:
            raise ModelError(f"model {self.model!r} is not loaded", do="compute the table by headwater run")
        return scored(self.fitted, self.model, int(self.version), rows, self.keep)


@dataclass(frozen=True)
class PredictionTransform(FunctionTransform):
    """Predicts the rows of a table."""

    function: Scorer

    @property
    def fingerprint(self) -> str:
        """A hash of the model's name and the columns: another champion predicts new rows, and existing rows stay."""
        return fingerprint("predictions", self.function.model, self.inputs, self.function.keep)

    def loaded(self, store: str) -> PredictionTransform:
        """Return the transform with the champion. Raises `ModelError` if there is none yet."""
        from ml.models.serving import load_champion  # noqa: PLC0415 - imports MLflow, which is slow

        champion = load_champion(store, self.function.model)
        return replace(self, function=replace(self.function, fitted=champion.fitted, version=champion.version))


@dataclass(frozen=True, kw_only=True)
class Predictions(Table):
    """A table of predictions."""

    transform: PredictionTransform

    @property
    def artifacts(self) -> tuple[str, ...]:
        """The model, which is trained before."""
        return (self.transform.function.model,)


def predictions(  # noqa: PLR0913 - options of a definition, all keyword-only
    model: str,
    *,
    on: str,
    key: str | Sequence[str],
    keep: str | Sequence[str] = (),
    partition_by: str | Sequence[str] | None = None,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> Predictions:
    """Define a table with a prediction of a model for each row of the table `on`.

    It has the columns `key` and `keep` of that table, and `model_version`. A binary task adds `predicted`, a boolean, and
    `probability`; several classes add `predicted`, a text, and its `probability`; a regression adds `predicted`, a number. New rows
    are predicted by the champion of the time; `headwater run --full` predicts all rows anew.

    Raises `DefinitionError` without a key, and for columns that are named like those of predictions.
    """
    place = caller()
    columns = tuple(dict.fromkeys((*names(key), *names(keep))))
    if not names(key):
        raise DefinitionError("predictions have no key", do="name the column that identifies the rows", place=place)
    for name in columns:
        if name in PREDICTED:
            problem = f"the column {name!r} has the name of a column of predictions"
            raise DefinitionError(problem, do="rename it in the table that is predicted", place=place)
    return Predictions(
        place=place,
        description=description or f"Predictions of {model} for the rows of {on}.",
        layer="gold",
        role="predictions",
        key=names(key),
        partition_by=partitioning(partition_by, place),
        expect=checks(expect, place),
        transform=PredictionTransform(Scorer(model, columns), (on,), "arrow"),
    )


def scored(fitted: FittedModel, model: str, version: int, rows: pa.Table, keep: Sequence[str]) -> pa.Table:
    """Return columns of rows with their predictions.

    Raises `ModelError` for a column that is missing, or of another kind than the feature of its name, and for a model that does
    not predict the rows.
    """
    import pyarrow as pa  # noqa: PLC0415 - not needed to define tables

    features = features_of(fitted, model, rows)
    for name in keep:
        if name not in rows.column_names:
            do = did_you_mean(name, rows.column_names)
            raise ModelError(f"the column {name!r} of model {model!r} is not in the table to predict", do=do)
    columns = {name: rows[name] for name in keep}
    return pa.table({**columns, **fitted.columns(features), VERSION: pa.array([version] * rows.num_rows, pa.int64())})


def features_of(fitted: FittedModel, model: str, rows: pa.Table) -> Features:
    """Return the features of rows as a model takes them; raise `ModelError` for one that is missing or of another kind."""
    import pyarrow as pa  # noqa: PLC0415 - not needed to define tables

    from ml.models.rows import kind_of  # noqa: PLC0415 - likewise

    for name, kind in fitted.kinds.items():
        if name not in rows.column_names:
            do = did_you_mean(name, rows.column_names)
            raise ModelError(f"the feature {name!r} of model {model!r} is not in the table to predict", do=do)
        type_ = rows.schema.field(name).type
        found = kind_of(type_)
        if not pa.types.is_null(type_) and (found is None or _GROUP[found] != _GROUP[kind]):
            problem = f"the feature {name!r} of model {model!r} has another type than at training"
            raise ModelError(problem, got=f"{type_} instead of a {kind}", do="convert it")
    return fitted.features(rows)


_GROUP: Mapping[Any, str] = {
    "boolean": "number",
    "integer": "number",
    "number": "number",
    "text": "text",
    "timestamp": "timestamp",
}
