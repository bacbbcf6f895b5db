"""What a topic's values are, and what else of a message is wanted: chosen by the user, known to every reader of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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
"""The columns of a message itself, and the types in which they come."""


@dataclass(frozen=True)
class Metadata:
    """Which columns of the message itself are fetched with its value. Those of its place cost nothing."""

    key: bool = False
    timestamp: bool = False
    headers: bool = False
    place: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        fetched = (("_timestamp", self.timestamp), ("_key", self.key), ("_headers", self.headers))
        return (*self.place, *(name for name, is_wanted in fetched if is_wanted))


def metadata_of(fields: Sequence[str]) -> Metadata:
    """Return what is to be fetched; raise `DefinitionError` for a name that no message has."""
    known = get_args(Field)
    for field in fields:
        if field not in known:
            raise DefinitionError("unknown message metadata", got=repr(field), do=did_you_mean(field, known))
    place = tuple(f"_{name}" for name in ("topic", "partition", "offset") if name in fields)
    return Metadata("key" in fields, "timestamp" in fields, "headers" in fields, place)


@dataclass(frozen=True)
class Avro:
    """Avro as Confluent's serializers write it: the id of the writer's schema, then the record.

    `registry` is the address of a schema registry, or a folder (`file:///path`) of schemas named `<id>.avsc`. A schema
    is asked for once: what is known goes on when the registry is down. `registry_user` and `registry_password` (best
    `env:NAME`) are sent to it.
    """

    registry: str
    registry_user: str | None = None
    registry_password: str | None = None

    def __repr__(self) -> str:
        """Return it without its secret."""
        return f"Avro({self.registry!r})"


@dataclass(frozen=True)
class Protobuf:
    """One type of message of Protobuf, which a file of descriptors (`protoc --descriptor_set_out`) describes.

    `framed` values begin as Confluent's serializers write them: an id, and which of its types it is.
    """

    descriptors: str
    message: str
    framed: bool = False


Format = Text | Avro | Protobuf
