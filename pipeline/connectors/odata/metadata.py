"""The types of an OData entity set, from the service's `$metadata`."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
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
        return Schema(tuple(Column(name, type_) for name, type_ in self._properties(kind, 0).items()))

    def _properties(self, kind: ET.Element, depth: int) -> dict[str, str]:
        base = self.types.get(kind.get("BaseType", ""))
        inherited = {} if base is None or depth > _DEEPEST else self._properties(base, depth + 1)
        own = {
            str(node.get("Name")): self._type(node.get("Type", "Edm.String"), node, depth)
            for node in kind
            if _name(node) == "Property"
        }
        return {**inherited, **own}

    def _type(self, name: str, facets: ET.Element, depth: int) -> str:
        if name.startswith("Collection("):
            return f"{self._type(name[11:-1], facets, depth)}[]"
        if name == "Edm.Decimal":
            return _decimal(facets)
        node = self.types.get(name)
        if node is None or _name(node) == "EnumType":
            return _TYPES.get(name, "VARCHAR")
        if _name(node) == "TypeDefinition":
            return self._type(node.get("UnderlyingType", "Edm.String"), node, depth)
        fields = {} if depth > _DEEPEST else self._properties(node, depth + 1)
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
