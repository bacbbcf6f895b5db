"""The resource that a path names: an entity set, one of its entities by key, a property, a value, or a count."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from serve.http_errors import HttpError, UnknownError
from serve.odata.filter_syntax import condition_of
from serve.odata.functions import compared
from serve.odata.headers import Preferences
from serve.odata.literals import Word, number_of, text_of, time_of, words_of
from serve.odata.model import EntitySet, Property
from serve.odata.options import Options
from serve.queries.expressions import Call, ColumnReference, Constant
from serve.queries.query import Condition, both
from serve.queries.values import shown

_RESOURCE = re.compile(r"(?P<set>[^()/]+)(?P<key>\((?:'(?:[^']|'')*'|[^'()])*\))?(?P<rest>(?:/[^/]+)*)")


@dataclass(frozen=True)
class Resource:
    """What a path names."""

    set_name: str
    key: str | None = None
    """The text in the parentheses."""
    property: str | None = None
    tail: Literal["", "$count", "$value"] = ""

    @classmethod
    def of(cls, path: str) -> Resource:
        """Return the resource of a decoded path after the service's; raise `UnknownError` if none can have it."""
        match = _RESOURCE.fullmatch(path)
        if match is None:
            raise UnknownError("there is no such resource", got=shown(path), do="see the service document")
        rest = match["rest"].split("/")[1:]
        key = None if match["key"] is None else match["key"][1:-1]
        if key is None and rest in ([], ["$count"]):
            return cls(match["set"], tail="$count" if rest else "")
        is_value = len(rest) == 2 and rest[1] == "$value"  # noqa: PLR2004 - a property and its value
        if key is not None and (len(rest) <= 1 or is_value) and not (rest and rest[0].startswith("$")):
            return cls(match["set"], key, rest[0] if rest else None, "$value" if is_value else "")
        raise UnknownError("there is no such resource", got=shown(path), do="see the service document")


@dataclass(frozen=True)
class Ask:
    """A request of a resource, and how its response is to be."""

    resource: Resource
    options: Options
    accept: str
    preferences: Preferences
    base: str
    """The address of the service."""


def key_condition(text: str, entities: EntitySet) -> Condition:
    """Return the condition that an entity has this key; raise `HttpError` if it is not one of the entity set."""
    properties = entities.key
    if not properties:
        raise UnknownError(f"entities of {entities.name!r} have no key", do="use $filter")
    values = _values(text, entities)
    if set(values) != {each.name for each in properties}:
        names = ",".join(f"{each.name}=…" for each in properties)
        raise HttpError("the key does not have the properties of the entity set", got=shown(text), do=f"write {names}")
    condition = both(*(_equal(each, values[each.name]) for each in properties))
    assert condition is not None  # noqa: S101 - there is at least one property
    return condition


def property_of(name: str, entities: EntitySet) -> Property:
    """Return a property by its name; raise `UnknownError` if there is none."""
    for each in entities.properties:
        if each.name == name:
            return each
    raise UnknownError(f"there is no property {shown(name)}", do="see $metadata")


def _equal(each: Property, value: Constant) -> Condition:
    if value.value is None:
        raise HttpError("a value of a key is never null", got=each.name)
    return condition_of(Call("eq", compared("eq", ColumnReference(each.column), value), "BOOLEAN"))


def _values(text: str, entities: EntitySet) -> dict[str, Constant]:
    words = words_of(text)
    single = [] if len(entities.key) != 1 else [entities.key[0].name]
    values: dict[str, Constant] = {}
    at = 0
    while True:
        name = single[0] if single else ""
        if words[at].kind == "name" and words[at + 1].text == "=":
            name, at = words[at].text, at + 2
        is_negative = words[at].text == "-" and words[at].kind == "mark"
        at += is_negative
        if not name or name in values:
            break
        values[name] = _literal(words[at], text, is_negative=is_negative)
        at += 1
        if words[at].kind == "end":
            return values
        if words[at].text != ",":
            break
        at += 1
        if words[at].kind == "end":
            break
    raise HttpError("the key cannot be read", got=shown(text), do="write (1), ('a') or (a=1,b='x')")


def _literal(word: Word, text: str, *, is_negative: bool) -> Constant:
    if word.kind == "number":
        return number_of(word.text, is_negative=is_negative)
    if word.kind == "text" and not is_negative:
        return Constant("VARCHAR", text_of(word.text))
    if word.kind == "time" and not is_negative:
        return time_of(word.text)
    if word.text.lower() in {"true", "false"} and not is_negative:
        return Constant("BOOLEAN", word.text.lower())
    raise HttpError("the key cannot be read", got=shown(text), do="write (1), ('a') or (a=1,b='x')")
