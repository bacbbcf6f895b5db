"""Shows that online equals offline: reads entities from the online store, and joins them from the lake at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from ml.features.materialization import store_of
from ml.features.online.reading import FeatureReader, instant
from ml.features.online.store import FeatureStore, ViewState, now_us
from ml.features.point_in_time import Join
from ml.features.service import features
from ml.features.training_set import TrainingSet
from ml.features.view import FeatureView
from pipeline.core.errors import RequestError, StorageError, did_you_mean
from pipeline.kernel.engine import arrow, connect, first_line
from pipeline.kernel.pool import Limits
from pipeline.kernel.scan import register
from pipeline.kernel.sql_text import listed, quoted
from pipeline.lake import Version
from pipeline.project.workspace import Workspace

SAMPLE = 1_000
_EXAMPLES = 5
_ATTEMPTS = 5
_AT, _ROW = "_at", "_row"


@dataclass(frozen=True)
class Mismatch:
    """An entity whose features differ, and why."""

    cause: str
    """`missing`: only the lake has features; `extra`: only the store has; `late`: another row is shown; `value`: the same row has
    other values; `version`: the store is behind the lake."""
    entity: Mapping[str, Any]
    online: Mapping[str, Any]
    offline: Mapping[str, Any]


@dataclass(frozen=True)
class ViewComparison:
    """The entities of a feature view that were compared, and those that differ."""

    view: str
    at: datetime
    entities: int
    online_version: int
    lake_version: int
    causes: Mapping[str, int] = field(default_factory=dict)
    """The number of entities that differ, by cause."""
    examples: tuple[Mismatch, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether online equals offline."""
        return not self.causes


def verify(workspace: Workspace, names: Sequence[str] = (), sample: int = SAMPLE) -> list[ViewComparison]:
    """Compare the online store with the point-in-time join over the lake, for feature views or those of training sets.

    Up to `sample` entities of each view are compared, selected by a hash of their keys, so that each call compares the same ones. Without names, all
    online views are compared. Raises `RequestError` for another name, and `StorageError` for a view that is not in the store as it is
    defined now.
    """
    joins = _joins(workspace, names)
    with closing(store_of(workspace.settings)) as store:
        return [_compared(workspace, store, join, sample) for join in joins]


def _joins(workspace: Workspace, names: Sequence[str]) -> list[Join]:
    """Return the joins of views, each entity under its own name."""
    graph = workspace.project.graph
    online = [view for view in graph.all_of(FeatureView) if view.online]
    if not names:
        return [_join(view, strict=False) for view in online]
    joins = []
    for name in names:
        definition = graph[name]
        if isinstance(definition, TrainingSet):
            joins += [_join(join.view, strict=join.selected.strict) for join in definition.joins if join.view.online]
        elif isinstance(definition, FeatureView) and definition.online:
            joins.append(_join(definition, strict=False))
        else:
            do = did_you_mean(name, [view.name for view in online])
            raise RequestError(f"{name!r} is neither an online feature view nor a training set", do=do)
    return joins


def _join(view: FeatureView, *, strict: bool) -> Join:
    return Join(view, features(view.name, at=_AT, strict=strict), "f0")


def _compared(workspace: Workspace, store: FeatureStore, join: Join, sample: int) -> ViewComparison:
    view, table = join.view, workspace.table(join.view.name)
    with connect(Limits(memory_bytes=workspace.settings.memory_bytes), filesystem=table.storage.filesystem()) as con:
        entities = _entities(con, view, workspace.require(view.name), sample)
        state, time, online = _online(store, join, entities)
        reached = state.reached
        newest = workspace.require(view.name)
        is_behind = reached is not None and reached.version != newest.number
        loaded = table.version(reached.version) if reached is not None and is_behind else None
        offline = current = _offline(con, join, loaded or newest, entities, time)
        wrong, behind = _differing(con, online, offline), list[int]()
        if loaded is not None:
            current = _offline(con, join, newest, entities, time)
            behind = [number for number in _differing(con, offline, current) if number not in set(wrong)]
    causes = {number: _cause(online, offline, number) for number in wrong}
    rows = [_mismatch(causes[number], number, entities, online, offline) for number in wrong]
    rows += [_mismatch("version", number, entities, online, current) for number in behind]
    counts = dict(Counter(row.cause for row in rows))
    at, number = instant(time), -1 if reached is None else reached.version
    return ViewComparison(view.name, at, entities.num_rows, number, newest.number, counts, tuple(rows[:_EXAMPLES]))


def _mismatch(cause: str, number: int, *tables: pa.Table) -> Mismatch:
    return Mismatch(cause, *(table.slice(number, 1).to_pylist()[0] for table in tables))


def _entities(con: duckdb.DuckDBPyConnection, view: FeatureView, version: Version, sample: int) -> pa.Table:
    """Return entities of a version, the first by a hash of their values."""
    names = listed(view.entity)
    present = " and ".join(f"{quoted(name)} is not null" for name in view.entity)
    query = f"select {names} from ({version.scan().query()}) where {present} group by {names} order by hash({names}), {names} limit {sample}"
    return _read(con, query)


def _online(store: FeatureStore, join: Join, entities: pa.Table) -> tuple[ViewState, int, pa.Table]:
    """Return the state of the view, the time for which the store answered, and what it has of entities then."""
    for _ in range(_ATTEMPTS):
        before = store.states().get(join.view.name)
        time = now_us() if before is None else max(now_us(), before.horizon)
        values = FeatureReader(store).read([join], entities, instant(time)).values
        if before is not None and store.states().get(join.view.name) == before:
            return before, time, values
    raise StorageError(
        f"the online store changes {join.view.name!r} all the time", do="try again with a smaller --sample"
    )


def _offline(con: duckdb.DuckDBPyConnection, join: Join, version: Version, entities: pa.Table, time: int) -> pa.Table:
    """Return what the point-in-time join gives to entities at a time, in their order."""
    register(con, {join.view.name: version.scan()})
    con.register("_entities", entities.append_column(_ROW, pa.array(range(entities.num_rows))))
    labels = f"(select *, make_timestamptz({time}) as {_AT} from _entities) as labelled"
    values = ", ".join(join.values(f"labelled.{_AT}"))
    joined = join.sql("labelled", f"labelled.{_AT}")
    return _read(con, f"select {values} from {labels} {joined} order by labelled.{_ROW}")


def _differing(con: duckdb.DuckDBPyConnection, one: pa.Table, other: pa.Table) -> list[int]:
    """Return the numbers of the rows that differ; NaN equals NaN."""
    numbers = pa.array(range(one.num_rows))
    con.register("_one", one.append_column(_ROW, numbers))
    con.register("_other", other.append_column(_ROW, numbers))
    same = " or ".join(f"o.{quoted(name)} is distinct from p.{quoted(name)}" for name in one.column_names)
    rows = _read(con, f"select o.{_ROW} from _one o join _other p using ({_ROW}) where {same} order by 1")
    return list(rows[_ROW].to_pylist())


def _cause(online: pa.Table, offline: pa.Table, number: int) -> str:
    """Return why the features of an entity differ from those of the version that the store has."""
    shown, expected = online[_AT][number].as_py(), offline[_AT][number].as_py()
    if shown is None or expected is None:
        return "missing" if shown is None else "extra"
    return "late" if shown != expected else "value"


def _read(con: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    try:
        return arrow(con, query)
    except (duckdb.IOException, OSError) as error:
        do = "a version was removed by a vacuum: run `headwater features materialize`"
        raise StorageError("the lake cannot be read", got=first_line(error), do=do) from error
