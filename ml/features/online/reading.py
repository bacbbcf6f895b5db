"""Reads features online: the values that the point-in-time join would give to rows of this moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ml.features.online.keys import entity_keys
from ml.features.online.row_versions import RowVersion, version_at
from ml.features.online.store import FeatureStore, ViewState, now_us
from ml.features.point_in_time import Join
from pipeline.core.errors import RequestError, StorageError, few

_DAY_US = 86_400_000_000
_LOAD = "run `headwater features materialize {}`"


@dataclass(frozen=True)
class ReadFeatures:
    """Features of rows, and for each feature the event time of the row of its view, as an instant; null without one."""

    values: pa.Table
    event_times: Mapping[str, pa.Array]


class FeatureReader:
    """Features of an online store. Thread-safe."""

    def __init__(self, store: FeatureStore, clock: Callable[[], int] = now_us) -> None:
        """Create the reader; `clock` returns microseconds since 1970."""
        self._store = store
        self._clock = clock
        self._known: Mapping[str, ViewState] = {}
        """The views when they were last read, for the types of their entities."""

    def read(self, joins: Sequence[Join], rows: pa.Table, at: datetime | None = None) -> ReadFeatures:
        """Return the features of rows, in their order, with the names and types that the joins have.

        The rows have the entity columns. `at` is the time of the rows, by default now. An unknown entity has nulls.

        Raises `RequestError` for rows without an entity column, a value of another type, and a time for which the store no
        longer has the values; `StorageError` if a view is not in the store as it is defined now, or it cannot be read.
        """
        now = self._clock()
        keys, stored = self._stored(joins, rows)
        columns: dict[str, pa.Array] = {}
        times: dict[str, pa.Array] = {}
        for join, keys_of_rows in zip(joins, keys, strict=True):
            state, values = stored[join.view.name]
            time = _time(state, now, at)
            versions = [None if key is None else _shown(values[key], time, join) for key in keys_of_rows]
            columns |= _columns(join, state, versions)
            times |= dict.fromkeys(join.names, _event_times(pa.timestamp("us", "UTC"), versions))
        return ReadFeatures(pa.table(columns), times)

    def _stored(
        self, joins: Sequence[Join], rows: pa.Table
    ) -> tuple[list[list[bytes | None]], dict[str, tuple[ViewState, dict[bytes, bytes | None]]]]:
        """Return the keys of the rows for each join, and by view its state and the values of these keys.

        This is one round trip, unless a view has not been read before or its entity has other types now.
        """
        while True:
            known = self._known if all(join.view.name in self._known for join in joins) else self._store.states()
            keys = [_keys(join, rows, _present(join, known).entities) for join in joins]
            wanted: dict[str, dict[bytes, None]] = {join.view.name: {} for join in joins}
            for join, each in zip(joins, keys, strict=True):
                wanted[join.view.name].update((key, None) for key in each if key is not None)
            answers = self._store.read({view: list(each) for view, each in wanted.items()})
            states = {join.view.name: _current(join, answers[join.view.name].state) for join in joins}
            self._known = {**self._known, **states}
            if all(states[view].entities == known[view].entities for view in states):
                values = {view: dict(zip(wanted[view], answers[view].values, strict=True)) for view in wanted}
                return keys, {view: (states[view], values[view]) for view in wanted}


def _present(join: Join, states: Mapping[str, ViewState]) -> ViewState:
    """Return the state of a view; raise `StorageError` if the store does not have it."""
    view = join.view
    if view.name in states:
        return states[view.name]
    do = _LOAD if view.online else "pass online=True to its feature_view(…), and run the project"
    raise StorageError(
        f"feature view {view.name!r} is not in the online store", do=do.format(view.name), place=view.place
    )


def _current(join: Join, state: ViewState | None) -> ViewState:
    """Return the state of a view; raise `StorageError` if the store does not have it as it is defined now."""
    view = join.view
    current = _present(join, {} if state is None else {view.name: state})
    if current.fingerprint != view.online_fingerprint:
        problem = f"the online store has feature view {view.name!r} of another definition"
        raise StorageError(problem, do=_LOAD.format(view.name), place=view.place)
    return current


def _keys(join: Join, rows: pa.Table, entities: pa.Schema) -> list[bytes | None]:
    """Return the key of each row; `None` for one without an entity."""
    on, columns = dict(join.selected.on), []
    for column in entities:
        name = on.get(column.name, column.name)
        if name not in rows.column_names:
            raise RequestError(
                f"the rows have no column {name!r}, the entity of {join.view.name!r}",
                got=few(map(repr, rows.column_names), 12) or "no columns",
                do=f"pass {name!r}",
            )
        try:
            values = rows[name].combine_chunks()
            columns.append(values if values.type == column.type else values.cast(column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise RequestError(
                f"{name!r} is not of the type of the entity of {join.view.name!r}",
                got=str(error).partition("\n")[0],
                do=f"pass {column.type}",
            ) from error
    return list(entity_keys(columns).to_pylist())


def _time(state: ViewState, now: int, at: datetime | None) -> int:
    """Return the time of the rows; a clock that is behind that of the writer is not an error."""
    if at is None:
        return max(now, state.horizon)
    time = round((at.replace(tzinfo=UTC) if at.tzinfo is None else at).timestamp() * 1_000_000)
    if time < state.horizon:
        raise RequestError(
            f"the online store keeps the values of {state.view!r} from {instant(state.horizon).isoformat()} on",
            got=at.isoformat(),
            do="read earlier times by the point-in-time join of a training set",
        )
    return time


def instant(us: int) -> datetime:
    """Return a time in microseconds since 1970 as a datetime."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def _shown(value: bytes | None, time: int, join: Join) -> RowVersion | None:
    if value is None:
        return None
    version = version_at(value, time, strict=join.selected.strict)
    ttl = join.view.ttl
    if (
        version is None
        or version.deleted
        or (ttl is not None and time > version.time + ttl // timedelta(microseconds=1))
    ):
        return None
    return version


def _columns(join: Join, state: ViewState, versions: Sequence[RowVersion | None]) -> dict[str, pa.Array]:
    rows = state.rows
    decoded = dict(
        zip(rows.schema.names, rows.decode([None if each is None else each.row for each in versions]), strict=True)
    )
    columns: dict[str, Any] = {other: decoded[name] for name, other in join.columns}
    if join.selected.at:
        columns[join.selected.at] = _event_times(state.event_time_type, versions)
    return columns


def _event_times(kind: pa.DataType, versions: Sequence[RowVersion | None]) -> pa.Array:
    """Return the event times of versions, as the view has them: a date applied from its end."""
    shift = _DAY_US if pa.types.is_date(kind) else 0
    times = np.array([0 if version is None else version.time - shift for version in versions], np.int64)
    array = pa.array(times, mask=np.array([version is None for version in versions], bool))
    return array.cast(pa.timestamp("us", getattr(kind, "tz", None))).cast(kind)
