"""JSON schemas: compatible if each document that is valid by the earlier schema is valid by the later one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.schema_registry.errors import invalid_schema
from pipeline.schema_registry.json_rules import Comparison, JsonDocument
from pipeline.schema_registry.schemas import ParsedSchema, json_text, parsed_json


@dataclass(frozen=True)
class JsonSchema:
    """A JSON schema, with the documents that it refers to by their names."""

    document: Any
    references: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, references: Mapping[str, str]) -> JsonSchema:
        """Parse a schema and those that it refers to; raise `RegistryError` 42201."""
        document = parsed_json(text)
        schema = cls(document, {name: parsed_json(each) for name, each in references.items()})
        try:
            for path, part in _parts(document, "#"):
                if not isinstance(part, Mapping | bool):
                    raise invalid_schema(f"{path} is neither an object nor a boolean")
                if isinstance(part, Mapping) and not _is_positive(part.get("multipleOf", 1)):
                    raise invalid_schema(f"{path}/multipleOf is not a number above 0")
        except RecursionError as error:
            raise invalid_schema("its parts are nested too deeply") from error
        return schema

    @property
    def text(self) -> str:
        """See `ParsedSchema`."""
        return json_text(self.document)

    @property
    def normalized(self) -> str:
        """See `ParsedSchema`: the order of keys has no meaning."""
        return json_text(self.document, sort=True)

    def problems(self, earlier: ParsedSchema) -> Sequence[str]:
        """See `ParsedSchema`."""
        if not isinstance(earlier, JsonSchema):
            return ["the type of the schema changed"]
        new, old = (JsonDocument.of(each.document, each.references) for each in (self, earlier))
        try:
            return list(dict.fromkeys(Comparison(new, old).problems()))
        except RecursionError as error:
            raise invalid_schema("its parts are nested too deeply to be compared with another version") from error
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            reason = f"a keyword has a value of another form: {type(error).__name__} {error}"
            raise invalid_schema(f"it cannot be compared with another version: {reason}") from error


def _is_positive(number: object) -> bool:
    return isinstance(number, int | float) and not isinstance(number, bool) and number > 0


_OF_NAMES = ("properties", "patternProperties", "definitions", "$defs", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = ("not", "additionalProperties", "additionalItems", "contains", "propertyNames", "if", "then", "else")


def _parts(schema: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield a schema and all schemas inside it, with their paths; raise `RegistryError` for a keyword of another form."""
    yield path, schema
    if not isinstance(schema, Mapping):
        return
    for key in _OF_NAMES:
        for name, part in _form(schema, key, Mapping, path).items():
            yield from _parts(part, f"{path}/{key}/{name}")
    for key in _LISTS:
        for number, part in enumerate(_form(schema, key, list, path)):
            yield from _parts(part, f"{path}/{key}/{number}")
    for key in _SINGLE:
        if key in schema:
            yield from _parts(schema[key], f"{path}/{key}")
    items = schema.get("items", True)
    for number, part in enumerate(items if isinstance(items, list) else [items]):
        yield from _parts(part, f"{path}/items/{number}")


def _form(schema: Mapping[str, Any], key: str, form: type, path: str) -> Any:
    if key in schema and not isinstance(schema[key], form):
        raise invalid_schema(f"{path}/{key} is not {'a list' if form is list else 'an object'}")
    return schema.get(key, form() if form is list else {})
