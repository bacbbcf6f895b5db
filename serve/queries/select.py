"""Compiles a query to one SELECT with bound values. No text of a request becomes part of the statement."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import listed, literal, quoted
from pipeline.kernel.types import arrow_type
from serve.queries.expressions import expression_sql, plain
from serve.queries.query import (
    OWN,
    ColumnCondition,
    Combination,
    Condition,
    Embedding,
    Ordering,
    Predicate,
    Query,
    Selection,
    conjuncts,
    with_key,
)
from serve.queries.values import is_comparable

_ROWS, _PAGE, _RELATED = "t", "p", "r"
"""The names of the table's rows, of those of the page, and of related ones."""
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class Statement:
    """SQL with a placeholder for each value."""

    sql: str
    values: tuple[Any, ...] = ()


@dataclass(frozen=True)
class VisibleRelation:
    """The rows and columns of a table that a caller may read: the innermost part of every statement."""

    table: str
    version: int
    sql: str
    schema: Schema
    identity: str = ""
    """That of the version; see `serve.tables.identity_of`."""
    key: tuple[str, ...] = ()
    """The key of the table, if the caller sees it as it is."""
    fingerprint: str = ""
    """Identifies the policy and the claims by which it was made; equal for callers that see the same."""


@dataclass(frozen=True)
class PageStatement:
    """The statement of a page, the columns of its rows, and those by which it is ordered."""

    statement: Statement
    schema: Schema
    cursor: tuple[str, ...] = field(default=())
    """The names of additional columns of the statement: the values after which the next page begins."""


def page(
    relation: VisibleRelation, query: Query, related: Mapping[str, VisibleRelation] | None = None
) -> PageStatement:
    """Return the statement of a page. It returns one row more than the limit, which shows whether a next page exists.

    The order is total: it ends with the key, and without one with all columns, so the pages of one version neither overlap
    nor miss rows. Non-finite floats count as null, as in the responses.
    """
    schema = result_schema(relation, query, related or {})
    if query.is_grouped or query.is_distinct:
        return PageStatement(_grouped(relation, query, schema), schema)
    order = _total(query.order, relation)
    is_single = _names_a_row(relation, query)  # to sort one row costs as much as to find it
    cursor = tuple(f"{OWN}{n}" for n in range(len(order))) if is_keyset(relation, query) and not is_single else ()
    columns = [f"{_ROWS}.{quoted(each.column)} as {quoted(each.name)}" for each in query.select]
    columns += [f"{_ROWS}.{quoted(term.column)} as {quoted(name)}" for name, term in zip(cursor, order, strict=False)]
    pairs = [pair for each in query.embed for pair in each.pairs]
    columns += [f"{_ROWS}.{quoted(mine)} as {quoted(f'{OWN}e{n}')}" for n, (mine, _) in enumerate(pairs)]
    where, values = _where(query, order, relation.schema)
    sql = f"select {', '.join(columns) or '1'} from ({relation.sql}) as {_ROWS}{where}"
    if not is_single and (query.limit is not None or query.order or query.embed):
        sql += f" order by {', '.join(_order(t, relation.schema.as_dict(), f'{_ROWS}.') for t in order) or '1'}"
    if query.limit is not None:
        sql += f" limit {query.limit + 1}"
    statement = Statement(f"{sql} offset {query.offset}" if query.offset else sql, values)
    if query.embed:
        statement = _embedding(statement, query, cursor, related or {})
    return PageStatement(statement, schema, cursor)


def filtered(sql: str, where: Condition | None) -> Statement:
    """Return the rows of a SELECT that satisfy a condition."""
    values: list[Any] = []
    condition = "" if where is None else f" where {_condition(where, values)}"
    return Statement(f"select * from ({sql}) as {_ROWS}{condition}", tuple(values))


def _names_a_row(relation: VisibleRelation, query: Query) -> bool:
    """Return whether a query has at most one row: its condition names a value of each column of the key."""
    equal = {each.column.name for each in conjuncts(query.where) if each.operator == "=" and not each.quantifier}
    return bool(relation.key) and equal.issuperset(relation.key)


def is_keyset(relation: VisibleRelation, query: Query) -> bool:
    """Return whether the next page begins after the values of a row; otherwise it begins at a number of rows."""
    if query.is_grouped or query.is_distinct or not relation.key:
        return False
    kinds = {column.name: column for column in relation.schema.columns}
    return all(is_comparable(kinds[term.column]) for term in _total(query.order, relation))


def count(relation: VisibleRelation, query: Query) -> Statement:
    """Return a statement of one number: the rows of the query on all its pages."""
    if query.is_grouped or query.is_distinct:
        inner = _grouped(relation, replace(query, limit=None, offset=0, order=()), Schema(()))
        return Statement(f"select count(*) from ({inner.sql})", inner.values)
    where, values = _where(replace(query, after=()), (), relation.schema)
    return Statement(f"select count(*) from ({relation.sql}) as {_ROWS}{where}", values)


def result_schema(relation: VisibleRelation, query: Query, related: Mapping[str, VisibleRelation]) -> Schema:
    """Return the columns of the rows of a query."""
    types = relation.schema.as_dict()
    columns = [Column(each.name, _type(each, types)) for each in query.select]
    columns += [Column(each.name, _embedded_type(each, related)) for each in query.embed]
    return Schema(tuple(columns))


def _embedded_type(each: Embedding, related: Mapping[str, VisibleRelation]) -> str:
    kinds = related[each.table].schema.as_dict()
    fields = [f"{quoted(name)} {kinds[name]}" for name in each.columns]
    fields += [f"{quoted(inner.name)} {_embedded_type(inner, related)}" for inner in each.embed]
    struct = f"STRUCT({', '.join(fields)})"
    return struct if each.is_single else f"{struct}[]"


def as_json(made: PageStatement, end: str) -> Statement:
    """Return each row as one JSON object with a text after it in a column `row`, beside the columns of the cursor."""
    fields = ", ".join(f"{quoted(c.name)} := {plain(quoted(c.name), arrow_type(c.type))}" for c in made.schema.columns)
    cursor = "".join(f", {quoted(name)}" for name in made.cursor)
    row = f"to_json(struct_pack({fields}))::varchar" if fields else "'{}'"
    return Statement(
        f"select {row} || {literal(end)} as row{cursor} from ({made.statement.sql})", made.statement.values
    )


def as_text(made: PageStatement) -> Statement:
    """Return the rows as text columns: times in ISO 8601, nested values as JSON."""
    columns = [f"{_flat(column)} as {quoted(column.name)}" for column in made.schema.columns]
    columns += [quoted(name) for name in made.cursor]
    return Statement(f"select {', '.join(columns)} from ({made.statement.sql})", made.statement.values)


def as_rows(made: PageStatement) -> Statement:
    """Return the rows with the types of the table."""
    return Statement(
        f"select {listed([*made.schema.names, *made.cursor])} from ({made.statement.sql})", made.statement.values
    )


def _grouped(relation: VisibleRelation, query: Query, schema: Schema) -> Statement:
    types = relation.schema.as_dict()
    columns = [f"{_value(each, types)} as {quoted(each.name)}" for each in query.select]
    where, values = _where(query, (), relation.schema)
    word = "select distinct" if query.is_distinct else "select"
    sql = f"{word} {', '.join(columns)} from ({relation.sql}) as {_ROWS}{where}"
    groups = [f"{_ROWS}.{quoted(each.column)}" for each in query.select if not each.function]
    if query.is_grouped and groups:
        sql += f" group by {', '.join(groups)}"
    if query.limit is None and not query.order:
        return Statement(sql, values)
    kinds = schema.as_dict()
    order = with_key(query.order, [name for name in schema.names if not kinds[name].startswith("MAP")])
    sql = f"select * from ({sql}) order by {', '.join(_order(term, kinds, '') for term in order)}"
    if query.limit is not None:
        sql += f" limit {query.limit + 1}"
    return Statement(f"{sql} offset {query.offset}" if query.offset else sql, values)


def _embedding(
    made: Statement, query: Query, cursor: Sequence[str], related: Mapping[str, VisibleRelation]
) -> Statement:
    """Return the rows of a page with those of other tables. Each table is read once, and not once for each row."""
    columns = [f"{_PAGE}.{quoted(each.name)}" for each in query.select]
    values: list[Any] = []
    number = 0
    for each in query.embed:
        mine = [f"{_PAGE}.{quoted(f'{OWN}e{number + n}')}" for n in range(len(each.pairs))]
        number += len(mine)
        columns.append(f"{_related_rows(each, related, mine, values)} as {quoted(each.name)}")
    columns += [f"{_PAGE}.{quoted(name)}" for name in cursor]
    numbered = f"select *, row_number() over () as {quoted(OWN)} from ({made.sql})"
    sql = f"select {', '.join(columns)} from ({numbered}) as {_PAGE} order by {_PAGE}.{quoted(OWN)}"
    return Statement(sql, (*values, *made.values))


def _related_rows(
    each: Embedding, related: Mapping[str, VisibleRelation], mine: Sequence[str], values: list[Any], depth: int = 0
) -> str:
    """Return the SQL of the rows that belong to one with the columns `mine`, and append its values in their order."""
    relation, rows = related[each.table], f"{_RELATED}{depth}"
    fields = [f"{quoted(name)} := {rows}.{quoted(name)}" for name in each.columns]
    for inner in each.embed:
        theirs = [f"{rows}.{quoted(name)}" for name, _ in inner.pairs]
        fields.append(f"{quoted(inner.name)} := {_related_rows(inner, related, theirs, values, depth + 1)}")
    equal = [f"{rows}.{quoted(theirs)} = {own}" for (_, theirs), own in zip(each.pairs, mine, strict=True)]
    if each.where is not None:
        equal.append(_condition(each.where, values, rows))
    packed = (
        f"select struct_pack({', '.join(fields)}) as row from ({relation.sql}) as {rows} where {' and '.join(equal)}"
    )
    if each.is_single:
        return f"({packed} limit 1)"
    types = relation.schema.as_dict()
    order = [_order(term, types, f"{rows}.") for term in with_key(each.order, relation.key)]
    ordered = f" order by {', '.join(order)}" if order else ""
    return f"(select coalesce(list(row), []) from ({packed}{ordered} limit {each.limit}))"


def _total(order: tuple[Ordering, ...], relation: VisibleRelation) -> tuple[Ordering, ...]:
    """Return an order in which no two different rows are equal."""
    if relation.key:
        return with_key(order, relation.key)
    types = relation.schema.as_dict()
    return with_key(order, [name for name in relation.schema.names if not types[name].startswith("MAP")])


def _where(query: Query, order: Sequence[Ordering], schema: Schema) -> tuple[str, tuple[Any, ...]]:
    values: list[Any] = []
    parts = [] if query.where is None else [_condition(query.where, values)]
    if query.after:
        parts.append(_after(query.after, order, schema.as_dict(), values))
    return (f" where {' and '.join(parts)}" if parts else ""), tuple(values)


def _condition(condition: Condition, values: list[Any], rows: str = _ROWS) -> str:
    """Return the SQL of a condition on some rows, and append its values."""
    if isinstance(condition, Combination):
        sql = f"({f' {condition.word} '.join(_condition(term, values, rows) for term in condition.terms)})"
    elif isinstance(condition, Predicate):
        return expression_sql(condition.expression, values, f"{rows}.")
    else:
        sql = _comparison(condition, values, rows)
    return f"(not {sql})" if condition.is_negated else sql


def _comparison(condition: ColumnCondition, values: list[Any], rows: str) -> str:
    column, operator = condition.column, condition.operator
    operand = _comparable(f"{rows}.", column.name, column.type)
    if operator == "is":
        word = {"null": "null", "not_null": "not null", "unknown": "null"}.get(condition.truth, condition.truth)
        return f"({operand} is {word})"
    if operator in {"contains", "contained", "overlaps"}:
        values.append(list(condition.values))
        given = f"cast(? as {column.type})"
        one, other = (given, operand) if operator == "contained" else (operand, given)
        return f"list_has_{'any' if operator == 'overlaps' else 'all'}({one}, {other})"
    if operator == "text":
        values.append(_WORDS.findall(condition.values[0].lower()))
        return f"list_has_all(regexp_extract_all(lower({operand}), '[\\p{{L}}\\p{{N}}_]+'), cast(? as varchar[]))"
    if operator == "in":
        values += condition.values
        return f"({operand} in ({', '.join([f'cast(? as {column.type})'] * len(condition.values))}))"
    word = " and " if condition.quantifier == "all" else " or "
    return f"({word.join(_compared(operand, condition, value, values) for value in condition.values)})"


def _compared(operand: str, condition: ColumnCondition, value: str, values: list[Any]) -> str:
    operator = condition.operator
    values.append(
        value.replace("*", "%") if operator in {"like", "ilike"} else value
    )  # a star needs no escaping in a URL
    given = f"cast(? as {condition.column.type})"
    if operator in {"match", "imatch"}:
        return f"regexp_matches({operand}, {given}, '{'i' if operator == 'imatch' else 'c'}')"
    return f"{operand} {'is distinct from' if operator == 'distinct' else operator} {given}"


def _after(after: Sequence[str | None], order: Sequence[Ordering], types: Mapping[str, str], values: list[Any]) -> str:
    """Return the condition that a row comes after the one with these values of the order's columns."""
    branches = []
    for number, term in enumerate(order):
        if after[number] is None and not term.nulls_first:
            continue  # nothing follows null
        equal = [_equal(each, after[n], types, values) for n, each in enumerate(order[:number])]
        branches.append(f"({' and '.join([*equal, _beyond(term, after[number], types, values)])})")
    return f"({' or '.join(branches) or 'false'})"


def _equal(term: Ordering, value: str | None, types: Mapping[str, str], values: list[Any]) -> str:
    operand = _comparable(f"{_ROWS}.", term.column, types[term.column])
    if value is None:
        return f"{operand} is null"
    values.append(value)
    return f"{operand} = cast(? as {types[term.column]})"


def _beyond(term: Ordering, value: str | None, types: Mapping[str, str], values: list[Any]) -> str:
    operand = _comparable(f"{_ROWS}.", term.column, types[term.column])
    if value is None:
        return f"{operand} is not null"
    values.append(value)
    beyond = f"{operand} {'<' if term.descending else '>'} cast(? as {types[term.column]})"
    return beyond if term.nulls_first else f"({beyond} or {operand} is null)"


def _value(each: Selection, types: Mapping[str, str]) -> str:
    if not each.function:
        return f"{_ROWS}.{quoted(each.column)}"
    if not each.column:
        return "count(*)"
    operand = _comparable(f"{_ROWS}.", each.column, types[each.column])
    if each.function == "count_distinct":
        return f"count(distinct {operand})"
    return f"cast({each.function}({operand}) as {_type(each, types)})"


def _type(each: Selection, types: Mapping[str, str]) -> str:
    if not each.function:
        return types[each.column]
    if each.function in {"count", "count_distinct"}:
        return "BIGINT"
    kind = types[each.column]
    if each.function == "avg":
        return "DOUBLE"
    if each.function == "sum" and not kind.startswith(("FLOAT", "DOUBLE")):
        scale = re.fullmatch(r"DECIMAL\(\d+, ?(\d+)\)", kind)
        return f"DECIMAL(38,{scale[1] if scale else 0})"
    return "DOUBLE" if each.function == "sum" else kind


def _comparable(prefix: str, name: str, kind: str) -> str:
    column = f"{prefix}{quoted(name)}"
    return f"(case when isfinite({column}) then {column} end)" if kind in {"FLOAT", "DOUBLE"} else column


def _order(term: Ordering, types: Mapping[str, str], prefix: str) -> str:
    nulls = "first" if term.nulls_first else "last"
    way = "desc" if term.descending else "asc"
    return f"{_comparable(prefix, term.column, types[term.column])} {way} nulls {nulls}"


def _flat(column: Column) -> str:
    kind, name = arrow_type(column.type), quoted(column.name)
    value = plain(name, kind)
    return f"case when {name} is not null then to_json({value})::varchar end" if pa.types.is_nested(kind) else value
