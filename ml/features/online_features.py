"""Features of entities, as a project's models take them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from ml.features.materialization import store_of
from ml.features.on_demand import OnDemand, OnDemandEngine
from ml.features.online.reading import FeatureReader, ReadFeatures
from ml.features.online.store import ViewState
from ml.features.point_in_time import Join
from ml.features.service import Features, FeatureService, features, service_of
from ml.features.training_set import TrainingSet
from ml.features.view import FeatureView
from pipeline.core.errors import DefinitionError, RequestError, few
from pipeline.project.project import Project
from pipeline.project.workspace import Workspace

Given = Mapping[str, Mapping[int, Any]]
"""By feature, the values that some rows have, by their number from 0."""


@dataclass(frozen=True)
class ChosenFeatures:
    """The features of a service: joined ones and computed ones, and what the labelled rows are like."""

    joins: tuple[Join, ...]
    computed: tuple[OnDemand, ...] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    """The SQL types of the columns of the labelled rows, as far as they are known."""
    event_time: str = ""

    def only(self, names: Collection[str]) -> ChosenFeatures:
        """Return those that are needed for some features: if one of these is computed, all that are computed."""
        wanted = {*names}
        computed = self.computed if wanted.intersection(self.computed_names) else ()
        wanted.update(column for each in computed for column in each.columns)
        joins = tuple(join for join in self.joins if wanted.intersection(join.names))
        return replace(self, joins=joins, computed=computed)

    @property
    def request_columns(self) -> tuple[str, ...]:
        """The columns of a request that they need: those of entities, and those that on-demand features read."""
        on = (dict(join.selected.on) for join in self.joins)
        entities = (
            names.get(name, name) for names, join in zip(on, self.joins, strict=True) for name in join.view.entity
        )
        made = {*(name for join in self.joins for name in join.names), *self.computed_names}
        read = (column for each in self.computed for column in each.columns if column not in made)
        return tuple(dict.fromkeys((*entities, *(column for column in read if column != self.event_time))))

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
        self._engine = OnDemandEngine()
        self._by_name: dict[str, ChosenFeatures] = {}

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
        return self.look_up(self.chosen(service), table, at=at).values

    def look_up(
        self, chosen: ChosenFeatures, rows: pa.Table, *, given: Given | None = None, at: datetime | None = None
    ) -> ReadFeatures:
        """Return features of rows, as `get` does, with the event times of those that are stored.

        `given` has values of some features for each row, which replace those that are stored before others are computed.
        """
        read = self._reader.read(chosen.joins, rows, at)
        values = _replaced(read.values, given or {})
        if chosen.computed:
            computed = self._engine.compute(_read_columns(chosen, values, rows, at), chosen.computed, chosen.types)
            columns = {name: values[name] for name in values.column_names}
            values = pa.table({**columns, **{name: computed[name] for name in chosen.computed_names}})
        return ReadFeatures(_replaced(values, given or {}), read.event_times)

    def states(self) -> Mapping[str, ViewState]:
        """Return what the store knows of each view that it has; raise `StorageError` if it cannot be read."""
        return self._store.states()

    def require(self) -> None:
        """Raise `StorageError` if the store cannot be read."""
        self.states()

    def close(self) -> None:
        """Close the connections."""
        self._store.close()
        self._engine.close()

    def chosen(self, service: str | FeatureService | Sequence[Features | OnDemand]) -> ChosenFeatures:
        """Return the features of a service, as `get` takes it; raises as `get` does."""
        if not isinstance(service, str):
            chosen = service_of(service)
            joins = tuple(self._join(each, n) for n, each in enumerate(chosen.features))
            names = [
                *(name for join in joins for name in join.names),
                *(n for each in chosen.computed for n in each.names),
            ]
            counts = Counter(name.lower() for name in names)
            twice = next((name for name in names if counts[name.lower()] > 1), None)
            if twice is not None:
                raise RequestError(f"two features have the name {twice!r}", do="write 'name as other', or pass prefix=")
            return ChosenFeatures(joins, chosen.computed)
        if service not in self._by_name:
            self._by_name[service] = self._named(service)
        return self._by_name[service]

    def _named(self, service: str) -> ChosenFeatures:
        definition = self._project.graph[service]
        if isinstance(definition, FeatureView):
            return ChosenFeatures((self._join(features(definition.name), 0),))
        if not isinstance(definition, TrainingSet):
            raise RequestError(f"{service!r} is neither a training set nor a feature view", got=f"a {definition.kind}")
        if not definition.computed:
            return ChosenFeatures(definition.joins)
        schema = Workspace(self._project).require(service).schema.as_dict()
        types = {name: kind for name, kind in schema.items() if name in definition.labels}
        return ChosenFeatures(definition.joins, definition.computed, types, definition.event_time)

    def _join(self, selected: Features, number: int) -> Join:
        view = self._project.graph[selected.view]
        if not isinstance(view, FeatureView):
            raise DefinitionError(
                f"features(…) names {selected.view!r}, which is not a feature view", place=selected.place
            )
        join, on = Join(view, selected, f"f{number}"), dict(selected.on)
        join.require_fit([on.get(name, name) for name in view.entity])
        return join


def _replaced(values: pa.Table, given: Given) -> pa.Table:
    """Return features with some values replaced; raise `RequestError` for one of another type."""
    for name, others in given.items():
        if name not in values.column_names:
            continue
        kind, column = values.schema.field(name).type, values[name].to_pylist()
        for number, value in others.items():
            column[number] = _as(value, kind)
        try:
            array = pa.array(column, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            got = str(error).partition("\n")[0]
            raise RequestError(f"a value of {name!r} is not of its type, {kind}", got=got) from error
        values = values.set_column(values.column_names.index(name), name, array)
    return values


def _as(value: Any, kind: pa.DataType) -> Any:
    """Return a value of JSON as Arrow takes it for a type; others unchanged."""
    try:
        if isinstance(value, str) and pa.types.is_timestamp(kind):
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if isinstance(value, str) and pa.types.is_date(kind):
            return date.fromisoformat(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return Decimal(str(value)) if is_number and pa.types.is_decimal(kind) else value
    except ValueError:
        return value  # reported with the type


def _read_columns(chosen: ChosenFeatures, stored: pa.Table, rows: pa.Table, at: datetime | None) -> pa.Table:
    """Return the columns that on-demand features read: stored features, and columns of the request.

    The event time is that of the request, unless the rows have it. Raises `RequestError` for a column that is missing.
    """
    columns: dict[str, Any] = {}
    known = {name.lower(): rows[name] for name in rows.column_names}
    known |= {name.lower(): stored[name] for name in stored.column_names}
    computed = {name.lower() for name in chosen.computed_names}
    for column in {column.lower(): column for each in chosen.computed for column in each.columns}.values():
        if column.lower() in computed:
            continue
        if column.lower() in known:
            columns[column] = known[column.lower()]
        elif column == chosen.event_time:
            time = (at or datetime.now(UTC)).astimezone(UTC) if at is None or at.tzinfo else at.replace(tzinfo=UTC)
            columns[column] = pa.array([time] * rows.num_rows, pa.timestamp("us", "UTC"))
        else:
            raise RequestError(
                f"the rows have no column {column!r}, which an on-demand feature reads",
                got=few(map(repr, rows.column_names), 12) or "no columns",
                do=f"pass {column!r}",
            )
    return pa.table(columns or {"_row": pa.nulls(rows.num_rows)})


def _table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table; a name that is missing in a row is null there."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    try:
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise RequestError("the rows have values of different types", got=str(error).partition("\n")[0]) from error
