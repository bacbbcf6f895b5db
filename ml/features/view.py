"""Feature views: gold tables with one row per entity and event time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from pipeline.core.definitions import Expectation, Table, caller, names
from pipeline.core.errors import DefinitionError, Place, did_you_mean
from pipeline.core.fingerprint import fingerprint
from pipeline.kernel.sql import SqlTransform, sql_table


@dataclass(frozen=True, kw_only=True)
class FeatureView(Table):
    """A table of features: what was known about each `entity` at its `event_time`."""

    entity: tuple[str, ...]
    event_time: str

    @property
    def fingerprint(self) -> str:
        """Changes with everything that determines the rows, and with the event time."""
        return fingerprint(super().fingerprint, self.entity, self.event_time)


def features(
    text: str,
    *,
    entity: str | Sequence[str],
    event_time: str,
    expect: Sequence[Expectation] = (),
    description: str = "",
) -> FeatureView:
    """Define a feature view as a SELECT with one row per `entity`; a leading comment is its description.

    `entity` is the table's key. `event_time` is the time of the prediction: columns must contain only what was known
    then, except for labels, which models name. Columns must be listed by name, because they are the parameters of a
    model's endpoint. Raises `DefinitionError` if the SELECT lacks a column that is named here.
    """
    place = caller()
    key = names(entity)
    view = sql_table(
        SqlTransform(text),
        place,
        layer="gold",
        role="features",
        key=key,
        expect=tuple(expect),
        description=description,
    )
    _require(SqlTransform(text).tree.named_selects, key, event_time, place)
    return FeatureView(**{f.name: getattr(view, f.name) for f in fields(view)}, entity=key, event_time=event_time)


def _require(columns: Sequence[str], entity: tuple[str, ...], event_time: str, place: Place) -> None:
    if not entity:
        raise DefinitionError(
            "a feature view has no entity", do="name the column that identifies its rows", place=place
        )
    if "*" in columns:
        raise DefinitionError("a feature view must name its columns", got="*", do="list them", place=place)
    for role, name in [*(("entity", name) for name in entity), ("event time", event_time)]:
        if name not in columns:
            raise DefinitionError(
                f"the feature view's SELECT has no column {name!r}, its {role}",
                do=did_you_mean(name, columns),
                place=place,
            )
