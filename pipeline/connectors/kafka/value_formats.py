"""Value formats of a topic, and the message metadata to fetch: chosen by the user, used by all readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import pyarrow as pa

from pipeline.connectors.column_names import ColumnNames
from pipeline.core.definitions import names
from pipeline.core.errors import DefinitionError, did_you_mean

Text = Literal["json", "text", "raw"]
Field = Literal["topic", "partition", "offset", "timestamp", "key", "headers"]
TYPES = {
    "_topic": "VARCHAR",
    "_partition": "INTEGER",
    "_offset": "BIGINT",
    "_timestamp": "TIMESTAMPTZ",
    "_key": "BLOB",
    "_headers": "MAP(VARCHAR, BLOB)",
}
"""The metadata columns and their types."""

VALUE = "value"
FETCHED = {
    "_key": pa.binary(),
    "_timestamp": pa.timestamp("us", tz="UTC"),
    "_headers": pa.map_(pa.string(), pa.binary()),
}
"""Metadata columns that are fetched with the values if requested."""


@dataclass(frozen=True)
class Metadata:
    """Which metadata columns are fetched with the value. Topic, partition and offset (`place`) cost nothing."""

    key: bool = False
    timestamp: bool = False
    headers: bool = False
    place: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        fetched = (("_timestamp", self.timestamp), ("_key", self.key), ("_headers", self.headers))
        return (*self.place, *(name for name, is_wanted in fetched if is_wanted))


def metadata_of(chosen: str | Sequence[str]) -> Metadata:
    """Return the metadata to fetch; raise `DefinitionError` for an unknown name."""
    fields, known = names(chosen), get_args(Field)
    for each in fields:
        if each not in known:
            raise DefinitionError("unknown message metadata", got=repr(each), do=did_you_mean(each, known))
    place = tuple(f"_{name}" for name in ("topic", "partition", "offset") if name in fields)
    return Metadata("key" in fields, "timestamp" in fields, "headers" in fields, place)


@dataclass(frozen=True)
class Avro:
    """Avro in the wire format of Confluent's serializers: the id of the writer's schema, then the record.

    `registry` is the URL of a schema registry, or a folder (`file:///path`) with schemas named `<id>.avsc`. Schemas are
    cached, so known ones remain usable while the registry is down. `registry_user` and `registry_password` (preferably
    `env:NAME`) authenticate the client.
    """

    registry: str
    registry_user: str | None = None
    registry_password: str | None = None

    def __post_init__(self) -> None:
        """Raise `DefinitionError` for a URL with a user or a password, which errors would show."""
        if "@" in self.registry:
            raise DefinitionError(
                "the URL of a schema registry contains a user",
                do='pass registry_user= and registry_password="env:NAME"',
            )

    def __repr__(self) -> str:
        """Return a representation without the password."""
        return f"Avro({self.registry!r})"


@dataclass(frozen=True)
class Protobuf:
    """A Protobuf message type from a descriptor file (`protoc --descriptor_set_out`).

    `framed` values begin with the schema id and the message index, as Confluent's serializers write them.
    """

    descriptors: str
    message: str
    framed: bool = False


def naming_of(rename: Mapping[str, str] | None, format: Format) -> ColumnNames:  # noqa: A002 - the usual name
    """Return the new names of fields; raise `DefinitionError` for a format without fields, and for reserved names."""
    naming = ColumnNames.renaming(rename, TYPES)
    if naming.rename and format != "json" and not isinstance(format, Avro | Protobuf):
        got = format if isinstance(format, str) else type(format).__name__
        do = "use it with 'json', Avro(…) or Protobuf(…)"
        raise DefinitionError("rename= needs values with fields", got=f"format {got}", do=do)
    return naming


@dataclass(frozen=True)
class Debezium:
    """Events of Debezium, in JSON or, with `registry=Avro(…)`, in Avro: they become changes of the table's rows.

    JSON is recognized with and without its schema, unwrapped, and in CloudEvents. Without a schema, the meaning of numbers
    is unknown: `types` then names the type of a column as Debezium's documentation does, for example
    `{"day": "io.debezium.time.Date", "price": "org.apache.kafka.connect.data.Decimal(2)"}`.
    """

    registry: Avro | None = None
    types: Mapping[str, str] = field(default_factory=dict)

    def __hash__(self) -> int:
        """Hash the options."""
        return hash((self.registry, tuple(sorted(self.types.items()))))


Format = Text | Avro | Protobuf | Debezium
