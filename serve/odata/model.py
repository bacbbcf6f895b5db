"""The model that a caller sees: its tables as entity sets, and their columns as properties with OData's types and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.core.errors import StorageError
from pipeline.core.schema import Column
from serve.access.authorization import CallerColumns, Grant
from serve.access.caller import Caller
from serve.http_errors import DeniedError, UnauthenticatedError, UnknownError
from serve.queries.expressions import is_plain
from serve.queries.values import is_comparable
from serve.reading import Reading

NAMESPACE = "headwater"
_MOST_NAME = 128
_TYPES: Mapping[str, str] = {
    "BOOLEAN": "Edm.Boolean",
    "TINYINT": "Edm.SByte",
    "UTINYINT": "Edm.Byte",
    "SMALLINT": "Edm.Int16",
    "USMALLINT": "Edm.Int32",
    "INTEGER": "Edm.Int32",
    "UINTEGER": "Edm.Int64",
    "BIGINT": "Edm.Int64",
    "FLOAT": "Edm.Single",
    "DOUBLE": "Edm.Double",
    "DATE": "Edm.Date",
    "TIMESTAMP": "Edm.DateTimeOffset",
    "TIMESTAMPTZ": "Edm.DateTimeOffset",
    "BLOB": "Edm.Binary",
    "UBIGINT": "Edm.Decimal",
    "HUGEINT": "Edm.Decimal",
}


@dataclass(frozen=True)
class Property:
    """A column under the name that it has in the model."""

    name: str
    column: Column
    is_key: bool = False

    @property
    def renamed(self) -> Column:
        """The column with the name of the property, as results have it."""
        return Column(self.name, self.column.type)

    @property
    def type(self) -> str:
        """The type without its facets. What OData has no type for is text; nested values are JSON text."""
        if self.column.type.startswith("DECIMAL(") and is_plain(self.column):
            return "Edm.Decimal"
        return _TYPES.get(self.column.type, "Edm.String")

    @property
    def facets(self) -> Mapping[str, str]:
        """The facets of the type."""
        kind = self.column.type
        decimal = re.fullmatch(r"DECIMAL\((\d+), ?(\d+)\)", kind)
        if decimal is not None:
            return {"Precision": decimal[1], "Scale": decimal[2]}
        if kind in {"HUGEINT", "UBIGINT"}:
            return {"Precision": "39" if kind == "HUGEINT" else "20", "Scale": "0"}
        return {"Precision": "6"} if kind.startswith("TIMESTAMP") else {}

    @property
    def is_sortable(self) -> bool:
        """Whether entities can be ordered by it."""
        return is_comparable(self.column)


@dataclass(frozen=True)
class EntitySet:
    """A table under the name that it has in the model."""

    name: str
    table: str
    description: str
    properties: tuple[Property, ...]

    @property
    def type_name(self) -> str:
        """The name of its entity type."""
        return f"{self.name}_row"

    @property
    def key(self) -> tuple[Property, ...]:
        """The properties of its key; none if the table has no key that the caller sees."""
        return tuple(each for each in self.properties if each.is_key)

    @property
    def columns(self) -> Mapping[str, Column]:
        """The columns by the names of their properties."""
        return {each.name: each.column for each in self.properties}


def identifiers(names: Iterable[str]) -> dict[str, str]:
    """Return for each name an identifier of OData: letters, digits and underscores, not beginning with a digit, each once."""
    result: dict[str, str] = {}
    names = tuple(names)
    taken = {name for name in names if _is_identifier(name)}
    for name in names:
        if _is_identifier(name):
            result[name] = name
            continue
        base = re.sub(r"\W", "_", name)[: _MOST_NAME - 8] or "_"
        base = f"_{base}" if base[0].isdigit() else base
        number, unique = 1, base
        while unique in taken:
            number += 1
            unique = f"{base}_{number}"
        taken.add(unique)
        result[name] = unique
    return result


def entity_set(name: str, grant: Grant, visible: CallerColumns) -> EntitySet:
    """Return the entity set of a table as its caller sees it."""
    names = identifiers(visible.schema.names)
    properties = tuple(Property(names[each.name], each, each.name in visible.key) for each in visible.schema.columns)
    return EntitySet(name, grant.definition.name, grant.definition.description, properties)


def entity_sets(reading: Reading, caller: Caller) -> list[EntitySet]:
    """Return the entity sets of the tables that a caller may read, without those that are not computed yet or cannot be read."""
    require_visible(reading, caller)
    found = []
    for name, grant in _grants(reading, caller).items():
        try:
            version = reading.tables.newest(grant.definition.name)
            if version is not None:
                found.append(entity_set(name, grant, reading.authorizer.columns(grant, caller, version)))
        except (StorageError, DeniedError):
            continue
    return found


def grant_of(reading: Reading, caller: Caller, name: str) -> Grant:
    """Return how a caller may read an entity set; raise `UnknownError` as if there were none, or ask who calls."""
    known = _grants(reading, caller)
    if name in known:
        return known[name]
    if caller.is_anonymous:
        raise UnauthenticatedError("a key is needed", do="sign in with the key as the password")
    try:
        return reading.authorizer.grant(caller, name)
    except UnknownError as error:
        raise UnknownError(error.problem.replace("table", "entity set", 1), do=error.do) from error


def require_visible(reading: Reading, caller: Caller) -> None:
    """Raise `UnauthenticatedError` for a caller without a key to whom nothing is public."""
    if caller.is_anonymous and not reading.authorizer.readable(caller):
        raise UnauthenticatedError("a key is needed", do="sign in with the key as the password")


def _grants(reading: Reading, caller: Caller) -> dict[str, Grant]:
    grants = {grant.definition.name: grant for grant in reading.authorizer.readable(caller)}
    return {identifier: grants[name] for name, identifier in identifiers(grants).items()}


def _is_identifier(name: str) -> bool:
    return re.fullmatch(r"[^\W\d]\w*", name, re.ASCII) is not None and len(name) <= _MOST_NAME
