"""Feature views: tables with the history of what was known about an entity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import cast

from pipeline.core.definitions import Action, Definition, Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.event_time import parse_duration
from pipeline.core.fingerprint import fingerprint
from pipeline.core.sinks import Sink
from pipeline.kernel.sql import SqlTransform, check_condition, sql_table

ONLINE = ".online"
"""What the name of a view's sink ends with."""


@dataclass(frozen=True, kw_only=True)
class FeatureView(Table):
    """A table with a row for each entity and time from which its values apply."""

    transform: SqlTransform
    entity: tuple[str, ...]
    event_time: str
    known_at: str = ""
    """The column with the time at which a row became known; empty if that is the event time."""
    delay: timedelta = timedelta()
    """How much later than its event time a row is available."""
    ttl: timedelta | None = None
    """How long a row applies; `None` for ever."""
    deleted_when: str = ""
    """A SQL condition for rows that delete the entity."""
    owner: str = ""
    online: bool = False
    """Whether the online store is kept at its newest version."""

    @property
    def responsible(self) -> str:
        """The owner."""
        return self.owner

    @property
    def companions(self) -> tuple[Definition, ...]:
        """The sink that keeps the online store at the newest version, for a view that is online."""
        if not self.online:
            return ()
        from ml.features.online.target import ToFeatureStore  # noqa: PLC0415 - imports DuckDB and Arrow

        name = f"{self.name}{ONLINE}"
        description = f"keeps the online store at the newest version of {self.name}"
        return (Sink(place=self.place, name=name, description=description, table=self.name, to=ToFeatureStore(self)),)

    @cached_property
    def online_fingerprint(self) -> str:
        """Changes with everything that determines what the online store returns at a time."""
        times = (self.event_time, self.known_at, str(self.delay), str(self.ttl))
        return fingerprint("online", self.fingerprint, self.entity, times, self.deleted_when, self.columns)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Its features: the columns that are neither the entity nor a time."""
        others = {*self.entity, self.event_time, self.known_at}
        return tuple(name for name in self.transform.tree.named_selects if name not in others)


def feature_view(  # noqa: PLR0913 - options of a definition, all keyword-only
    text: str,
    *,
    entity: str | Sequence[str],
    event_time: str,
    known_at: str = "",
    delay: str | timedelta = timedelta(),
    ttl: str | timedelta | None = None,
    deleted_when: str = "",
    owner: str = "",
    online: bool = False,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> FeatureView:
    """Define the history of features as a SELECT with a row per entity and event time; see `docs/features.md`.

    A leading comment is the description. `known_at` is the column with the time at which a row became known, if that
    differs from `event_time`: then there may be several rows of one event time, which correct each other. `delay` is how
    much later than its event time a row is available, and `ttl` how long it applies. `deleted_when` is a SQL condition for
    rows after which the entity has no features. With `online`, runs and streams keep the newest values in the online store.

    Raises `DefinitionError` if the SELECT lacks a column that is named here, or does not name its columns.
    """
    place = caller()
    key = names(entity)
    times = (event_time, *((known_at,) if known_at else ()))
    transform = SqlTransform(text)
    require_columns(transform, {**dict.fromkeys(key, "entity"), **dict.fromkeys(times, "time")}, place, "feature view")
    if not key:
        raise DefinitionError("a feature view has no entity", do="name the columns of its entity", place=place)
    if deleted_when:
        check_condition(Expectation("deleted_when", deleted_when, Action.DROP), place)
    table = sql_table(
        transform,
        place,
        kind=FeatureView,
        layer="gold",
        role="feature view",
        key=(*key, *times),
        expect=tuple(expect),
        description=description,
        entity=key,
        event_time=event_time,
        known_at=known_at,
        delay=parse_duration(delay, "delay", place),
        ttl=None if ttl is None else parse_duration(ttl, "ttl", place),
        deleted_when=deleted_when,
        owner=owner,
        online=online,
    )
    view = cast("FeatureView", table)
    if not view.columns:
        raise DefinitionError("a feature view has no features", do="select more than its entity and times", place=place)
    return view


def require_columns(transform: SqlTransform, roles: dict[str, str], place: Place, what: str) -> None:
    """Raise `DefinitionError` unless a SELECT names its columns, and has those with a role."""
    columns = transform.written.named_selects
    if "*" in columns:
        raise DefinitionError(f"a {what} must name its columns", got="*", do="list them", place=place)
    for name, role in roles.items():
        if name not in columns:
            problem = f"the {what}'s SELECT has no column {name!r}, its {role}"
            raise DefinitionError(problem, do=did_you_mean(name, columns), place=place)
