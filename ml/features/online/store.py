"""The interface of online stores, and what a store knows about each view that it has."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import pyarrow as pa

from ml.features.online.row_versions import FORMAT_VERSION
from ml.features.online.values import RowFormat
from pipeline.core.errors import StorageError
from pipeline.core.sinks import SinkPosition


@dataclass(frozen=True)
class ViewState:
    """A feature view in an online store: one generation of its values, and how far it is loaded."""

    view: str
    fingerprint: str
    generation: str
    """The name of the values. A view that changes is loaded into another generation, which then replaces this one."""
    schema: str
    """The Arrow schema of the entity columns, the event time and the features, as base64 of its IPC message."""
    entity: tuple[str, ...]
    event_time: str
    position: str
    """The version of the table that is loaded, see `SinkPosition`; empty while a large delivery is written."""
    newest: int | None
    """The latest time at which one of its rows becomes available, in microseconds since 1970; `None` without rows."""
    horizon: int
    """The earliest time for which it answers, in microseconds since 1970."""
    written_at: int
    """When the last version was written, in microseconds since 1970."""
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Return the text that a store keeps."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> ViewState:
        """Return the state from the text of `to_json`; raise `StorageError` for a later format."""
        return _parsed(text)

    @property
    def reached(self) -> SinkPosition | None:
        """The version that is loaded; `None` for none, or one that was not completed."""
        return SinkPosition.from_json(self.position) if self.position else None

    @property
    def columns(self) -> pa.Schema:
        """The entity columns, the event time and the features."""
        return _schema(self.schema)

    @property
    def entities(self) -> pa.Schema:
        """The entity columns."""
        return _entities(self.schema, self.entity)

    @property
    def rows(self) -> RowFormat:
        """The format of the features."""
        return _row_format(self.schema, self.entity, self.event_time)

    @property
    def event_time_type(self) -> pa.DataType:
        """The type of the event time."""
        return self.columns.field(self.event_time).type


def schema_text(schema: pa.Schema) -> str:
    """Return a schema as text, for `ViewState.schema`."""
    plain = pa.schema([pa.field(each.name, each.type) for each in schema])
    return base64.b64encode(plain.serialize().to_pybytes()).decode()


@lru_cache(maxsize=1024)
def _parsed(text: str | bytes) -> ViewState:
    fields = json.loads(text)
    if fields["format_version"] > FORMAT_VERSION:
        raise StorageError(
            f"view {fields['view']!r} of the online store was written by a later version of Headwater",
            got=f"format {fields['format_version']}; this version reads formats up to {FORMAT_VERSION}",
            do="upgrade Headwater, or use another online store",
        )
    return ViewState(**{**fields, "entity": tuple(fields["entity"])})


@lru_cache(maxsize=1024)
def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


@lru_cache(maxsize=1024)
def _entities(text: str, entity: tuple[str, ...]) -> pa.Schema:
    columns = _schema(text)
    return pa.schema([columns.field(name) for name in entity])


@lru_cache(maxsize=1024)
def _row_format(text: str, entity: tuple[str, ...], event_time: str) -> RowFormat:
    return RowFormat(pa.schema([each for each in _schema(text) if each.name not in {*entity, event_time}]))


@dataclass(frozen=True)
class StoredValue:
    """What a store has of an entity."""

    value: bytes
    expires: int | None = None
    """The time after which it is never shown again, in microseconds since 1970."""
    life: int | None = None
    """How long after it was written it may still be shown, at most, in microseconds."""


@dataclass(frozen=True)
class StoredValues:
    """What a store has of a view: its state, or `None`, and the value of each key, `None` for an unknown one."""

    state: ViewState | None
    values: Sequence[bytes | None]


class Writer(Protocol):
    """Writes to one generation of a view. What is written is shown by `commit`, and not before."""

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys in this generation, including those that this writer has put."""

    def put(self, values: Mapping[bytes, StoredValue | None]) -> None:
        """Set the values of keys; `None` removes a key. A value may be removed once it has expired."""

    def commit(self, state: ViewState) -> None:
        """Show what was written, together with the state of the view.

        Raises `ConflictError` if another writer has changed the state, `SinkError` or `UnavailableError` on failure.
        """

    def close(self) -> None:
        """Discard what was not committed."""


class FeatureStore(Protocol):
    """The values of feature views by entity, for many readers and one writer a view. Thread-safe for readers."""

    def states(self) -> Mapping[str, ViewState]:
        """Return the state of each view that it has."""

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> Mapping[str, StoredValues]:
        """Return the values of keys by view, all of one moment, in one round trip.

        Raises `StorageError` if the store cannot be read.
        """

    def begin(self, view: str, based_on: ViewState | None, generation: str) -> Writer:
        """Return a writer of a generation of a view: that of the state that it is based on, or a new one."""

    def forget(self, view: str) -> None:
        """Remove a view."""

    def close(self) -> None:
        """Close the connections."""


def now_us() -> int:
    """Return the current time in microseconds since 1970."""
    return int(datetime.now(UTC).timestamp() * 1_000_000)
