"""The types of columns as types of GraphQL, and the filters that they have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphql import FloatValueNode, GraphQLError, GraphQLScalarType, GraphQLSchema, IntValueNode, StringValueNode

from pipeline.core.schema import Column
from serve.http_errors import HttpError
from serve.queries.query import Operator

_SCALARS: Mapping[str, str] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT"), "Int"),
    **dict.fromkeys(("BIGINT", "HUGEINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "BigInt"),
    **dict.fromkeys(("FLOAT", "DOUBLE"), "Float"),
    "BOOLEAN": "Boolean",
    "VARCHAR": "String",
    "DATE": "Date",
    "TIMESTAMP": "LocalDateTime",
    "TIMESTAMPTZ": "DateTime",
}
_NUMBERS = ("Int", "BigInt", "Float", "Decimal")
OWN_SCALARS: Mapping[str, str] = {
    "BigInt": "An integer of any size, as a text, because a number of JSON may lose digits. Arguments can be numbers.",
    "Decimal": "A number with a fixed number of decimals, as a text, because a number of JSON may lose digits. Arguments can be numbers.",
    "Long": "An integer of at most 53 bits, as a number.",
    "Date": "A date such as 2013-07-01.",
    "LocalDateTime": "A time without time zone such as 2013-07-01T12:00:00.",
    "DateTime": "A time such as 2013-07-01T12:00:00Z.",
    "Bytes": "Bytes in base64.",
    "JSON": "A value of any form.",
}
COMPARABLE = ("Int", "BigInt", "Float", "Decimal", "Boolean", "String", "Date", "LocalDateTime", "DateTime")
OPERATORS: Mapping[str, Operator] = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "isDistinct": "distinct", "like": "like",
    "ilike": "ilike", "match": "match", "imatch": "imatch", "search": "text",
}  # fmt: skip
"""The operators with one value, by their names in filters."""
SET_OPERATORS: Mapping[str, Operator] = {
    "in": "in",
    "contains": "contains",
    "containedIn": "contained",
    "overlaps": "overlaps",
}
"""The operators with a list of values."""
_FILTERS = (*(f"{name}Filter" for name in COMPARABLE), *(f"{name}ListFilter" for name in COMPARABLE))
SHARED_TYPES = (
    "Int", "Float", "String", "Boolean", "ID", *OWN_SCALARS, *_FILTERS, "PresenceFilter", "Query", "Mutation", "Subscription",
    "PageInfo", "Direction", "Grain", "TableName", "TableChange", "Prediction", "Predictions",
)  # fmt: skip
"""The names of types that schemas share, which no table gets."""


def scalar_of(kind: str) -> str:
    """Return the GraphQL type of a DuckDB type: a scalar, or a list of one such as `[Int]`."""
    if kind.endswith("[]"):
        element = scalar_of(kind.removesuffix("[]"))
        return f"[{element}]" if element in COMPARABLE else "JSON"
    if kind.startswith("DECIMAL("):
        return "Decimal"
    return _SCALARS.get(kind, "Bytes" if kind == "BLOB" else "JSON")


def is_text(kind: str) -> bool:
    """Return whether the numbers of a column are texts in responses."""
    return scalar_of(kind).strip("[]") in {"BigInt", "Decimal"}


def filter_of(kind: str) -> str:
    """Return the type of the filter on a column."""
    scalar = scalar_of(kind)
    if scalar in COMPARABLE:
        return f"{scalar}Filter"
    return f"{scalar.strip('[]')}ListFilter" if scalar.startswith("[") else "PresenceFilter"


def is_number(kind: str) -> bool:
    """Return whether a column can be added up."""
    return scalar_of(kind) in _NUMBERS


def is_comparable_scalar(kind: str) -> bool:
    """Return whether a column can be compared, ordered and grouped by."""
    return scalar_of(kind) in COMPARABLE


def filters_sdl() -> str:
    """Return the definitions of the scalars and of the filters on them."""
    parts = [f"{_described(text)}scalar {name}" for name, text in OWN_SCALARS.items()]
    for name in COMPARABLE:
        words = (
            ["eq", "neq", "isDistinct"] if name == "Boolean" else ["eq", "neq", "gt", "gte", "lt", "lte", "isDistinct"]
        )
        words += ["like", "ilike", "match", "imatch", "search"] if name == "String" else []
        lines = [f"{word}: {name}" for word in words] + ["isNull: Boolean"]
        lines += [] if name == "Boolean" else [f"in: [{name}!]"]
        parts.append(f"input {name}Filter {{ {' '.join(lines)} }}")
        sets = " ".join(f"{word}: [{name}!]" for word in ("contains", "containedIn", "overlaps"))
        parts.append(f"input {name}ListFilter {{ {sets} isNull: Boolean }}")
    parts.append("input PresenceFilter { isNull: Boolean }")
    return "\n".join(parts)


def prepare(schema: GraphQLSchema) -> None:
    """Let the scalars of a schema keep the digits of numbers, which floats would not."""
    for name in OWN_SCALARS:
        scalar = schema.type_map.get(name)
        if isinstance(scalar, GraphQLScalarType) and name != "JSON":
            # those of graphql-core 3.2, then those of 3.3
            for attribute in ("parse_literal", "coerce_input_literal"):
                setattr(scalar, attribute, _text_of_literal)
            for attribute in ("parse_value", "coerce_input_value"):
                setattr(scalar, attribute, _plain)


def text_of(column: Column, value: object) -> str:
    """Return a value as the text that its column is compared with; raise `HttpError` for one that is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise HttpError(f"a value for column {column.name!r} is not valid text")
    if isinstance(value, int | str):
        return str(value)
    if isinstance(value, float):
        # an integer that JSON or the type Float has made a float is one again
        return str(int(value)) if value.is_integer() and abs(value) < 1 << 53 else repr(value)
    problem = "must not be null" if value is None else "must be a single value"
    raise HttpError(f"a value for column {column.name!r} {problem}", do="use isNull to test for null")


def _text_of_literal(node: Any, _: Any = None) -> str:
    if isinstance(node, IntValueNode | FloatValueNode | StringValueNode):
        return node.value
    raise GraphQLError("a number or text is needed here", node)


def _plain(value: Any) -> Any:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return value
    raise GraphQLError("a number or text is needed here")


def _described(text: str) -> str:
    return f'"{text}" '
