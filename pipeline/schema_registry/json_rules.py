"""When a JSON schema accepts every document that an earlier one accepts.

The rules decide by the keywords, so that they refuse some changes that no document would show: what they accept is right.
"""

from __future__ import annotations

import functools
import itertools
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.schema_registry.errors import invalid_schema

Json = Any
_TYPES = frozenset({"null", "boolean", "object", "array", "number", "integer", "string"})
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_SAME = ("pattern", "format", "contentEncoding", "contentMediaType", "propertyNames", "contains", "minContains", "maxContains", "dependencies", "dependentSchemas", "if", "then", "else", "unevaluatedProperties", "unevaluatedItems")  # fmt: skip
"""Keywords that may be removed, and neither added nor changed."""


_KEYWORDS = frozenset({*_LOWER, *_UPPER, *_SAME, "type", "enum", "const", "multipleOf", "uniqueItems", "required", "dependentRequired", "properties", "patternProperties", "additionalProperties", "items", "prefixItems", "additionalItems", "allOf", "anyOf", "oneOf", "not"})  # fmt: skip
"""Keywords that decide what is valid."""
_DYNAMIC = ("$dynamicRef", "$recursiveRef")
_MOST_STEPS = 50_000
_MOST_REFERENCES = 100


@dataclass(frozen=True)
class JsonDocument:
    """A schema with the documents that it refers to by their names."""

    root: Json
    references: Mapping[str, Json]

    @functools.cached_property
    def parts(self) -> frozenset[int]:
        """The identities of all objects in the documents."""
        return frozenset(map(id, _objects([self.root, *self.references.values()])))

    @classmethod
    def of(cls, root: Json, references: Mapping[str, Json]) -> JsonDocument:
        """Return the documents; references of each to itself are written with its name, so that they mean it everywhere."""
        return cls(root, {name: _named(each, name) for name, each in references.items()})

    def resolved(self, schema: Json) -> Json:
        """Return the schema that a `$ref` means, together with the keywords beside it; without one, the schema itself.

        Raises `UnresolvedError`.
        """
        for _ in range(_MOST_REFERENCES):
            if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
                return schema
            beside = {key: value for key, value in schema.items() if key in _KEYWORDS}
            if beside:
                return {**beside, "allOf": [*beside.get("allOf", ()), {"$ref": schema["$ref"]}]}
            schema = self._target(schema["$ref"])
        raise UnresolvedError(f"{schema['$ref']!r} refers to itself")

    def _target(self, reference: str) -> Json:
        name, _, pointer = reference.partition("#")
        own = self.root.get("$id") if isinstance(self.root, Mapping) else None
        found = self.root if not name or name == own else self.references.get(name)
        for part in unquote(pointer).split("/")[1:] if pointer.startswith("/") else [pointer] if pointer else []:
            key = part.replace("~1", "/").replace("~0", "~")
            if not pointer.startswith("/"):
                raise UnresolvedError(f"{reference!r} is an anchor, which is not compared")
            if isinstance(found, Sequence) and not isinstance(found, str) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            else:
                found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping | bool):
            raise UnresolvedError(f"{reference!r} does not exist")
        return found


class UnresolvedError(Exception):
    """A reference leads to no schema; the message says why."""


def _objects(part: Json) -> Iterator[Json]:
    if isinstance(part, Mapping):
        yield part
    for each in part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ():
        yield from _objects(each)


def _named(part: Json, name: str) -> Json:
    if isinstance(part, list):
        return [_named(each, name) for each in part]
    if not isinstance(part, dict):
        return part
    own = part.get("$ref")
    named = {key: _named(each, name) for key, each in part.items()}
    return {**named, "$ref": f"{name}{own}"} if isinstance(own, str) and own.startswith("#") else named


@dataclass(frozen=True)
class Comparison:
    """A later and an earlier schema."""

    new: JsonDocument
    old: JsonDocument
    _open: set[tuple[int, int]] = field(default_factory=set)
    """The pairs of schemas that are being compared: a schema may contain itself."""
    _steps: Iterator[int] = field(default_factory=itertools.count)
    _made: dict[str, Json] = field(default_factory=dict)
    """Schemas that were put together, by their text: one that is put together again is the same."""

    def problems(self) -> Iterator[str]:
        """Yield why a document of the earlier schema may be invalid by the later one.

        Raises `RegistryError` 42201 for schemas whose comparison takes too many steps, because their parts multiply.
        """
        yield from self._of(self.new.root, self.old.root, "#")

    def _of(self, new: Json, old: Json, path: str) -> Iterator[str]:
        if next(self._steps) > _MOST_STEPS:
            raise invalid_schema(f"it has too many combinations to be compared with another version, at {path}")
        try:
            new, old = self.new.resolved(new), self.old.resolved(old)
        except UnresolvedError as error:
            yield f"{path}/$ref: {error}"
            return
        new, old = self._kept(new, self.new), self._kept({} if old is True else old, self.old)
        pair = id(new), id(old)
        if pair in self._open or _accepts_all(new) or old is False:
            return
        self._open.add(pair)
        try:
            if new is False:
                yield f"{path}: nothing is valid any more"
            else:
                yield from self._parts(new, old, path)
        finally:
            self._open.discard(pair)

    def _kept(self, schema: Json, document: JsonDocument) -> Json:
        if not isinstance(schema, Mapping) or id(schema) in document.parts:
            return schema
        return self._made.setdefault(json.dumps(schema, sort_keys=True), schema)

    def _parts(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        for key in ("oneOf", "anyOf"):
            if key in old:  # each of its branches must be valid
                for number, branch in enumerate(old[key]):
                    yield from self._of(new, _with(old, key, branch), f"{path}/{key}/{number}")
                return
        for key in ("oneOf", "anyOf"):
            if key in new:
                if all(any(self._of(_with(new, key, branch), old, path)) for branch in new[key]):
                    yield f"{path}/{key}: no branch accepts what was valid"
                return
        yield from (f"{path}/{key}: is not compared" for key in _DYNAMIC if key in new)
        yield from self._all_of(new, old, path)
        yield from _types(new, old, path)
        yield from _values(new, old, path)
        yield from _limits(new, old, path)
        yield from self._objects(new, old, path)
        yield from self._arrays(new, old, path)
        yield from self._not(new, old, path)

    def _not(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        if "not" in new and "not" not in old:
            yield f"{path}/not: was added"
        elif "not" in new:
            turned = replace(self, new=self.old, old=self.new, _open=set())
            if any(turned._of(old["not"], new["not"], path)):  # noqa: SLF001 - of the same class
                yield f"{path}/not: excludes more"

    def _all_of(self, new: Mapping[str, Json], old: Mapping[str, Json], path: str) -> Iterator[str]:
        given = [*old.get("allOf", ()), {name: value for name, value in old.items() if name != "allOf"}]
        for number, part in enumerate(new.get("allOf", ())):
            if all(any(self._of(part, each, path)) for each in given):
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
            elif name in after and any(self._of(after[name], _rest(old, name), where)):
                is_open = "other properties were allowed, with any value"
                yield f"{where}: was added, and {is_open if _accepts_all(_rest(old, name)) else 'accepts less'}"
            elif name in before and any(self._of(_rest(new, name), before[name], where)):
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
        return "integer" if float(value).is_integer() else "number"
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
    found = [each for pattern, each in schema.get("patternProperties", {}).items() if _has(name, pattern)]
    if not found:
        return _others(schema)
    return found[0] if len(found) == 1 else {"allOf": found}


def _has(name: str, pattern: str) -> bool:
    """Return whether a name has a pattern, in time linear in both: a pattern of a client must not take forever."""
    try:
        return bool(pc.match_substring_regex(pa.scalar(name), pattern).as_py())
    except pa.ArrowInvalid as error:
        raise invalid_schema(f"the pattern {pattern!r} is not one of RE2: {error}") from error


def _items(schema: Mapping[str, Json]) -> tuple[list[Json], Json]:
    """Return the schemas of the first items, and that of all others."""
    if isinstance(schema.get("items"), list):  # up to draft 2019-09
        return schema["items"], schema.get("additionalItems", True)
    return schema.get("prefixItems", []), schema.get("items", True)
