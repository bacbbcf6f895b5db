"""Looks up the features of requests in the online store, for models whose training set has features of views."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ml.features import FeatureView, TrainingSet
from ml.features.online_features import ChosenFeatures, OnlineFeatures
from ml.models import Predictor
from pipeline.core.definitions import Artifact
from pipeline.core.errors import ModelError, RequestError
from pipeline.project.project import Project
from serve.http_errors import RowsError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CompletedRows:
    """Rows with all features of a model, and those features that were looked up or computed, for each row."""

    rows: list[dict[str, Any]]
    looked_up: list[dict[str, Any]]
    """By feature: its `value`, and the `event_time` of the row of its view, which computed features do not have."""
    asked: list[dict[str, Any]]
    """The columns of each row by which features were looked up; none if it has them all."""


class FeatureLookup:
    """The features of a project's models that the online store has. Thread-safe."""

    def __init__(self, project: Project) -> None:
        """Create the look-up. Nothing is opened."""
        self._graph = project.graph
        self._online = OnlineFeatures(project)

    @property
    def online(self) -> OnlineFeatures:
        """The online store."""
        return self._online

    def close(self) -> None:
        """Close the connections."""
        self._online.close()

    def require(self) -> None:
        """Raise `StorageError` if a view of the project is online and the store cannot be read."""
        if any(isinstance(view, FeatureView) and view.online for view in self._graph.definitions):
            self._online.require()

    def names(self, model: str) -> frozenset[str]:
        """Return the features of a model that need not be in a request."""
        examples = self._training_set(model)
        if examples is None:
            return frozenset()
        stored = {name for join in examples.joins if join.view.online for name in join.names}
        all_stored = all(join.view.online for join in examples.joins)
        computed = {name for each in examples.computed for name in each.names} if all_stored else set()
        return frozenset(stored | computed)

    def request_columns(self, model: str) -> tuple[str, ...]:
        """Return the columns of a request from which its features are looked up and computed."""
        names = self.names(model)
        return self._chosen(model).only(names).request_columns if names else ()

    def complete(self, predictor: Predictor, trained_on: Mapping[str, str], rows: Sequence[Row]) -> CompletedRows:
        """Return rows with the features that they lack. Values that a row has are kept.

        `trained_on` are the feature views that the model was trained on. Raises `ModelError` if one of them has another
        definition now, `RowsError` for rows without the entity of a feature that they lack, and `StorageError` if the online
        store cannot be read.
        """
        model, known = predictor.name, self.names(predictor.name)
        lacking = {name for name in predictor.inputs if name in known and any(name not in row for row in rows)}
        columns = self.request_columns(model)
        if not lacking:
            nothing: list[dict[str, Any]] = [{}] * len(rows)
            return CompletedRows([_inputs(row, predictor, columns) for row in rows], nothing, nothing)
        self._require_views(predictor, trained_on)
        chosen = self._chosen(model).only(lacking)
        table = _table(rows, chosen, lacking)
        given = {
            name: {number: row[name] for number, row in enumerate(rows) if name in row}
            for name in (*(n for join in chosen.joins for n in join.names), *chosen.computed_names)
        }
        try:
            read = self._online.look_up(chosen, table, given={n: values for n, values in given.items() if values})
        except RequestError as error:
            raise RowsError(error.problem, got=error.got, do=error.do) from error
        names = [name for name in read.values.column_names if name in predictor.inputs]
        values = {name: [_plain(value) for value in read.values[name].to_pylist()] for name in names}
        shown = _shown(values, read.event_times)
        complete = [_inputs(row, predictor, columns) for row in rows]
        looked_up: list[dict[str, Any]] = [{} for _ in rows]
        for name in names:
            for number, row in enumerate(rows):
                if name not in row:
                    complete[number][name] = values[name][number]
                    looked_up[number][name] = shown[name][number]
        asked = [{name: row[name] for name in columns if name in row} for row in rows]
        return CompletedRows(complete, looked_up, asked)

    def _require_views(self, predictor: Predictor, trained_on: Mapping[str, str]) -> None:
        examples = self._training_set(predictor.name)
        now = {} if examples is None else examples.views
        for view, fingerprint in trained_on.items():
            if now.get(view, fingerprint) != fingerprint:
                raise ModelError(
                    f"model {predictor.name!r} was trained on feature view {view!r} of another definition",
                    do="run `headwater run`, which trains it again",
                )

    def _chosen(self, model: str) -> ChosenFeatures:
        return self._online.chosen(self._graph[model].inputs[0])

    def _training_set(self, model: str) -> TrainingSet | None:
        artifact = self._graph[model]
        examples = self._graph[artifact.inputs[0]] if isinstance(artifact, Artifact) and artifact.inputs else None
        return examples if isinstance(examples, TrainingSet) and (examples.joins or examples.computed) else None


def _inputs(row: Row, predictor: Predictor, columns: Collection[str]) -> dict[str, Any]:
    """Return a row without columns that only serve to look up others."""
    return {name: value for name, value in row.items() if name in predictor.inputs or name not in columns}


def _table(rows: Sequence[Row], chosen: ChosenFeatures, lacking: set[str]) -> pa.Table:
    """Return the columns of the rows that the features need."""
    columns = {}
    for name in chosen.request_columns:
        without = next(
            (number for number, row in enumerate(rows) if name not in row and not row.keys() >= lacking), None
        )
        if without is not None:
            missing = sorted(lacking.difference(rows[without]))
            raise RowsError(
                f"row {without} lacks {', '.join(map(repr, missing))}",
                do=f"pass {name!r}, from which features are looked up or computed, or the features; null for unknown values",
            )
        try:
            columns[name] = pa.array([row.get(name) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise RowsError(f"{name!r} has values of different types", got=str(error).partition("\n")[0]) from error
    event_time = [row.get(chosen.event_time) for row in rows] if chosen.event_time else []
    if any(value is not None for value in event_time):
        columns[chosen.event_time] = pa.array(event_time)
    return pa.table(columns)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it; NaN is null, as in training."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and math.isnan(value):
        return None
    return value.isoformat() if isinstance(value, date) else value


def _shown(values: Mapping[str, list[Any]], event_times: Mapping[str, pa.Array]) -> dict[str, list[dict[str, Any]]]:
    """Return the values of each feature with their event times; the features of a view share one array of times."""
    texts: dict[int, list[str | None]] = {}
    shown = {}
    for name, of_rows in values.items():
        times = event_times.get(name)
        if times is None:
            shown[name] = [{"value": value} for value in of_rows]
            continue
        if id(times) not in texts:
            texts[id(times)] = [None if time is None else time.isoformat() for time in times.to_pylist()]
        pairs = zip(of_rows, texts[id(times)], strict=True)
        shown[name] = [{"value": value, "event_time": text} for value, text in pairs]
    return shown
