"""Bounds of what a document asks for, checked on its parsed form before it is validated.

One walk over the selections as they are executed, with fragments in place: a validator compares each pair of fields with the same name,
and an executor reads each row of each list, so pairs, depth and values are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    get_named_type,
    get_nullable_type,
    is_list_type,
)

from serve.http_errors import HttpError
from serve.queries.query import MOST_ROWS

MOST_VISITED = 3_000
"""The most selections, each counted wherever its fragment is used."""
MOST_PAIRS = 500
"""The most pairs of fields with the same name in the same place."""
MOST_LEVELS, MOST_INTROSPECTION_LEVELS = 12, 18
MOST_FIELDS = 20
"""The most fields of an operation: each is a statement."""
MOST_VALUES = 500_000
"""The most values of a response: rows times fields."""
_MOST_PER_TYPE = 4_000
_SCHEMA_LISTS: Mapping[str, int] = {"fields": 8, "inputFields": 8, "args": 4, "enumValues": 8, "directives": 8}
"""About how many of each there are."""
_FIELD_LISTS = ("fields", "inputFields", "interfaces", "possibleTypes")


@dataclass(frozen=True)
class _Place:
    """Where a selection is: the type, how deep, how often its rows come, and how many the list within it has."""

    type: object
    depth: int = 0
    times: int = 1
    pending: int = 1
    is_introspection: bool = False
    is_within_fields: bool = False


def require_affordable(schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, object]) -> None:
    """Raise `HttpError` if one of the operations or fragments of a document exceeds a bound.

    Values of `variables` are used as they are; whether they are valid is checked later.
    """
    _Walk(schema, document, variables).run()


class _Walk:
    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: Mapping[str, object]) -> None:
        self._schema = schema
        self._definitions = document.definitions
        self._fragments = {
            each.name.value: each for each in self._definitions if isinstance(each, FragmentDefinitionNode)
        }
        self._variables = variables
        self._defaults: dict[str, object] = {}
        self._visited = self._pairs = self._values = self._introspected = 0

    def run(self) -> None:
        for each in self._definitions:
            if isinstance(each, OperationDefinitionNode):
                self._defaults = {one.variable.name.value: one.default_value for one in each.variable_definitions or ()}
                self._values = self._introspected = 0
                root = self._schema.get_root_type(each.operation)
                self._walk(_Place(root), [each.selection_set], MOST_FIELDS)
            elif isinstance(each, FragmentDefinitionNode):
                name = each.type_condition.name.value
                place = _Place(self._schema.get_type(name), is_introspection=name.startswith("__"))
                self._walk(place, [each.selection_set])

    def _walk(self, place: _Place, sets: list[SelectionSetNode], most_fields: int | None = None) -> None:
        most = MOST_INTROSPECTION_LEVELS if place.is_introspection else MOST_LEVELS
        if place.depth >= most:
            raise _exceeded(most, "levels of fields")
        groups: dict[str, list[FieldNode]] = {}
        for each in sets:
            self._collect(each, groups, set())
        if most_fields is not None and len(groups) > most_fields:
            raise _exceeded(most_fields, "fields of an operation")
        for nodes in groups.values():
            self._pairs += len(nodes) * (len(nodes) - 1) // 2
            if self._pairs > MOST_PAIRS:
                raise _exceeded(MOST_PAIRS, "pairs of fields with the same name in the same place")
            self._field(place, nodes)

    def _collect(self, selections: SelectionSetNode, groups: dict[str, list[FieldNode]], seen: set[str]) -> None:
        for each in selections.selections:
            self._visited += 1
            if self._visited > MOST_VISITED:
                raise _exceeded(MOST_VISITED, "selections, with fragments in place")
            if isinstance(each, FieldNode):
                groups.setdefault(each.alias.value if each.alias else each.name.value, []).append(each)
            elif isinstance(each, InlineFragmentNode):
                self._collect(each.selection_set, groups, seen)
            elif isinstance(each, FragmentSpreadNode) and each.name.value not in seen:
                seen.add(each.name.value)
                fragment = self._fragments.get(each.name.value)
                if fragment is not None:
                    self._collect(fragment.selection_set, groups, seen)

    def _field(self, place: _Place, nodes: list[FieldNode]) -> None:
        name = nodes[0].name.value
        is_introspection = place.is_introspection or name in {"__schema", "__type"}
        sets = [each.selection_set for each in nodes if each.selection_set is not None]
        if is_introspection:
            self._introspect(place, name, sets)
            return
        known = (
            place.type.fields.get(name) if isinstance(place.type, GraphQLObjectType | GraphQLInterfaceType) else None
        )
        times, pending = place.times, 1
        if known is not None:
            pending = max(self._first(known, each) for each in nodes)
            if is_list_type(get_nullable_type(known.type)):
                times, pending = times * (pending if "first" in known.args else place.pending), 1
        self._values += times
        if self._values > MOST_VALUES:
            raise _exceeded(MOST_VALUES, "values, rows times fields")
        if sets:
            inner = None if known is None else get_named_type(known.type)
            self._walk(_Place(inner, place.depth + 1, times, pending), sets)

    def _introspect(self, place: _Place, name: str, sets: list[SelectionSetNode]) -> None:
        if name in _FIELD_LISTS and place.is_within_fields:
            raise HttpError(
                "the document asks for the fields of fields of the schema", do="ask for each type by itself"
            )
        types = len(self._schema.type_map)
        times = place.times * (types if name == "types" else _SCHEMA_LISTS.get(name, 1))
        self._introspected += times
        if self._introspected > types * _MOST_PER_TYPE:
            raise _exceeded(types * _MOST_PER_TYPE, "values of the schema")
        if sets:
            is_within = place.is_within_fields or name in _FIELD_LISTS
            self._walk(_Place(None, place.depth + 1, times, 1, True, is_within), sets)  # noqa: FBT003 - the parts of a place

    def _first(self, known: GraphQLField, node: FieldNode) -> int:
        """Return how many rows a field asks for, at least 1."""
        if "first" not in known.args:
            return 1
        written: object = next((each.value for each in node.arguments or () if each.name.value == "first"), None)
        if isinstance(written, VariableNode):
            name = written.name.value
            written = self._variables.get(name, self._defaults.get(name))
        if not isinstance(written, IntValueNode | int):
            declared = known.args["first"].ast_node
            written = None if declared is None else declared.default_value
        if isinstance(written, IntValueNode):
            written = int(written.value[:20])
        return min(max(written, 1), MOST_ROWS) if isinstance(written, int) else MOST_ROWS


def _exceeded(most: int, what: str) -> HttpError:
    return HttpError(f"the document asks for more than {most} {what}", do="ask for less at once")
