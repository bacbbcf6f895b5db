"""Materialisation: keeps the online store at the newest version of a feature view, as a sink of its table.

Delivery: exactly once. The values of a version and its number are written in one transaction; a view that is loaded anew is
written beside the one that is shown, and replaces it in one step. Of a delivery that is too large for one transaction of Redis,
the first part is marked as incomplete, so after a crash the view is loaded anew.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ml.features.online.keys import entity_keys, entity_types
from ml.features.online.opening import open_store
from ml.features.online.row_versions import ROW_VERSIONS, merged, pack, unpack
from ml.features.online.store import FeatureStore, StoredValue, ViewState, Writer, now_us, schema_text
from ml.features.online.values import RowFormat
from ml.features.point_in_time import dated
from pipeline.core.errors import SchemaError
from pipeline.core.sinks import Delivery, SinkContext, SinkPosition, is_delivered
from pipeline.kernel.engine import arrow_reader, connect
from pipeline.kernel.pool import Limits
from pipeline.kernel.sql_text import listed, quoted

if TYPE_CHECKING:
    from ml.features.view import FeatureView

_BLOCK_ROWS = 10_000
_UNLIMITED = Limits()

_HIDDEN = ("_available", "_time", "_known", "_deleted")


@dataclass(frozen=True)
class ToFeatureStore:
    """The project's online store, for the rows of a feature view."""

    view: FeatureView = field(repr=False)

    def open(self, context: SinkContext) -> FeatureTarget:
        """Open the store; raises `SettingsError` if its URL is not supported."""
        store = open_store(context.online, context.project, context.env)
        return FeatureTarget(store, self.view, limits=Limits(memory_bytes=context.memory_bytes))

    def __str__(self) -> str:
        """Return what it is."""
        return "the online store"


class FeatureTarget:
    """A feature view in an online store."""

    def __init__(
        self, store: FeatureStore, view: FeatureView, clock: Callable[[], int] = now_us, limits: Limits = _UNLIMITED
    ) -> None:
        """Create the target. `clock` returns microseconds since 1970; `limits` are those of its engine."""
        self._store = store
        self._view = view
        self._clock = clock
        self._limits = limits

    def reached(self) -> SinkPosition | None:
        """Return the version that is loaded; `None` if there is none, or if the view was loaded as defined before."""
        return _reached(self._store.states().get(self._view.name), self._view)

    def write(self, delivery: Delivery) -> None:
        """See `Target.write`. Raises `SchemaError` for a feature or an entity whose type the store does not support."""
        state = self._store.states().get(self._view.name)
        reached = _reached(state, self._view)
        if is_delivered(delivery, reached):
            return
        columns = self._columns(delivery.rows.schema)
        is_load = delivery.is_whole or state is None or reached is None or state.schema != schema_text(columns)
        generation = secrets.token_hex(4) if is_load or state is None else state.generation
        started = self._started(columns, generation) if is_load or state is None else state
        with (
            connect(self._limits) as con,
            closing(con.cursor()) as merging,  # results of the other connection are read meanwhile
            closing(self._store.begin(self._view.name, state, generation)) as writer,
        ):
            update = _Update((con, merging), writer, self._view, started, self._clock())
            if is_load:
                rows = delivery.rows if delivery.is_whole or delivery.current is None else delivery.current(None)
                update.load(rows)
            else:
                update.add(delivery.rows)
                update.remove(delivery)
            writer.commit(update.state(delivery.to))

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def _columns(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns that are stored; raise `SchemaError` if one is missing or has an unsupported type."""
        view = self._view
        names = (*view.entity, view.event_time, *view.columns)
        missing = next((name for name in names if name not in schema.names), None)
        if missing is not None:
            do = f"run `headwater run --select {view.name}`, which computes it as it is defined now"
            raise SchemaError(f"the table of feature view {view.name!r} has no column {missing!r}", do=do)
        entity_types(schema, view.entity)
        RowFormat(pa.schema([schema.field(name) for name in view.columns]))
        return pa.schema([schema.field(name) for name in names])

    def _started(self, columns: pa.Schema, generation: str) -> ViewState:
        view = self._view
        return ViewState(
            view.name,
            view.online_fingerprint,
            generation,
            schema_text(columns),
            view.entity,
            view.event_time,
            position="",
            newest=None,
            horizon=-(1 << 62),
            written_at=0,
        )


def _reached(state: ViewState | None, view: FeatureView) -> SinkPosition | None:
    return None if state is None or state.fingerprint != view.online_fingerprint else state.reached


class _Update:
    """Changes the values of a view, entity by entity."""

    def __init__(
        self,
        connections: tuple[duckdb.DuckDBPyConnection, duckdb.DuckDBPyConnection],
        writer: Writer,
        view: FeatureView,
        state: ViewState,
        now: int,
    ) -> None:
        self._con, self._merging = connections
        self._writer = writer
        self._view = view
        self._state = state
        self._now = now
        self._newest = state.newest
        self._rows = state.rows

    def load(self, rows: pa.RecordBatchReader) -> None:
        """Add rows, which are all rows of their entities, to entities of which nothing is stored."""
        self._add(rows, self._newest_rows())

    def add(self, rows: pa.RecordBatchReader) -> None:
        """Add rows to what is stored."""
        self._add(rows, self._stamped())

    def _add(self, rows: pa.RecordBatchReader, query: str) -> None:
        for block in self._blocks(rows, query):
            keys = entity_keys([block.column(name) for name in self._view.entity])
            values = [block.column(name) for name in self._view.columns]
            versions = self._versions(keys, {name: block.column(name) for name in _HIDDEN}, values)
            entities = pc.unique(keys).to_pylist()
            self._put(unpack(entities, self._writer.get(entities)), versions)

    def remove(self, delivery: Delivery) -> None:
        """Compute the entities again of which a row is shown, or will be, that is gone."""
        if not delivery.gone.num_rows or delivery.current is None:
            return
        changed: set[bytes] = set()
        among = []
        for block in self._blocks(delivery.gone, self._stamped()):
            keys = entity_keys([block.column(name) for name in self._view.entity])
            gone = pa.table({"key": keys, "time": block.column("_time"), "known": block.column("_known")})
            entities = pc.unique(keys).to_pylist()
            shown = unpack(entities, self._writer.get(entities)).select(gone.column_names)
            of = shown.join(gone, gone.column_names, join_type="left semi")["key"].to_pylist()
            entity = pa.table({name: block.column(name) for name in self._view.entity})
            among.append(entity.filter(pc.is_in(keys, pa.array(of, pa.binary()))))
            changed.update(of)
        if changed:
            self._writer.put(dict.fromkeys(changed))
            self.load(delivery.current(pa.concat_tables(among)))

    def state(self, position: SinkPosition) -> ViewState:
        """Return the state of the view after these changes."""
        return replace(
            self._state,
            position=position.to_json(),
            newest=self._newest,
            horizon=self._horizon,
            written_at=self._now,
        )

    def _put(self, stored: pa.Table, new: pa.Table) -> None:
        versions = merged(self._merging, stored, new, self._now)
        newest = pc.max(versions["available"]).as_py()
        if newest is not None:
            self._newest = newest if self._newest is None else max(newest, self._newest)
        packed, ttl = pack(versions), self._view.ttl
        if ttl is None:
            values = [StoredValue(value) for value in packed.values]
        else:
            horizon, us = self._horizon, ttl // timedelta(microseconds=1)
            expires = [time + us for time in packed.newest]
            lives = [max(0, time - horizon) for time in expires]
            values = list(map(StoredValue, packed.values, expires, lives))
        self._writer.put(dict(zip(packed.keys, values, strict=True)))

    @property
    def _horizon(self) -> int:
        """The earliest time for which the store answers after what was written so far."""
        known = self._state.horizon
        return known if self._newest is None else max(known, min(self._now, self._newest + 1))

    def _versions(self, keys: pa.Array, times: dict[str, Any], values: list[Any]) -> pa.Table:
        rows = self._rows.encode(pa.RecordBatch.from_arrays(values, names=list(self._view.columns)))
        deleted = times["_deleted"]
        row = pc.if_else(deleted, pa.scalar(b"", pa.binary()), rows)
        columns = [keys, times["_available"], times["_time"], times["_known"], deleted, row]
        return pa.table(columns, schema=ROW_VERSIONS)

    def _blocks(self, rows: pa.RecordBatchReader | pa.Table, query: str) -> Iterator[pa.RecordBatch]:
        self._con.register("_delivered", rows)
        yield from arrow_reader(self._con, query, _BLOCK_ROWS)

    def _stamped(self) -> str:
        """Return a SELECT of the delivered rows with their times, in microseconds since 1970."""
        view = self._view
        delay = view.delay // timedelta(microseconds=1)
        time = 'epoch_us("_time")'
        known = f"epoch_us({quoted(view.known_at)}::timestamptz)" if view.known_at else time
        available = f"greatest({time} + {delay}, {known})"
        deleted = f"coalesce(({view.deleted_when}), false)" if view.deleted_when else "false"
        times = zip((available, time, known, deleted), _HIDDEN, strict=True)
        columns = [
            listed((*view.entity, *view.columns)),
            *(f"{expression} as {quoted(name)}" for expression, name in times),
        ]
        arrived = f" and {quoted(view.known_at)} is not null" if view.known_at else ""
        return (
            f'select {", ".join(columns)} from ({dated(view, "_delivered")}{arrived}) as dated where isfinite("_time")'
        )

    def _newest_rows(self) -> str:
        """Return a SELECT of the newest row of each entity of those that are available, and all that are not."""
        newest = f"row_number() over (partition by {listed(self._view.entity)}, _available >= {self._now} order by _time desc, _known desc)"
        return f"select * from ({self._stamped()}) qualify _available >= {self._now} or {newest} = 1"
