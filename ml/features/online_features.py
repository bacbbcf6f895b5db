"""Features of entities, as a project's models take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from ml.features.materialization import store_of
from ml.features.online.reading import FeatureReader
from ml.features.point_in_time import Join
from ml.features.service import Features, FeatureService
from ml.features.training_set import TrainingSet, TrainingSetTransform
from ml.features.view import FeatureView
from pipeline.core.errors import DefinitionError, RequestError
from pipeline.project.project import Project


class OnlineFeatures:
    """The online store of a project, for reading. Thread-safe."""

    def __init__(self, project: Project) -> None:
        """Create the reader; nothing is opened before the first read."""
        self._project = project
        self._store = store_of(project.settings)
        self._reader = FeatureReader(self._store)

    def get(
        self,
        service: str | FeatureService | Sequence[Features],
        rows: pa.Table | Sequence[Mapping[str, Any]],
        *,
        at: datetime | None = None,
    ) -> pa.Table:
        """Return the features of entities, one row for each of `rows`, in their order.

        `service` is a feature service, or the name of a training set or a feature view. `rows` have the entity columns,
        under the names that labelled rows have. The result has the features with their names and types: the values that the
        point-in-time join would give to a row of this moment, or of `at`, which must not be before what the store keeps.
        Entities that are unknown have nulls. All views are read in one round trip.

        Raises `RequestError` for an unknown name, missing entity columns, and values of other types; `StorageError` if a view
        is not in the store as it is defined now, or the store cannot be read.
        """
        table = rows if isinstance(rows, pa.Table) else _table(rows)
        return self._reader.read(self._joins(service), table, at)

    def close(self) -> None:
        """Close the connections."""
        self._store.close()

    def _joins(self, service: str | FeatureService | Sequence[Features]) -> tuple[Join, ...]:
        if isinstance(service, str):
            definition = self._project.graph[service]
            if isinstance(definition, TrainingSet) and isinstance(definition.transform, TrainingSetTransform):
                return definition.transform.joins
            if isinstance(definition, FeatureView):
                return (Join(definition, Features(definition.name, (), (), "", "", False, definition.place), "f0"),)  # noqa: FBT003
            raise RequestError(f"{service!r} is neither a training set nor a feature view", got=f"a {definition.kind}")
        selected = service.features if isinstance(service, FeatureService) else service
        return tuple(self._join(each, number) for number, each in enumerate(selected))

    def _join(self, selected: Features, number: int) -> Join:
        view = self._project.graph[selected.view]
        if not isinstance(view, FeatureView):
            raise DefinitionError(
                f"features(…) names {selected.view!r}, which is not a feature view", place=selected.place
            )
        return Join(view, selected, f"f{number}")


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table; a name that is missing in a row is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RequestError("the rows have values of different types", got=str(error).partition("\n")[0]) from error
