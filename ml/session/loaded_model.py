"""A registered version of a model, ready to predict in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ml.models.predictions import PREDICTED, features_of, scored
from ml.models.registry.versions import ModelVersion
from ml.models.serving import Predictor
from ml.session.display import rows_html, rows_text
from ml.session.given import given_table, is_objects
from ml.session.rows import Rows
from pipeline.core.errors import RequestError


@dataclass(frozen=True, repr=False)
class LoadedModel:
    """A version of a model."""

    registered: ModelVersion
    predictor: Predictor
    rows_of: Callable[[pa.Table], Rows]
    """Makes rows of a table in memory."""

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.registered.name

    @property
    def version(self) -> int:
        """The number of the version."""
        return self.registered.number

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its metrics on the holdout, by name."""
        return self.registered.metrics

    @property
    def features(self) -> Mapping[str, str]:
        """The kind of each feature that it takes: `number`, `integer`, `text`, `boolean` or `timestamp`."""
        return self.predictor.inputs

    def predict(self, rows: Any) -> Rows:
        """Return rows with their predictions, in the columns of `predictions(...)`: `predicted`, `probability`, `model_version`.

        `rows` is a table of any library, or a list of objects. Each has all features of the model; its other columns are
        kept. Raises `RequestError` or `ModelError` for a feature that is missing or has another type, and `RequestError` for a
        column that has the name of a prediction.
        """
        table = self._given(rows)
        for name in PREDICTED:
            if name in table.column_names:
                problem = f"the column {name!r} has the name of a column of predictions"
                raise RequestError(problem, do="rename it, or leave it out")
        return self.rows_of(scored(self.predictor.fitted, self.name, self.version, table, table.column_names))

    def explain(self, rows: Any) -> Rows:
        """Return what makes the score of each row, in its order: `_base`, and what each feature adds to it.

        The score is their sum; see `FittedModel.explanations`. Raises as `predict` does, and `RequestError` for estimators that cannot be
        explained.
        """
        fitted = self.predictor.fitted
        added = fitted.explanations(features_of(fitted, self.name, self._given(rows)))
        parts = {name: [row.features[name] for row in added] for name in self.features}
        return self.rows_of(pa.table({"_base": [row.base for row in added], **parts}))

    def _given(self, rows: Any) -> pa.Table:
        if not is_objects(rows):
            return given_table(rows)
        features = self.predictor.table(rows)  # reads times as text, as an endpoint does
        others = [{name: value for name, value in row.items() if name not in self.features} for row in rows]
        kept = given_table(others) if any(others) else pa.table({})
        columns = {name: kept[name] for name in kept.column_names}
        return pa.table({**columns, **{name: features[name] for name in features.column_names}})

    def __repr__(self) -> str:
        """Return its name, version and roles, and its metrics as a text table."""
        return rows_text(*self._shown())

    def _repr_html_(self) -> str:
        return rows_html(*self._shown())

    def _shown(self) -> tuple[pa.Table, str]:
        roles = f", {' and '.join(self.registered.roles)}" if self.registered.roles else ""
        names = sorted(self.metrics)
        metrics = pa.table({"metric": names, "value": [self.metrics[name] for name in names]})
        return metrics, f"model {self.name}, version {self.version}{roles}"
