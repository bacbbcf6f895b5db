"""Compiles a query to one SELECT with bound values. No text of a request becomes part of the statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.core.schema import Column, Schema
from pipeline.kernel.scan import Scan
from pipeline.kernel.sql_text import listed, quoted
from pipeline.kernel.types import arrow_type
from serve.query import COMPARISONS, Filter, Ordering, Query, with_key

_SECONDS = "'%Y-%m-%dT%H:%M:%S.%f'"


@dataclass(frozen=True)
class Statement:
    """SQL with a placeholder for each value."""

    sql: str
    values: tuple[str, ...] = ()


def page(scan: Scan, query: Query) -> Statement:
    """Return the statement of a page. It returns one row more than the limit, which shows whether a next page exists.

    The order ends with all columns of the table, so tied rows are equal, and the pages of one version neither overlap
    nor miss rows. Non-finite floats count as null, as in the responses.
    """
    values: list[str] = []
    where = []
    for condition in query.filters:
        where.append(_condition(condition))
        values += _bound(condition)
    types = scan.schema.as_dict()
    total = with_key(query.order, [name for name in scan.schema.names if not types[name].startswith("MAP")])
    sql = f"select {listed(query.select)} from ({scan.query()})"
    if where:
        sql += f" where {' and '.join(where)}"
    sql += f" order by {', '.join(_order(term, types) for term in total)}"
    return Statement(f"{sql} limit {query.limit + 1} offset {query.offset}", tuple(values))


def misfits(filters: Sequence[Filter]) -> Statement:
    """Return a statement of one row: for each bound value, whether it cannot be cast to its column's type."""
    pairs = [(f.column, value) for f in filters for value in f.values]
    tests = [f"try_cast(? as {column.type}) is null" for column, _ in pairs]
    return Statement(f"select [{', '.join(tests)}]::boolean[]", tuple(value for _, value in pairs))


def as_json(statement: Statement, schema: Schema) -> Statement:
    """Return each row as one JSON object in a column `row`."""
    fields = ", ".join(f"{quoted(c.name)} := {_plain(quoted(c.name), arrow_type(c.type))}" for c in schema.columns)
    return Statement(f"select to_json(struct_pack({fields}))::varchar as row from ({statement.sql})", statement.values)


def as_text(statement: Statement, schema: Schema) -> Statement:
    """Return the rows as text columns: times in ISO 8601, nested values as JSON."""
    columns = ", ".join(f"{_flat(column)} as {quoted(column.name)}" for column in schema.columns)
    return Statement(f"select {columns} from ({statement.sql})", statement.values)


def _condition(condition: Filter) -> str:
    operand = _comparable(condition.column.name, condition.column.type)
    value = f"cast(? as {condition.column.type})"
    if condition.operator == "is":
        return f"{operand} is {'null' if condition.is_null else 'not null'}"
    if condition.operator == "in":
        return f"{operand} in ({', '.join([value] * len(condition.values))})"
    if condition.operator == "like":
        return f"{operand} like {value}"
    return f"{operand} {COMPARISONS[condition.operator]} {value}"


def _bound(condition: Filter) -> tuple[str, ...]:
    if condition.operator == "like":  # unlike %, a star needs no escaping in a URL
        return tuple(value.replace("*", "%") for value in condition.values)
    return condition.values


def _comparable(name: str, kind: str) -> str:
    column = quoted(name)
    return f"(case when isfinite({column}) then {column} end)" if kind in {"FLOAT", "DOUBLE"} else column


def _order(term: Ordering, types: dict[str, str]) -> str:
    return f"{_comparable(term.column, types[term.column])} {'desc' if term.descending else 'asc'} nulls last"


def _flat(column: Column) -> str:
    kind, name = arrow_type(column.type), quoted(column.name)
    plain = _plain(name, kind)
    return f"case when {name} is not null then to_json({plain})::varchar end" if pa.types.is_nested(kind) else plain


def _plain(value: str, kind: pa.DataType, depth: int = 0) -> str:
    """Return an expression that JSON can represent: no NaN or infinity, times in ISO 8601, bytes in base64."""
    if pa.types.is_floating(kind):
        return f"case when isfinite({value}) then {value} end"
    if pa.types.is_timestamp(kind):
        zone = "" if kind.tz is None else "Z"
        return f"replace(strftime({value}, {_SECONDS}), '.000000', '') || '{zone}'"
    if pa.types.is_binary(kind):
        return f"base64({value})"
    return _plain_nested(value, kind, depth) if pa.types.is_nested(kind) else value


def _plain_nested(value: str, kind: pa.DataType, depth: int) -> str:
    inner = f"v{depth}"
    if pa.types.is_struct(kind):
        fields = ", ".join(
            f"{quoted(field.name)} := {_plain(f'{value}.{quoted(field.name)}', field.type, depth)}" for field in kind
        )
        return f"case when {value} is not null then struct_pack({fields}) end"
    if pa.types.is_map(kind):
        items = f"list_transform(map_values({value}), lambda {inner}: {_plain(inner, kind.item_type, depth + 1)})"
        return f"case when {value} is not null then map(map_keys({value}), {items}) end"
    return f"list_transform({value}, lambda {inner}: {_plain(inner, kind.value_type, depth + 1)})"
