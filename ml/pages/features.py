"""The page of feature views: how fresh they are, what the online store has, and which models use them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from ml.features.materialization import UNKNOWN, UP_TO_DATE, ViewStatus, store_of, view_status
from ml.features.online.store import ViewState
from ml.features.training_set import TrainingSet
from ml.features.view import FeatureView
from ml.models.definition import Model
from ml.pages.current import current_version
from pipeline.core.errors import HeadwaterError, quantity
from pipeline.core.event_time import format_duration
from pipeline.lake import Version
from pipeline.project.workspace import Workspace
from pipeline.report import words
from pipeline.report.headline import Figure


@dataclass(frozen=True)
class FeatureUse:
    """A feature, its type, and who takes it."""

    name: str
    type: str
    models: tuple[str, ...]
    training_sets: tuple[str, ...]


@dataclass(frozen=True)
class ViewSummary:
    """A feature view as the page shows it."""

    view: FeatureView
    status: ViewStatus | None
    rows: int | None
    newest: str
    """The event time of its newest row in the lake, with its age; empty if it has none."""
    is_expired: bool
    """Whether the newest row is older than the time to live: then every value is null."""
    features: tuple[FeatureUse, ...]
    models: tuple[str, ...]
    problem: str = ""

    @property
    def delay(self) -> str:
        """How much later than its event time a row is available."""
        return format_duration(self.view.delay) if self.view.delay else ""

    @property
    def state(self) -> str:
        """The state of the online store, in a word."""
        return "not online" if not self.view.online else UNKNOWN if self.status is None else self.status.state

    @property
    def tone(self) -> str:
        """How the state is colored."""
        return {"not online": "", UP_TO_DATE: "accepted"}.get(self.state, "failed")


def feature_values(workspace: Workspace, at: datetime) -> Mapping[str, Any]:
    """Return the values of the template; `at` is the time of the page."""
    states, problem = _states(workspace)
    views = tuple(_summary(workspace, view, states, at) for view in workspace.project.graph.all_of(FeatureView))
    return {"shown": views, "store_problem": problem, "figures": _figures(views)}


def _states(workspace: Workspace) -> tuple[Mapping[str, ViewState] | None, str]:
    """Return what the online store has; `None` and the reason if it cannot be read."""
    if not any(view.online for view in workspace.project.graph.all_of(FeatureView)):
        return {}, ""
    try:
        with closing(store_of(workspace.settings)) as store:
            return store.states(), ""
    except HeadwaterError as error:
        return None, str(error)


def _figures(views: tuple[ViewSummary, ...]) -> tuple[Figure, ...]:
    online = [each for each in views if each.view.online]
    behind = [each for each in online if each.state != UP_TO_DATE]
    expired = [each.view.name for each in views if each.is_expired]
    used = {model for each in views for model in each.models}
    idle = [each.view.name for each in views if not each.models]
    return (
        Figure("Feature views", words.count(len(views)), quantity(sum(len(v.features) for v in views), "feature")),
        Figure(
            "Online",
            words.count(len(online)),
            ", ".join(f"{each.view.name}: {each.state}" for each in behind) or "all up to date" if online else "none",
            alarm=bool(behind),
        ),
        Figure("Expired", words.count(len(expired)), ", ".join(expired) or "no view has only old rows", bool(expired)),
        Figure(
            "Models", words.count(len(used)), f"not used by a model: {', '.join(idle)}" if idle else "each view is used"
        ),
    )


def _summary(
    workspace: Workspace, view: FeatureView, states: Mapping[str, ViewState] | None, at: datetime
) -> ViewSummary:
    version, newest, problem, status = None, None, "", None
    try:
        status = view_status(workspace, view, states)
        version, _ = current_version(workspace, view)
        newest = None if version is None else _newest(workspace, view, version)
    except HeadwaterError as error:
        problem = str(error)
    types = {} if version is None else version.schema.as_dict()
    uses = tuple(_use(workspace, view, name, types.get(name, "")) for name in view.columns)
    age = None if newest is None else at - newest
    return ViewSummary(
        view,
        status,
        None if version is None else version.rows,
        "" if newest is None or age is None else f"{newest:%Y-%m-%d %H:%M} UTC ({_age(age)})",
        age is not None and view.ttl is not None and age > view.ttl,
        uses,
        tuple(dict.fromkeys(model for use in uses for model in use.models)),
        problem,
    )


def _use(workspace: Workspace, view: FeatureView, name: str, type_: str) -> FeatureUse:
    graph = workspace.project.graph
    sets = [
        each.name
        for each in graph.all_of(TrainingSet)
        if any(join.view.name == view.name and name in dict(join.columns) for join in each.joins)
    ]
    models = [model.name for model in graph.all_of(Model) if model.training_set in sets]
    return FeatureUse(name, type_, tuple(models), tuple(sets))


def _newest(workspace: Workspace, view: FeatureView, version: Version) -> datetime | None:
    """Return the latest event time of a view's rows, by the bounds of its files; `None` if they have none."""
    bounds = workspace.table(view.name).bounds(version, [view.event_time])["max_0"].to_pylist()
    known = [bound for bound in bounds if bound is not None]
    latest: date | None = max(known) if known else None
    if latest is None or isinstance(latest, datetime):
        return latest if latest is None or latest.tzinfo is not None else latest.replace(tzinfo=UTC)
    return datetime.combine(latest, time(), UTC) + timedelta(days=1)  # a date applies from its end


def _age(age: timedelta) -> str:
    if age < timedelta():
        return f"{words.seconds(-age.total_seconds())} ahead of this page"
    days = age.days
    return f"{quantity(days, 'day')} old" if days else f"{words.seconds(age.total_seconds())} old"
