"""Converts lists, structs and maps from text: each element follows the rule of `values`, otherwise the result is null.

In an object, a missing key is null; a key that the type lacks, or a duplicate key, makes the value invalid.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

from pipeline.connectors import values
from pipeline.core.schema import Column
from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import inner_types, nested_type

MARK = "\ufdd1"
"""The mark before a number that `marked` converted to a string; this code point does not occur in text."""
_EDGE = "\x01"
"""A byte that does not occur in valid JSON."""
_STRING_OR_NUMBER = r'("(?:[^"\\]|\\.)*")|(-?[0-9][0-9.eE+-]*)'


def marked(line: str) -> str:
    """Return SQL for JSON text in which each number is a string of its original characters, preceded by a mark."""
    cut = f"regexp_replace({line}, {literal(_STRING_OR_NUMBER)}, '\\1{_EDGE}{MARK}\\2{_EDGE}', 'g')"
    return f"replace(replace({cut}, '{_EDGE}{MARK}{_EDGE}', ''), '{_EDGE}', '\"')"


def unmarked(text: str) -> str:
    """Return SQL that removes the marks from a text of marked JSON."""
    plain = rf"regexp_replace({text}, '\"?{MARK}([0-9.eE+-]*)\"?', '\1', 'g')"
    return f"case when contains({text}, '{MARK}') then {plain} else {text} end"


def of_json(column: Column, text: str) -> str:
    """Return SQL for a nested value in JSON format, null if an element is invalid."""
    return f"try(list_transform([{text}], lambda j: {_of_json(column, 'j', 1)})[1])"


def of_text(column: Column, text: str) -> str:
    """Return SQL for a nested value in DuckDB's text format, null if an element is invalid."""
    return f"try(list_transform([try_cast({text} as {_with_text_values(column.type)})], lambda j: {_of_text(column, 'j', 1)})[1])"


def _of_json(column: Column, node: str, depth: int) -> str:
    """Return SQL for the JSON node named `node`; an error in it makes the entire value null."""
    kind, inner = column.type, _inner_columns(column)
    if inner is None:
        return _scalar(column, unmarked(node))
    name, shapes = (
        f"x{depth}",
        {key: "JSON" if values.is_nested(part.type) else "VARCHAR" for key, part in inner.items()},
    )
    json_type, extra = ("ARRAY" if kind.endswith("]") else "OBJECT"), ""
    if kind.endswith("]"):
        opened = f"json_transform({node}, {literal(json.dumps([shapes['element']]))})"
        body = f"list_transform({opened}, lambda {name}: {_of_json(inner['element'], name, depth + 1)})"
    elif kind.startswith("MAP"):
        shape = json.dumps(f"MAP(VARCHAR, {shapes['value']})")
        opened = f"json_transform({node}, {literal(shape)})"
        body = _map(
            opened, name, _scalar(inner["key"], f"{name}.key"), _of_json(inner["value"], f"{name}.value", depth + 1)
        )
    else:
        opened = f"json_transform({node}, {literal(json.dumps(shapes))})"
        fields = {key: _of_json(part, f"{name}.{quoted(key)}", depth + 1) for key, part in inner.items()}
        body = f"list_transform([{opened}], lambda {name}: {_struct(fields)})[1]"
        extra = f" and {only_keys(f'json_keys({node})', tuple(inner))}"
    fits = f"json_type({node}) = '{json_type}'{extra}"
    return f"case when {node} is null or json_type({node}) = 'NULL' then null when {fits} or {_raise_misfit(node)} then {body} end"


def _of_text(column: Column, node: str, depth: int) -> str:
    kind, inner = column.type, _inner_columns(column)
    if inner is None:
        return _scalar(column, node)
    name = f"x{depth}"
    if kind.endswith("]"):
        return f"list_transform({node}, lambda {name}: {_of_text(inner['element'], name, depth + 1)})"
    if kind.startswith("MAP"):
        value = _of_text(inner["value"], f"{name}.value", depth + 1)
        return _map(node, name, _scalar(inner["key"], f"{name}.key"), value)
    fields = {key: _of_text(part, f"{node}.{quoted(key)}", depth + 1) for key, part in inner.items()}
    return f"case when {node} is not null then {_struct(fields)} end"


def only_keys(keys: str, names: tuple[str, ...]) -> str:
    """Return SQL that is true if a list of keys contains only these, without duplicates."""
    listed = ", ".join(literal(name) for name in names)
    return f"(list_has_all([{listed}]::varchar[], {keys}) and not {any_twice(keys)})"


def any_twice(keys: str) -> str:
    """Return SQL that is true if a list of keys contains a duplicate."""
    return f"(len(list_distinct({keys})) < len({keys}))"


def _inner_columns(column: Column) -> dict[str, Column] | None:
    inner = inner_types(column.type)
    return None if inner is None else {name: replace(column, type=part) for name, part in inner.items()}


def _map(opened: str, name: str, key: str, value: str) -> str:
    entry = f"struct_pack(k := {key}, v := {value})"
    return f"map_from_entries(list_transform(map_entries({opened}), lambda {name}: {entry}))"


def _struct(fields: Mapping[str, str]) -> str:
    return f"struct_pack({', '.join(f'{quoted(name)} := {value}' for name, value in fields.items())})"


def _scalar(column: Column, text: str) -> str:
    if column.type == "VARCHAR":
        return text
    kept = values.value_of(column, "y")
    strict = f"list_transform([{kept}], lambda z: case when z is not null or y is null or {_raise_misfit('y')} then z end)[1]"
    return f"list_transform([{text}], lambda y: {strict})[1]"


def _raise_misfit(text: str) -> str:
    """Return SQL that raises; `error` is not allowed inside `try`."""
    return f"cast(concat('misfit ', {text}) as boolean)"


def _with_text_values(kind: str) -> str:
    """Return a nested type of the same shape whose values are text."""
    inner = inner_types(kind)
    return (
        "VARCHAR"
        if inner is None
        else nested_type(kind, {name: _with_text_values(part) for name, part in inner.items()})
    )
