"""Writes rows as the JSON objects of entities."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.kernel.sql_text import literal, quoted
from pipeline.kernel.types import arrow_type
from serve.odata.headers import JsonForm
from serve.odata.model import NAMESPACE, EntitySet, Property
from serve.queries.expressions import column_value, plain
from serve.queries.select import PageStatement, Statement

_LOSSY = ("Edm.Int64", "Edm.Decimal")
"""The types of which not every value is a number of a client whose numbers are floats."""
_RAW = ("Edm.Boolean", "Edm.SByte", "Edm.Byte", "Edm.Int16", "Edm.Int32", *_LOSSY)
_UNTYPED = ("Edm.String", "Edm.Boolean", "Edm.Double")
"""The types that JSON shows by itself."""


def as_entities(  # noqa: PLR0913 - what decides the text of an entity, all keyword-only
    made: PageStatement,
    end: str,
    *,
    properties: Sequence[Property],
    entities: EntitySet,
    form: JsonForm,
    base: str,
    omits_nulls: bool = False,
) -> Statement:
    """Return each row as one JSON object with a text after it in a column `row`, beside the columns of the cursor.

    The columns of `made` have the names of the properties.
    """
    parts: list[str] = []
    addresses: list[str] = []  # they have the host that the client named, so they are bound
    if form.metadata == "full":
        parts.append(literal(f'"@odata.type":"#{NAMESPACE}.{entities.type_name}"'))
        if entities.key and set(entities.key) <= set(properties):
            url = f"to_json(cast(? as varchar) || {key_literal(entities.key)} || ')')::varchar"
            parts += [f"""'"@odata.id":' || {url}""", f"""'"@odata.editLink":' || {url}"""]
            addresses = [f"{base}/{entities.name}("] * 2
    for each in properties:
        value, name = value_text(each, form), json.dumps(each.name, ensure_ascii=False) + ":"
        if form.metadata == "full" and each.type not in _UNTYPED:
            name = _type_of_value(each) + name  # clients expect the type right before its value
        pair = f"{literal(name)} || {value}"
        parts.append(pair if omits_nulls else f"coalesce({pair}, {literal(name + 'null')})")
    cursor = "".join(f", {quoted(name)}" for name in made.cursor)
    row = f"'{{' || concat_ws(',', {', '.join(parts)}) || '}}'" if parts else "'{}'"
    sql = f"select {row} || {literal(end)} as row{cursor} from ({made.statement.sql})"
    return Statement(sql, (*addresses, *made.statement.values))


def value_text(each: Property, form: JsonForm) -> str:
    """Return an expression of a property's value as JSON, null if it is null."""
    column = each.renamed
    name = quoted(each.name)
    if each.type in _RAW:
        text = f"cast({name} as varchar)"
        return f"""'"' || {text} || '"'""" if form.numbers_as_text and each.type in _LOSSY else text
    if each.type == "Edm.DateTimeOffset":
        zone = "" if column.type == "TIMESTAMPTZ" else "Z"  # a time without zone is in UTC
        return f"""'"' || {plain(name, arrow_type(column.type))} || '{zone}"'"""
    if each.type == "Edm.Binary":
        return f"""'"' || replace(replace(base64({name}), '+', '-'), '/', '_') || '"'"""
    return f"to_json({column_value(column)})::varchar"


def plain_text(each: Property) -> str:
    """Return an expression of a property's value as it is in `/$value`, null if it is null."""
    column = each.renamed
    if each.type == "Edm.String":
        return column_value(column)
    return f"""trim({value_text(each, JsonForm())}, '"')"""


def key_literal(properties: Sequence[Property]) -> str:
    """Return an expression of the key of an entity as it is in its URL."""
    parts = []
    for each in properties:
        value = plain_text(each)
        if each.type == "Edm.String":
            value = f"'''' || url_encode(replace({column_value(each.renamed)}, '''', '''''')) || ''''"
        parts.append(value if len(properties) == 1 else f"{literal(each.name + '=')} || {value}")
    return " || ',' || ".join(parts)


def _type_of_value(each: Property) -> str:
    name = json.dumps(f"{each.name}@odata.type", ensure_ascii=False)
    return f'{name}:"#{each.type.removeprefix("Edm.")}",'
