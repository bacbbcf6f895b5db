"""Features of entities, as a project's models take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from ml.features.materialization import store_of
from ml.features.on_demand import OnDemand, compute
from ml.features.online.reading import FeatureReader
from ml.features.point_in_time import Join
from ml.features.service import Features, FeatureService, features, service_of
from ml.features.training_set import TrainingSet, TrainingSetTransform
from ml.features.view import FeatureView
from pipeline.core.errors import DefinitionError, RequestError, did_you_mean
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace


@dataclass(frozen=True)
class _Chosen:
    """The features of a service: joined ones and computed ones, and what the labelled rows are like."""

    joins: tuple[Join, ...]
    computed: tuple[OnDemand, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    """The SQL types of the columns of the labelled rows, as far as they are known."""
    event_time: str = ""

    @property
    def computed_names(self) -> tuple[str, ...]:
        """The names of the computed features."""
        return tuple(name for each in self.computed for name in each.names)


class OnlineFeatures:
    """The online store of a project, for reading. Thread-safe."""

    def __init__(self, project: Project) -> None:
        """Create the reader; nothing is opened before the first read."""
        self._project = project
        self._store = store_of(project.settings)
        self._reader = FeatureReader(self._store)
        self._by_name: dict[str, _Chosen] = {}

    def get(
        self,
        service: str | FeatureService | Sequence[Features | OnDemand],
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
        chosen = self._chosen(service)
        stored = self._reader.read(chosen.joins, table, at)
        if not chosen.computed:
            return stored
        made = _with_request(chosen, stored, table, at)
        return compute(made, chosen.computed, chosen.types).select([*stored.column_names, *chosen.computed_names])

    def close(self) -> None:
        """Close the connections."""
        self._store.close()

    def _chosen(self, service: str | FeatureService | Sequence[Features | OnDemand]) -> _Chosen:
        if not isinstance(service, str):
            chosen = service_of(service)
            return _Chosen(tuple(self._join(each, n) for n, each in enumerate(chosen.features)), chosen.computed)
        if service not in self._by_name:
            self._by_name[service] = self._named(service)
        return self._by_name[service]

    def _named(self, service: str) -> _Chosen:
        definition = self._project.graph[service]
        if isinstance(definition, FeatureView):
            return _Chosen((self._join(features(definition.name), 0),))
        if not isinstance(definition, TrainingSet) or not isinstance(definition.transform, TrainingSetTransform):
            raise RequestError(f"{service!r} is neither a training set nor a feature view", got=f"a {definition.kind}")
        transform = definition.transform
        if not transform.computed:
            return _Chosen(transform.joins)
        labels = transform.written.named_selects
        schema = Workspace(self._project).require(service).schema.as_dict()
        types = {name: kind for name, kind in schema.items() if name in labels}
        return _Chosen(transform.joins, transform.computed, types, definition.event_time)

    def _join(self, selected: Features, number: int) -> Join:
        view = self._project.graph[selected.view]
        if not isinstance(view, FeatureView):
            raise DefinitionError(
                f"features(…) names {selected.view!r}, which is not a feature view", place=selected.place
            )
        return Join(view, selected, f"f{number}")


def _with_request(chosen: _Chosen, stored: pa.Table, rows: pa.Table, at: datetime | None) -> pa.Table:
    """Return the stored features with the columns of the request that on-demand features read.

    The event time is that of the request, unless the rows have it. Raises `RequestError` for a column that is missing.
    """
    names = {name.lower(): name for name in rows.column_names}
    known = {*(name.lower() for name in stored.column_names), *(name.lower() for name in chosen.computed_names)}
    for column in dict.fromkeys(column for each in chosen.computed for column in each.columns):
        if column.lower() in known:
            continue
        if column.lower() in names:
            stored = stored.append_column(column, rows[names[column.lower()]])
        elif column == chosen.event_time:
            time = (at or datetime.now(UTC)).astimezone(UTC) if at is None or at.tzinfo else at.replace(tzinfo=UTC)
            stored = stored.append_column(column, pa.array([time] * rows.num_rows, pa.timestamp("us", "UTC")))
        else:
            raise RequestError(
                f"the rows have no column {column!r}, which an on-demand feature reads",
                do=did_you_mean(column, rows.column_names),
            )
    return stored


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table; a name that is missing in a row is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RequestError("the rows have values of different types", got=str(error).partition("\n")[0]) from error
