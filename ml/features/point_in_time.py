"""The point-in-time join: each row gets the values that an online store would have returned at its time.

It is one SELECT, which the batch engine plans like any other: a feature view that is small is sent to each split of the
labelled rows, and a large one is partitioned, with them, by a hash of the entity.

An ASOF join finds the latest row by one time. A view whose rows become known later than they happen has two: therefore its
history is computed first, which is what the store returned after each arrival, in the order of arrival. The row of an
arrival is the one with the latest event time known so far, so a late row that is older than it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING

from ml.features.service import Features
from pipeline.core.errors import DefinitionError, did_you_mean
from pipeline.kernel.sql_text import listed, quoted

if TYPE_CHECKING:
    from ml.features.view import FeatureView

_TIME, _AVAILABLE, _ROW = '"_time"', '"_available"', '"_row"'


@dataclass(frozen=True)
class Join:
    """The features of one view that are joined to rows."""

    view: FeatureView
    selected: Features
    alias: str

    @cached_property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """The columns of the view with their names in the result, without the one of `at`."""
        chosen = self.selected.columns or tuple((name, name) for name in self.view.columns)
        return tuple((name, f"{self.selected.prefix}{other}") for name, other in chosen)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns that it adds."""
        return (*(name for _, name in self.columns), *((self.selected.at,) if self.selected.at else ()))

    def require_fit(self, labels: Sequence[str]) -> None:
        """Raise `DefinitionError` unless the view has the columns, and the labelled rows have its entity."""
        on, place = dict(self.selected.on), self.selected.place
        for name, _ in self.selected.columns:
            if name not in self.view.columns:
                do = did_you_mean(name, self.view.columns)
                problem = f"feature view {self.view.name!r} has no feature {name!r}"
                raise DefinitionError(problem, do=do, place=place)
        for name in on:
            if name not in self.view.entity:
                do = did_you_mean(name, self.view.entity)
                problem = f"on= names {name!r}, which is not an entity column of {self.view.name!r}"
                raise DefinitionError(problem, do=do, place=place)
        for name in self.view.entity:
            column = on.get(name, name)
            if column not in labels:
                do = f"select it, or pass on={{{name!r}: …}} with the name that it has there"
                problem = f"the labelled rows have no column {column!r}, the entity of {self.view.name!r}"
                raise DefinitionError(problem, do=do, place=place)

    def sql(self, labels: str, time: str) -> str:
        """Return the ASOF join to the rows of the alias `labels`, whose time is the expression `time`."""
        on = dict(self.selected.on)
        entity = (f"{labels}.{quoted(on.get(n, n))} = {self.alias}.{quoted(n)}" for n in self.view.entity)
        order = ">" if self.selected.strict else ">="
        matches = " and ".join((*entity, f"{time} {order} {self.alias}.{_AVAILABLE}"))
        history = self._corrected() if self.view.known_at else self._rows(f"{self._due} as {_AVAILABLE}")
        return f"asof left join ({history}) as {self.alias} on {matches}"

    def values(self, time: str) -> list[str]:
        """Return the expressions of the columns that it adds, for rows whose time is the expression `time`."""
        row = f"{self.alias}.{_ROW}"
        valid = [f"not {row}._deleted"] if self.view.deleted_when else []
        if self.view.ttl is not None:
            valid.append(f"{time} <= {row}._time + {_interval(self.view.ttl)}")
        added = [(f"{row}.{quoted(name)}", other) for name, other in self.columns]
        added += [(f"{row}._at", self.selected.at)] if self.selected.at else []
        condition = " and ".join(valid)
        return [f"{f'case when {condition} then {v} end' if valid else v} as {quoted(name)}" for v, name in added]

    @property
    def _due(self) -> str:
        return f"{_TIME} + {_interval(self.view.delay)}" if self.view.delay else _TIME

    def _rows(self, *more: str) -> str:
        """Return the rows of the view: the entity, the event time, `more`, and the values as one struct."""
        deleted = [f"_deleted := coalesce(({self.view.deleted_when}), false)"] if self.view.deleted_when else []
        parts = (f"{quoted(name)} := {quoted(name)}" for name in dict.fromkeys(name for name, _ in self.columns))
        at = [f"_at := {quoted(self.view.event_time)}"] if self.selected.at else []
        values = ", ".join((f"_time := {_TIME}", *at, *deleted, *parts))
        entity, known = listed(self.view.entity), [quoted(self.view.known_at)] if self.view.known_at else []
        columns = ", ".join((entity, _TIME, *known, *more, f"struct_pack({values}) as {_ROW}"))
        return f"select {columns} from ({dated(self.view, quoted(self.view.name))}) as source"

    def _corrected(self) -> str:
        """Return the history: per entity and time of arrival, the row that the store returned from then on."""
        entity, known = listed(self.view.entity), quoted(self.view.known_at)
        rows = self._rows(f"greatest({self._due}, {known}) as {_AVAILABLE}")
        order = f"({_TIME}, {known}, {_ROW})"
        arrivals = f"""
            select {entity}, {_AVAILABLE}, arg_max({_ROW}, {order}) as {_ROW}, max({_TIME}) as {_TIME}
            from ({rows}) as known_rows where {_AVAILABLE} is not null and {known} is not null
            group by {entity}, {_AVAILABLE}
        """
        latest = f"arg_max({_ROW}, ({_TIME}, {_AVAILABLE}, {_ROW}))"
        return f"""
            select {entity}, {_AVAILABLE},
                   {latest} over (partition by {entity} order by {_AVAILABLE}) as {_ROW}
            from ({arrivals}) as arrivals
        """


def dated(view: FeatureView, relation: str) -> str:
    """Return the rows of a view that have an entity and an event time, with the time as an instant in `_time`.

    A date applies from its end.
    """
    time = quoted(view.event_time)
    instant = f"{time} + case when typeof({time}) = 'DATE' then interval '1' day else interval '0' day end"
    present = " and ".join(f"{quoted(name)} is not null" for name in (*view.entity, view.event_time))
    return f"select *, {instant} as {_TIME} from {relation} where {present}"


def _interval(duration: timedelta) -> str:
    seconds, rest = divmod(duration, timedelta(seconds=1))
    if rest:
        return f"interval '{duration // timedelta(microseconds=1)}' microsecond"
    return f"interval '{seconds}' second"
