"""When a JSON schema accepts every document that an earlier one accepts.

The rules decide by the keywords, so that they refuse some changes that no document would show: what they accept is right.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = Any
_TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("pattern", "format", "contentEncoding", "contentMediaType", "propertyNames", "contains", "minContains", "maxContains", "dependencies", "dependentSchemas", "if", "then", "else", "unevaluatedProperties", "unevaluatedItems")  # fmt: skip
"""Keywords that may be removed, and neither added nor changed."""


@dataclass(frozen=True)
class Comparison:
    """A later and an earlier schema, each with the documents that it refers to."""

    new: Json
    new_references: Mapping[str, Json]
    old: Json
    old_references: Mapping[str, Json]
    _open: set[tuple[int, int]] = field(default_factory=set)
    """The pairs of schemas that are being compared: a schema may contain itself."""

    def problems(self) -> Iterator[str]:
        """Yield why a document of the earlier schema may be invalid by the later one."""
        yield from self._of(self.new, self.old, "#")

    def _of(self, new: Json, old: Json, path: str) -> Iterator[str]:
        new = _resolved(new, self.new, self.new_references)
        old = _resolved(old, self.old, self.old_references)
        pair = id(new), id(old)
        if pair in self._open or _accepts_all(new) or old is False:
            return
        self._open.add(pair)
        try:
            if new is False:
                yield f"{path}: nothing is valid any more"
            else:
                yield from self._parts(new, {} if old is True else old, path)
        finally:
            self._open.discard(pair)

    def _parts(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        for key in ("oneOf", "anyOf"):
            if key in old:  # each of its branches must be valid
                for number, branch in enumerate(old[key]):
                    yield from self._of(new, _with(old, key, branch), f"{path}/{key}/{number}")
                return
        for key in ("oneOf", "anyOf"):
            if key in new:
                branches = [list(self._of(_with(new, key, branch), old, path)) for branch in new[key]]
                if all(branches):
                    yield f"{path}/{key}: no branch accepts what was valid"
                return
        yield from self._all_of(new, old, path)
        yield from _types(new, old, path)
        yield from _values(new, old, path)
        yield from _limits(new, old, path)
        yield from self._objects(new, old, path)
        yield from self._arrays(new, old, path)
        if "not" in new:
            if "not" not in old:
                yield f"{path}/not: was added"
            elif any(Comparison(old["not"], self.old_references, new["not"], self.new_references).problems()):
                yield f"{path}/not: excludes more"

    def _all_of(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        given = [*old.get("allOf", ()), {name: value for name, value in old.items() if name != "allOf"}]
        for number, part in enumerate(new.get("allOf", ())):
            found = [list(self._of(part, each, path)) for each in given]
            if all(found):
                yield f"{path}/allOf/{number}: was added, or accepts less"

    def _objects(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        if not _may_be(old, "object"):
            return
        yield from self._properties(new, old, path)
        yield from _required(new, old, path)
        for pattern, schema in new.get("patternProperties", {}).items():
            earlier = old.get("patternProperties", {}).get(pattern, _others(old))
            yield from self._of(schema, earlier, f"{path}/patternProperties/{pattern}")
        for pattern, schema in old.get("patternProperties", {}).items():
            if pattern not in new.get("patternProperties", {}):
                yield from self._of(_others(new), schema, f"{path}/patternProperties/{pattern}")
        yield from self._of(_others(new), _others(old), f"{path}/additionalProperties")

    def _properties(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in {**after, **before}:
            where = f"{path}/properties/{name}"
            if name in after and name in before:
                yield from self._of(after[name], before[name], where)
            elif name in after and list(self._of(after[name], _rest(old, name), where)):
                is_open = "other properties were allowed, with any value"
                yield f"{where}: was added, and {is_open if _accepts_all(_rest(old, name)) else 'accepts less'}"
            elif name in before and list(self._of(_rest(new, name), before[name], where)):
                yield f"{where}: was removed, and other properties are not allowed"

    def _arrays(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        if not _may_be(old, "array"):
            return
        (before, rest_before), (after, rest_after) = _items(old), _items(new)
        for number in range(max(len(before), len(after))):
            later = after[number] if number < len(after) else rest_after
            earlier = before[number] if number < len(before) else rest_before
            yield from self._of(later, earlier, f"{path}/items/{number}")
        yield from self._of(rest_after, rest_before, f"{path}/items")
        if new.get("uniqueItems") and not old.get("uniqueItems"):
            yield f"{path}/uniqueItems: was added"


def _required(new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
    properties, known = new.get("properties", {}), set(old.get("required", ()))
    for name in sorted(set(new.get("required", ())) - known):
        if not (isinstance(properties.get(name), Mapping) and "default" in properties[name]):
            yield f"{path}/required: {name} was added without a default"
    for name, needed in new.get("dependentRequired", {}).items():
        if not set(needed) <= set(old.get("dependentRequired", {}).get(name, ())) | known:
            yield f"{path}/dependentRequired/{name}: was added"


def _resolved(schema: Json, document: Json, references: Mapping[str, Json]) -> Json:
    """Return the schema that a `$ref` means, with the keywords beside it; without one, the schema itself."""
    seen = 0
    while isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str) and seen < len(references) + 100:
        name, _, pointer = schema["$ref"].partition("#")
        root = document if not name else references.get(name, True)
        found = _at(root, pointer)
        beside = {key: value for key, value in schema.items() if key not in {"$ref", "description", "title"}}
        schema, document = ({**found, **beside} if beside and isinstance(found, Mapping) else found), root
        seen += 1
    return schema


def _at(document: Json, pointer: str) -> Json:
    for part in pointer.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(document, Mapping) or key not in document:
            return True
        document = document[key]
    return document


def _with(schema: Mapping[str, Json], key: str, branch: Json) -> Json:
    """Return a schema in which one branch replaces all of them."""
    others = {name: value for name, value in schema.items() if name != key}
    if not set(others) - {"$schema", "title", "description", "definitions", "$defs", "$id", "default"}:
        return branch
    return {**others, "allOf": [*others.get("allOf", ()), branch]}


def _accepts_all(schema: Json) -> bool:
    return schema is True or (isinstance(schema, Mapping) and not set(schema) - {"title", "description", "default", "$id", "$schema", "examples", "definitions", "$defs", "$comment"})  # fmt: skip


def _kinds(schema: Mapping[str, Json]) -> frozenset[str]:
    """Return the types of JSON values that a schema may accept."""
    given, values = schema.get("type"), _enumerated(schema)
    kinds = frozenset([given] if isinstance(given, str) else given or _TYPES)
    kinds = kinds | {"integer"} if "number" in kinds else kinds
    return kinds if values is None else kinds & {_kind(value) for value in values}


def _may_be(schema: Mapping[str, Json], kind: str) -> bool:
    return kind in _kinds(schema)


def _types(new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
    lost = _kinds(old) - _kinds(new)
    if lost:
        yield f"{path}/type: {', '.join(sorted(lost))} is not valid any more"


def _values(new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
    after, before = _enumerated(new), _enumerated(old)
    if after is None:
        return
    if before is None:
        yield f"{path}/enum: was added"
        return
    lost = [value for value in before if not any(_is_equal(value, other) for other in after)]
    if lost:
        yield f"{path}/enum: {lost[0]!r} is not valid any more"


def _enumerated(schema: Mapping[str, Json]) -> list[Json] | None:
    if "const" in schema:
        return [schema["const"]]
    found: list[Json] | None = schema.get("enum")
    return found


def _kind(value: Json) -> str:
    """Return the type of a value."""
    if isinstance(value, bool) or value is None:
        return "null" if value is None else "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _is_equal(value: Json, other: Json) -> bool:
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


def _limits(new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
    for keys, is_within in ((_LOWER, operator.le), (_UPPER, operator.ge)):
        for key in keys:
            if key in new and not (key in old and is_within(new[key], old[key])) and not _follows(key, new, old):
                yield f"{path}/{key}: {'was added' if key not in old else 'accepts less'}"
    if "multipleOf" in new and not ("multipleOf" in old and old["multipleOf"] % new["multipleOf"] == 0):
        yield f"{path}/multipleOf: {'was added' if 'multipleOf' not in old else 'accepts less'}"
    for key in _SAME:
        if key in new and new[key] != old.get(key):
            yield f"{path}/{key}: {'was added' if key not in old else 'changed'}"


def _follows(key: str, new: Mapping[str, Json], old: Mapping[str, Json]) -> bool:
    """Return whether a limit follows from the other limit of the earlier schema, which excludes or includes its value."""
    if key == "minimum" and "exclusiveMinimum" in old:
        return bool(old["exclusiveMinimum"] >= new[key])
    if key == "maximum" and "exclusiveMaximum" in old:
        return bool(old["exclusiveMaximum"] <= new[key])
    if key == "exclusiveMinimum" and "minimum" in old:
        return bool(old["minimum"] > new[key])
    if key == "exclusiveMaximum" and "maximum" in old:
        return bool(old["maximum"] < new[key])
    return key in {"minItems", "minLength", "minProperties"} and new[key] <= 0


def _others(schema: Mapping[str, Json]) -> Json:
    """Return the schema of properties that have none of their own."""
    return schema.get("additionalProperties", True)


def _rest(schema: Mapping[str, Json], name: str) -> Json:
    """Return the schema that applies to a property that is not declared by its name."""
    found = [each for pattern, each in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
    if not found:
        return _others(schema)
    return found[0] if len(found) == 1 else {"allOf": found}


def _items(schema: Mapping[str, Json]) -> tuple[list[Json], Json]:
    """Return the schemas of the first items, and that of all others."""
    if isinstance(schema.get("items"), list):  # up to draft 2019-09
        return schema["items"], schema.get("additionalItems", True)
    return schema.get("prefixItems", []), schema.get("items", True)
