"""What an operation selects, as a tree: fragments in place, conditions applied, arguments with their values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLIncludeDirective,
    GraphQLObjectType,
    GraphQLSchema,
    GraphQLSkipDirective,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_named_type,
)
from graphql.execution.values import get_argument_values, get_directive_values


@dataclass(frozen=True)
class Selected:
    """A field of the response."""

    key: str
    """Its name in the response."""
    name: str
    arguments: Mapping[str, Any]
    type: str
    """The name of the type of its value."""
    nodes: tuple[FieldNode, ...]
    fields: tuple[Selected, ...]


def selected(
    schema: GraphQLSchema, document: DocumentNode, operation: OperationDefinitionNode, variables: Any
) -> tuple[Selected, ...]:
    """Return the fields of an operation of a valid document, whose variables have been coerced.

    Raises `GraphQLError` for an argument that is not valid.
    """
    root = schema.get_root_type(operation.operation)
    assert root is not None  # noqa: S101 - the document is valid
    return _Collector(schema, document, variables).fields(root, [operation.selection_set])


class _Collector:
    def __init__(self, schema: GraphQLSchema, document: DocumentNode, variables: Any) -> None:
        self._schema = schema
        self._variables = variables
        self._fragments = {
            each.name.value: each for each in document.definitions if isinstance(each, FragmentDefinitionNode)
        }

    def fields(self, kind: GraphQLObjectType, sets: list[SelectionSetNode]) -> tuple[Selected, ...]:
        groups: dict[str, list[FieldNode]] = {}
        seen: set[str] = set()
        for each in sets:
            for node in self._nodes(kind, each, seen):
                groups.setdefault(node.alias.value if node.alias else node.name.value, []).append(node)
        return tuple(self._field(kind, key, nodes) for key, nodes in groups.items())

    def _field(self, kind: GraphQLObjectType, key: str, nodes: list[FieldNode]) -> Selected:
        name = nodes[0].name.value
        known = kind.fields.get(name)
        if known is None:  # one of introspection
            return Selected(key, name, {}, kind.name, tuple(nodes), ())
        arguments = get_argument_values(known, nodes[0], self._variables)
        inner = get_named_type(known.type)
        sets = [each.selection_set for each in nodes if each.selection_set is not None]
        fields = self.fields(inner, sets) if isinstance(inner, GraphQLObjectType) else ()
        return Selected(key, name, arguments, inner.name, tuple(nodes), fields)

    def _nodes(self, kind: GraphQLObjectType, selections: SelectionSetNode, seen: set[str]) -> Iterator[FieldNode]:
        for each in selections.selections:
            if not self._is_included(each):
                continue
            if isinstance(each, FieldNode):
                yield each
            elif isinstance(each, InlineFragmentNode):
                if each.type_condition is None or each.type_condition.name.value == kind.name:
                    yield from self._nodes(kind, each.selection_set, seen)
            elif isinstance(each, FragmentSpreadNode) and each.name.value not in seen:
                seen.add(each.name.value)
                fragment = self._fragments[each.name.value]
                if fragment.type_condition.name.value == kind.name:
                    yield from self._nodes(kind, fragment.selection_set, seen)

    def _is_included(self, node: Any) -> bool:
        skip = get_directive_values(GraphQLSkipDirective, node, self._variables)
        if skip is not None and skip["if"] is True:
            return False
        include = get_directive_values(GraphQLIncludeDirective, node, self._variables)
        return include is None or include["if"] is not False
