"""Schemas of the registry: their text, and the forms in which they are compared."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pipeline.schema_registry.errors import invalid_schema

SchemaType = Literal["AVRO", "JSON", "PROTOBUF"]
TYPES: tuple[SchemaType, ...] = ("JSON", "PROTOBUF", "AVRO")
"""The types in the order in which a registry lists them."""
SUFFIXES: Mapping[str, SchemaType] = {".avsc": "AVRO", ".json": "JSON", ".proto": "PROTOBUF"}
"""The types by the suffixes of files."""


@dataclass(frozen=True)
class Reference:
    """A schema that another one refers to: the name that it uses, and the subject and version that it means."""

    name: str
    subject: str
    version: int


@dataclass(frozen=True)
class SchemaText:
    """A schema as it was registered."""

    text: str
    type: SchemaType = "AVRO"
    references: tuple[Reference, ...] = ()
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    """Properties of the schema, which do not change what it accepts."""
    rules: Mapping[str, Any] | None = field(default=None, hash=False)
    """Rules that clients apply; the registry only stores them."""

    @property
    def fingerprint(self) -> str:
        """A hash of everything that identifies the schema."""
        references = [(r.name, r.subject, r.version) for r in self.references]
        parts = [self.type, self.text, references, self.metadata, self.rules]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def guid(self) -> str:
        """The identifier of the schema in message headers: the same in each registry."""
        return str(uuid.UUID(bytes=bytes.fromhex(self.fingerprint)[:16]))


Resolve = Callable[[Reference], SchemaText]
"""Returns the schema of a reference."""


class ParsedSchema(Protocol):
    """A valid schema."""

    @property
    def text(self) -> str:
        """The text that identifies it: without layout."""

    @property
    def normalized(self) -> str:
        """The text that identifies it if differences without a meaning are ignored."""

    def problems(self, earlier: ParsedSchema) -> Sequence[str]:
        """Return why data written with an earlier schema cannot be read with this one; none if it can."""


def parsed_json(text: str) -> Any:
    """Parse the text of a JSON document; raise `RegistryError` 42201."""
    try:
        return json.loads(text, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise invalid_schema(f"not JSON: {error}") from error


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number of JSON")


def json_text(document: object, *, sort: bool = False) -> str:
    """Return a JSON document without layout."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, sort_keys=sort)
