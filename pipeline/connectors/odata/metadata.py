"""The types of an OData entity set, from the service's `$metadata`."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.core.errors import Place, SourceError
from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import quoted

_TYPES: Mapping[str, str] = {
    "Edm.Boolean": "BOOLEAN",
    "Edm.Byte": "SMALLINT",
    "Edm.SByte": "SMALLINT",
    "Edm.Int16": "SMALLINT",
    "Edm.Int32": "INTEGER",
    "Edm.Int64": "BIGINT",
    "Edm.Single": "FLOAT",
    "Edm.Double": "DOUBLE",
    "Edm.Date": "DATE",
    "Edm.DateTimeOffset": "TIMESTAMPTZ",
}
"""Other primitive types are text: strings, GUIDs, times, durations, binary values (base64url) and geography (JSON)."""
_KINDS = frozenset({"EntityType", "ComplexType", "EnumType", "TypeDefinition"})
_MOST_DIGITS = 38
_DEEPEST = 8
_MOST_PARTS = 1_000
"""The number of types within an entity, of which each use counts; further ones are text."""


@dataclass(frozen=True)
class ServiceMetadata:
    """The types of a service, by their qualified names."""

    types: Mapping[str, ET.Element]
    sets: Mapping[str, str]
    """The entity type of each entity set."""

    @classmethod
    def of(cls, text: bytes, place: Place) -> ServiceMetadata:
        """Return the types from XML; raise `SourceError` if it is not valid, or declares entities."""
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise SourceError("the metadata of the service has a document type, which is not read", place=place)
        try:
            root = ET.fromstring(text)  # noqa: S314 - without a document type there are no entities
        except ET.ParseError as error:
            raise SourceError("the metadata of the service is not valid XML", got=str(error), place=place) from error
        types: dict[str, ET.Element] = {}
        sets: dict[str, str] = {}
        for schema in (node for node in root.iter() if _name(node) == "Schema"):
            namespace = schema.get("Namespace", "")
            names = {namespace, schema.get("Alias", namespace)}
            for node in schema:
                if _name(node) in _KINDS:
                    types |= {f"{name}.{node.get('Name')}": node for name in names}
                elif _name(node) == "EntityContainer":
                    listed = (each for each in node if _name(each) == "EntitySet")
                    sets |= {str(each.get("Name")): str(each.get("EntityType")) for each in listed}
        return cls(types, sets)

    def columns(self, entity_set: str) -> Schema | None:
        """Return the properties of an entity set with their types; `None` if the service does not describe it."""
        kind = self.types.get(self.sets.get(entity_set, ""))
        if kind is None:
            return None
        return Schema(
            tuple(Column(name, type_) for name, type_ in self._properties(kind, (), itertools.count()).items())
        )

    def _properties(self, kind: ET.Element, opened: tuple[str, ...], parts: Iterator[int]) -> dict[str, str]:
        """Return the types of properties inside the named types."""
        name = kind.get("BaseType", "")
        base = None if name in opened else self.types.get(name)
        inherited = {} if base is None else self._properties(base, (*opened, name), parts)
        own = {
            str(node.get("Name")): self._type(node.get("Type", "Edm.String"), node, opened, parts)
            for node in kind
            if _name(node) == "Property"
        }
        return {**inherited, **own}

    def _type(self, name: str, facets: ET.Element, opened: tuple[str, ...], parts: Iterator[int]) -> str:
        """Return the type of a property: JSON in a text for one that contains itself, or has too many parts."""
        if name.startswith("Collection(") and name.endswith(")"):
            return f"{self._type(name[11:-1], facets, opened, parts)}[]"
        node = self.types.get(name)
        if node is None or _name(node) == "EnumType":
            return _decimal(facets) if name == "Edm.Decimal" else _TYPES.get(name, "VARCHAR")
        if name in opened or len(opened) > _DEEPEST or next(parts) > _MOST_PARTS:
            return "VARCHAR"
        if _name(node) == "TypeDefinition":
            return self._type(node.get("UnderlyingType", "Edm.String"), node, (*opened, name), parts)
        fields = self._properties(node, (*opened, name), parts)
        if not fields or node.get("OpenType") == "true":
            return "VARCHAR"  # as JSON
        return f"STRUCT({', '.join(f'{quoted(key)} {kind}' for key, kind in fields.items())})"


def _decimal(facets: ET.Element) -> str:
    """Return the exact type if the number of digits is declared and fits, otherwise text, which keeps all of them."""
    precision, scale = facets.get("Precision", ""), facets.get("Scale", "0")
    if precision.isdigit() and scale.isdigit() and 0 < int(precision) <= _MOST_DIGITS and int(scale) <= int(precision):
        return f"DECIMAL({precision},{scale})"
    return "VARCHAR"


def _name(node: ET.Element) -> str:
    return node.tag.rpartition("}")[2]
