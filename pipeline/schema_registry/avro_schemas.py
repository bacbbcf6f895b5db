"""Avro schemas: compatible if Avro's schema resolution succeeds, and if no logical type changes the meaning of a value."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.extras import imports_of
from pipeline.schema_registry.errors import invalid_schema
from pipeline.schema_registry.schemas import ParsedSchema, json_text, parsed_json

with imports_of("registry", "the schema registry"):
    from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
    from avro.errors import AvroException, IgnoredLogicalType
    from avro.name import Names
    from avro.schema import Schema, make_avsc_object


@dataclass(frozen=True)
class AvroSchema:
    """An Avro schema."""

    document: Any
    parsed: Schema = field(compare=False, repr=False)

    @classmethod
    def of(cls, text: str, references: Sequence[str]) -> AvroSchema:
        """Parse a schema after those that it refers to; raise `RegistryError` 42201."""
        names = Names()
        for each in references:
            _made(parsed_json(each), names)
        document = parsed_json(text)
        return cls(document, _made(document, names))

    @property
    def text(self) -> str:
        """See `ParsedSchema`."""
        return json_text(self.document)

    @property
    def normalized(self) -> str:
        """See `ParsedSchema`: the order of attributes, and `{"type": "int"}` instead of `"int"`, have no meaning."""
        return json_text(_plain(self.document), sort=True)

    def problems(self, earlier: ParsedSchema) -> Sequence[str]:
        """See `ParsedSchema`."""
        if not isinstance(earlier, AvroSchema):
            return ["the type of the schema changed"]
        checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # it lacks annotations
        found = checker.get_compatibility(self.parsed, earlier.parsed)
        if found.compatibility is not SchemaCompatibilityType.compatible:
            return sorted(map(_in_words, found.messages)) or ["the schemas do not resolve"]
        return list(_changed_meanings(self.parsed.to_json(), earlier.parsed.to_json(), "/"))


def _in_words(message: str) -> str:
    """Return a message of the library, which is only a name for a field without a default, and a set for symbols."""
    if message.isidentifier():
        return f"field {message!r} is new and has no default"
    if message[0] != "{":
        return message
    symbols = re.findall(r"[^{}, ']+", message)
    return f"symbols are missing: {', '.join(sorted(symbols))}"


def _made(document: Any, names: Names) -> Schema:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", IgnoredLogicalType)  # an unknown logical type is legal
            return make_avsc_object(document, names)
    except (AvroException, RecursionError) as error:
        raise invalid_schema(str(error)) from error
    except Exception as error:  # the library has no common type for what it does not expect
        raise invalid_schema(f"{type(error).__name__} {error}") from error


def _plain(schema: Any) -> Any:
    """Return a schema without attributes that only repeat a default."""
    if isinstance(schema, list):
        return [_plain(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    if set(schema) == {"type"} and isinstance(schema["type"], str):
        return schema["type"]
    return {
        name: _plain(value) if name in {"type", "items", "values", "fields"} else value
        for name, value in schema.items()
    }


def _changed_meanings(new: Any, old: Any, path: str) -> Iterator[str]:
    """Yield values that resolve, and would mean something else: Avro ignores logical types."""
    if isinstance(new, list) or isinstance(old, list):
        branches, earlier_branches = (each if isinstance(each, list) else [each] for each in (new, old))
        yield from _changed_branches(branches, earlier_branches, path)
        return
    if _logical(new) != _logical(old):
        yield f"{path}: the logical type changed from {_shown(old)} to {_shown(new)}"
    if isinstance(new, Mapping) and isinstance(old, Mapping):
        for part, (later, earlier) in _shared_parts(new, old):
            yield from _changed_meanings(later, earlier, f"{path}{part}/")


def _changed_branches(new: list[Any], old: list[Any], path: str) -> Iterator[str]:
    """Yield the changes of a union: a branch is resolved to the first one of its kind, and another one may fit."""
    for each in old:
        found = [list(_changed_meanings(other, each, path)) for other in new if _kind(other) == _kind(each)]
        if found and all(found):
            yield from found[0]


def _shared_parts(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the parts that two types have in common, with their paths."""
    if new.get("type") == "record" and old.get("type") == "record":
        before = {each["name"]: each["type"] for each in old["fields"]}
        for each in new["fields"]:
            name = next((n for n in (each["name"], *each.get("aliases", ())) if n in before), None)
            if name is not None:
                yield f"fields/{each['name']}", (each["type"], before[name])
    for part in ("items", "values"):
        if part in new and part in old:
            yield part, (new[part], old[part])


def _kind(schema: Any) -> object:
    return schema.get("type") if isinstance(schema, Mapping) else schema


def _logical(schema: Any) -> tuple[object, ...]:
    """Return what gives a number or bytes their meaning; a logical type that only names a text has none."""
    if not isinstance(schema, Mapping) or schema.get("logicalType") in {None, "uuid"}:
        return ()
    scale = (schema.get("scale", 0),) if schema["logicalType"] == "decimal" else ()
    return schema["logicalType"], *scale


def _shown(schema: Any) -> str:
    logical = _logical(schema)
    if not logical:
        return "none"
    return f"{logical[0]} with scale {logical[1]}" if len(logical) > 1 else str(logical[0])
