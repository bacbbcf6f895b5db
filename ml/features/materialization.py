"""Which feature views the online store has, and how far it is behind the lake."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from ml.features.online.opening import open_store
from ml.features.online.reading import instant
from ml.features.online.store import FeatureStore, ViewState
from ml.features.view import ONLINE, FeatureView
from pipeline.commit.sink_delivery import SinkSender
from pipeline.core.errors import RequestError, StorageError, did_you_mean
from pipeline.core.event_time import format_duration
from pipeline.core.settings import Settings
from pipeline.core.sinks import Sink
from pipeline.project.workspace import Workspace
from pipeline.runner.facts import is_computed_by

UP_TO_DATE, UNKNOWN = "up to date", "unknown"


@dataclass(frozen=True)
class ViewStatus:
    """A feature view: what it declares, and its versions in the lake and in the online store."""

    view: str
    entity: tuple[str, ...]
    features: int
    ttl: str
    owner: str
    lake_version: int | None
    online_version: int | None
    state: str
    """`up to date`, `behind`, `not loaded`, `loaded as defined before`, or `unknown` if the store does not answer.

    Empty for a view that is not online.
    """
    newest: datetime | None
    """When the newest row in the online store became available."""
    written_at: datetime | None


@dataclass(frozen=True)
class Materialized:
    """The version of a view that the online store has now, and what was written for it."""

    version: int
    rows: int
    removed: int
    is_new: bool


def store_of(settings: Settings) -> FeatureStore:
    """Return the online store of a project's environment; raise `SettingsError` if its URL is not supported."""
    return open_store(settings.online, settings.name, settings.env)


def statuses(workspace: Workspace) -> list[ViewStatus]:
    """Return the status of each feature view, in topological order."""
    with closing(store_of(workspace.settings)) as store:
        states = store.states()
    return [view_status(workspace, view, states) for view in workspace.project.graph.all_of(FeatureView)]


def view_status(workspace: Workspace, view: FeatureView, states: Mapping[str, ViewState] | None) -> ViewStatus:
    """Return the status of a feature view by the states of the online store; `None` if the store does not answer."""
    state, number = (states or {}).get(view.name), workspace.table(view.name).number()
    reached = None if state is None else state.reached
    if not view.online:
        word = ""
    elif states is None:
        word = UNKNOWN
    elif state is None or reached is None:
        word = "not loaded"
    elif state.fingerprint != view.online_fingerprint:
        word = "loaded as defined before"
    else:
        word = UP_TO_DATE if reached.version == number else "behind"
    return ViewStatus(
        view.name,
        view.entity,
        len(view.columns),
        "" if view.ttl is None else format_duration(view.ttl),
        view.owner,
        number,
        None if reached is None else reached.version,
        word,
        None if state is None or state.newest is None else instant(state.newest),
        None if state is None else instant(state.written_at),
    )


def materialize(workspace: Workspace, names: Sequence[str]) -> list[tuple[str, Materialized]]:
    """Bring the online store to the newest version of feature views, by default of all that are online.

    Without names, views that are no longer online are removed from the store first. Raises `RequestError` for a name that is not an online feature view, and `StorageError` for a view whose table does not
    exist yet or was computed by another definition.
    """
    graph = workspace.project.graph
    online = {view.name: view for view in graph.all_of(FeatureView) if view.online}
    for name in names:
        if name not in online:
            do = "pass online=True" if isinstance(graph[name], FeatureView) else did_you_mean(name, online)
            raise RequestError(f"{name!r} is not an online feature view", do=do)
    if not names:
        _forget_others(workspace, online)
    return [(name, _materialized(workspace, online[name])) for name in names or online]


def _forget_others(workspace: Workspace, online: Collection[str]) -> None:
    with closing(store_of(workspace.settings)) as store:
        for view in store.states():
            if view not in online:
                store.forget(view)


def _materialized(workspace: Workspace, view: FeatureView) -> Materialized:
    version = workspace.require(view.name)
    manifest = version.manifest
    if manifest is not None and not is_computed_by(workspace, view, version, manifest.fingerprint):
        raise StorageError(
            f"the table of feature view {view.name!r} was computed by another definition",
            do=f"run `headwater run --select +{view.name}`",
            place=view.place,
        )
    sink = workspace.definition(f"{view.name}{ONLINE}")
    if not isinstance(sink, Sink):
        raise RequestError(f"{sink.name!r} is not a sink")
    sender = SinkSender(workspace, sink)
    try:
        report = sender.send()
        reached = sender.reached()
    finally:
        sender.close()
    if report is not None:
        return Materialized(report.to.version, report.rows, report.removed, is_new=True)
    return Materialized(version.number if reached is None else reached.version, 0, 0, is_new=False)
