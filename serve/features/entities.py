"""Features of entities from the online store, as the access policies of their views show them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa

from ml.features.materialization import ViewStatus, view_status
from ml.features.online_features import ChosenFeatures, OnlineFeatures
from ml.features.service import Features
from ml.features.view import FeatureView
from pipeline.core.errors import RequestError, StorageError, did_you_mean
from pipeline.core.schema import Schema
from pipeline.kernel.engine import connect, first_line
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import listed, quoted
from pipeline.kernel.types import arrow_type
from pipeline.project.workspace import Workspace
from serve.access.authorization import Grant
from serve.access.caller import Caller
from serve.http_errors import DeniedError, ForbiddenError, HttpError, UnknownError
from serve.queries.expressions import plain
from serve.queries.query import OWN
from serve.queries.values import shown
from serve.reading import Reading

_LOG = logging.getLogger("headwater.serve")
MOST_ENTITIES = 1_000
"""The most entities of a request."""
_LIMITS = Limits(memory_bytes=256 << 20, threads=1)
_NUMBER, _ROWS = f"{OWN}n", "_found"
_DECIMAL = re.compile(r"[+-]?\d{1,40}(\.\d{1,40})?", re.ASCII)
Entity = Mapping[str, Any]


@dataclass(frozen=True)
class VisibleView:
    """A feature view as a caller sees it: its entity as it is, and those of its other columns that no policy hides."""

    view: FeatureView
    grant: Grant
    schema: Schema
    """The columns that the caller sees."""
    types: Mapping[str, str]
    """Those of all columns of the table."""

    @property
    def features(self) -> tuple[str, ...]:
        """The features that the caller sees."""
        return tuple(name for name in self.view.columns if name in self.schema.names)

    @property
    def event_time(self) -> str | None:
        """The column with the time from which the values apply, unless it is hidden."""
        return self.view.event_time if self.view.event_time in self.schema.names else None

    @property
    def shows_all_rows(self) -> bool:
        """Whether no policy selects rows or values."""
        return self.grant.policy is None or (self.grant.policy.rows is None and not self.grant.policy.mask)


@dataclass(frozen=True)
class EntityFeatures:
    """The features of entities, in their order, as JSON."""

    rows: str
    found: int


class FeatureViews:
    """The feature views of a project that are online. Thread-safe."""

    def __init__(self, reading: Reading, online: OnlineFeatures, workspace: Workspace) -> None:
        """Create the views; nothing is opened."""
        self._reading = reading
        self._online = online
        self._workspace = workspace
        self._chosen: dict[str, ChosenFeatures] = {}

    def readable(self, caller: Caller) -> list[VisibleView]:
        """Return the views that a caller may look up, without those that are not computed yet or cannot be read."""
        found = []
        for view, grant in self._grants(caller):
            with suppress(StorageError, UnknownError, DeniedError, ForbiddenError):
                found.append(self._visible(view, grant, caller))
        return found

    def find(self, caller: Caller, name: str) -> VisibleView:
        """Return a view; raise `UnknownError` if there is none that the caller may read, `ForbiddenError` if its policy hides the entity."""
        grants = {view.name: (view, grant) for view, grant in self._grants(caller)}
        if name not in grants:
            raise UnknownError(f"there is no online feature view {shown(name)}", do=did_you_mean(name[:200], grants))
        return self._visible(*grants[name], caller)

    def statuses(self, views: Sequence[VisibleView]) -> list[ViewStatus]:
        """Return how far the online store is with each view; the states are `unknown` if it does not answer."""
        states = None
        try:
            states = self._online.states()
        except StorageError as error:
            _LOG.warning("the online store cannot be read: %s", error)
        return [view_status(self._workspace, each.view, states) for each in views]

    def look_up(
        self, visible: VisibleView, caller: Caller, entities: Sequence[Entity], names: Sequence[str] = ()
    ) -> EntityFeatures:
        """Return features of entities, all of them without `names`. An entity that is unknown, or not shown to the caller, has nulls.

        Raises `HttpError` for entities that are not those of the view, `DeniedError` if its policy cannot be applied, and
        `StorageError` if the online store cannot be read.
        """
        wanted = self._features(visible, names)
        keys = _entities(visible, entities)
        try:
            read = self._online.look_up(self._features_of(visible.view), keys)
        except RequestError as error:
            raise HttpError(error.problem, got=error.got, do=error.do) from error
        times = next(iter(read.event_times.values()))
        rows = pa.table(
            {
                _NUMBER: pa.array(range(len(entities)), pa.int64()),
                **{name: keys[name] for name in keys.column_names},
                **{name: read.values[name] for name in read.values.column_names},
            }
        ).filter(times.is_valid())
        objects = self._objects(visible, caller, rows, wanted)
        nothing = json.dumps(dict.fromkeys(wanted))
        texts = []
        for number, entity in enumerate(entities):
            features, time = objects.get(number, (nothing, None))
            head = json.dumps({"entity": dict(entity), "found": number in objects})
            texts.append(f'{head[:-1]}, "event_time": {time or "null"}, "features": {features}}}')
        return EntityFeatures(f"[{', '.join(texts)}]", len(objects))

    def _grants(self, caller: Caller) -> list[tuple[FeatureView, Grant]]:
        """Return the online feature views that a caller may read as tables."""
        readable = ((each.definition, each) for each in self._reading.authorizer.readable(caller))
        return [(view, grant) for view, grant in readable if isinstance(view, FeatureView) and view.online]

    def _visible(self, view: FeatureView, grant: Grant, caller: Caller) -> VisibleView:
        version = self._reading.tables.version(view.name)
        columns = self._reading.authorizer.columns(grant, caller, version)
        hidden = [name for name in view.entity if name not in columns.unmasked]
        if hidden:  # to look up by it would tell which of its values there are
            raise ForbiddenError(
                f"the access policy of feature view {view.name!r} hides its entity, or masks it",
                got=", ".join(map(repr, hidden)),
                do="read it as a table, at /v1/tables",
            )
        return VisibleView(view, grant, columns.schema, version.schema.as_dict())

    def _features(self, visible: VisibleView, names: Sequence[str]) -> tuple[str, ...]:
        for name in names:
            if name not in visible.features:
                problem = f"feature view {visible.view.name!r} has no feature {shown(name)}"
                raise HttpError(problem, do=did_you_mean(name[:200], visible.features))
        return tuple(dict.fromkeys(names)) or visible.features

    def _features_of(self, view: FeatureView) -> ChosenFeatures:
        """Return all features of a view, with the event time under its own name."""
        if view.name not in self._chosen:
            every = Features(view.name, (), (), "", view.event_time, strict=False, place=view.place)
            self._chosen[view.name] = self._online.chosen([every])
        return self._chosen[view.name]

    def _objects(
        self, visible: VisibleView, caller: Caller, rows: pa.Table, wanted: Sequence[str]
    ) -> dict[int, tuple[str, str | None]]:
        """Return the features and the event time of the rows that the caller sees, as JSON, by the number of the entity.

        The policy is applied to the rows as to those of the table. Columns of the table that the store does not have are missing, so
        that a policy that reads them is an error.
        """
        policy, kinds, types = visible.grant.policy, visible.schema.as_dict(), {**visible.types, _NUMBER: "BIGINT"}
        casts = ", ".join(f"cast({quoted(name)} as {types[name]}) as {quoted(name)}" for name in rows.column_names)
        sql = f"select {casts} from {_ROWS}"
        if policy is not None:
            sql = policy.relation(sql, rows.column_names, caller.claims, kinds)
        texts = {name: plain(quoted(name), arrow_type(kinds[name])) for name in (*wanted, visible.event_time) if name}
        features = ", ".join(f"{quoted(name)} := {texts[name]}" for name in wanted)
        time = f"to_json({texts[visible.event_time]})::varchar" if visible.event_time else "null"
        packed = f"to_json(struct_pack({features}))::varchar" if features else "'{}'"
        try:
            with connect(_LIMITS) as con:
                con.register(_ROWS, rows)
                found = con.execute(f"select {listed([_NUMBER])}, {packed}, {time} from ({sql})").fetchall()
        except duckdb.Error as error:
            _LOG.error("the policy of feature view %r cannot be applied: %s", visible.view.name, error)
            raise DeniedError(
                f"the access policy of feature view {visible.view.name!r} cannot be applied to features that are looked up",
                do="see the server's log: it may read a column that the online store does not have",
            ) from error
        return {number: (text, time_text) for number, text, time_text in found}


def _entities(visible: VisibleView, entities: Sequence[Entity]) -> pa.Table:
    """Return the entity columns; raise `HttpError` for entities that lack one, have others, or values of another type."""
    view, columns = visible.view, {}
    for number, entity in enumerate(entities):
        for name in entity:
            if name not in view.entity:
                problem = f"entity {number} has {shown(name)}, which is not of the entity of {view.name!r}"
                raise HttpError(problem, do=did_you_mean(name[:200], view.entity))
    for name in view.entity:
        kind = arrow_type(visible.types[name])
        values = []
        for number, entity in enumerate(entities):
            if name not in entity:
                raise HttpError(f"entity {number} lacks {name!r}", do="pass it, null if it is not known")
            try:
                values.append(_value(entity[name], kind))
            except (ValueError, TypeError) as error:
                problem = f"{name!r} of entity {number} is not a {visible.types[name]}"
                raise HttpError(problem, got=shown(json.dumps(entity[name]))) from error
        try:
            columns[name] = pa.array(values, kind)
        except (pa.ArrowException, OverflowError) as error:
            raise HttpError(
                f"a value of {name!r} is not a {visible.types[name]}", got=first_line(error)[:200]
            ) from error
    return pa.table(columns)


def _value(value: Any, kind: pa.DataType) -> Any:
    """Return a value of JSON as one of a type; raise `ValueError` or `TypeError` if it is not one."""
    if value is None:
        return None
    if isinstance(value, bool) or pa.types.is_boolean(kind):
        if not (isinstance(value, bool) and pa.types.is_boolean(kind)):
            raise TypeError
        return value
    if pa.types.is_integer(kind):
        if not isinstance(value, int):
            raise TypeError
        return value
    if pa.types.is_decimal(kind):
        if not _DECIMAL.fullmatch(str(value)):  # Arrow has ended the process for numbers such as 1e-999999999
            raise ValueError
        return Decimal(str(value))
    if not isinstance(value, str):
        raise TypeError
    if pa.types.is_timestamp(kind):
        time = datetime.fromisoformat(value)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        return time if kind.tz is not None else time.replace(tzinfo=None)
    value.encode()  # a lone surrogate is no text
    return date.fromisoformat(value) if pa.types.is_date(kind) else value


def url_value(text: str, type_: str) -> Any:
    """Return a value of a URL as JSON would have it; what is not of the type stays a text."""
    kind = arrow_type(type_)
    if pa.types.is_integer(kind) and re.fullmatch(r"-?\d{1,40}", text, re.ASCII):
        return int(text)
    if pa.types.is_boolean(kind) and text in {"true", "false"}:
        return text == "true"
    return text
