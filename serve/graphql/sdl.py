"""The schema of a caller in GraphQL's schema definition language."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from pipeline.core.schema import Column
from serve.graphql.naming import NamedMetric, NamedTable, Naming, Root
from serve.graphql.scalars import filter_of, filters_sdl, is_comparable_scalar, is_number, scalar_of
from serve.queries.query import DEFAULT_LIMIT, MOST_RELATED, MOST_ROWS

DEFAULT_RELATED = 20
"""The number of related rows of a row if none is given."""
_SHARED = f"""
"How rows are ordered by a column. Nulls are last, unless it says otherwise."
enum Direction {{ ASC DESC ASC_NULLS_FIRST DESC_NULLS_FIRST }}
type PageInfo {{ hasNextPage: Boolean! hasPreviousPage: Boolean! startCursor: String endCursor: String }}
{filters_sdl()}
"""
_MODELS = """
"What a model predicts for a row: the fields that its task has."
type Prediction { label: JSON probability: Float probabilities: JSON value: Float score: Float }
type Predictions { model: String! version: String! requestId: String predictions: [Prediction!]! }
"""
_CHANGES = """
"A new version of a table."
type TableChange { table: TableName! version: Long! }
type Subscription {
  "The versions of a table, from now on, or the newest at once if it is another than `since`."
  tableChanged(table: TableName!, since: Long): TableChange!
}
"""


def sdl_of(naming: Naming) -> str:
    """Return the schema. A caller that sees nothing has a schema that only says so."""
    roots = [_root(field, root, naming) for field, root in naming.roots.items()]
    parts = [_SHARED, *(_table(each, naming) for each in naming.tables.values())]
    if naming.enum:
        parts += [f"enum TableName {{ {' '.join(naming.enum)} }}", _CHANGES]
    if naming.models:
        parts.append(_MODELS)
    grains = dict.fromkeys(grain for each in naming.metrics.values() for grain in each.grains)
    parts += [f"enum Grain {{ {' '.join(grains)} }}"] if grains else []
    parts += [_metric(each) for each in naming.metrics.values()]
    parts.append(_type("Query", roots or ['"There is nothing that the caller may read." nothing: Boolean']))
    return "\n".join(parts)


def _root(field: str, root: Root, naming: Naming) -> str:
    if root.kind == "predict":
        return f"{_text(naming.models[root.name])}{field}(rows: [JSON!]!): Predictions"
    if root.kind == "metric":
        return _metric_root(field, naming.metrics[root.name])
    named = naming.tables[root.name]
    kind, version = named.type, "version: Long, at: String"
    if root.kind == "row":
        names = {column.name: each for each, column in named.columns.items()}
        key = ", ".join(f"{names[name]}: {scalar_of(named.columns[names[name]].type)}!" for name in named.table.key)
        return f"{_text('The row with a key.')}{field}({key}): {kind}"
    page = f"first: Int = {DEFAULT_LIMIT}, after: String"
    if root.kind == "rows":
        order = f", orderBy: [{kind}Order!]" if _compared(named) else ""
        return (
            f"{_text(named.table.description)}{field}(where: {kind}Filter{order}, {page}, {version}): {kind}Connection"
        )
    text = f"Aggregates of rows that are equal in the columns that `keys` selects, at most {MOST_ROWS} at once."
    return f"{_text(text)}{field}(where: {kind}Filter, orderBy: [{kind}GroupOrder!], {page}, {version}): {kind}Groups"


def _table(named: NamedTable, naming: Naming) -> str:
    kind = named.type
    fields = [f"{_text(_note(name, column))}{name}: {scalar_of(column.type)}" for name, column in named.columns.items()]
    for field, relationship in named.relations.items():
        other = naming.tables[relationship.table]
        if relationship.is_single:
            fields.append(f"{_text(other.table.description)}{field}: {other.type}")
            continue
        order = f", orderBy: [{other.type}Order!]" if _compared(other) else ""
        arguments = f"where: {other.type}Filter{order}, first: Int = {DEFAULT_RELATED}"
        fields.append(f"{_text(f'At most {MOST_RELATED} rows.')}{field}({arguments}): [{other.type}!]!")
    page = "pageInfo: PageInfo! totalCount: Long! version: Long!"
    return "\n".join(
        [
            _text(named.table.description) + _type(kind, fields),
            f"type {kind}Edge {{ cursor: String! node: {kind}! }}",
            f"type {kind}Connection {{ nodes: [{kind}!]! edges: [{kind}Edge!]! {page} }}",
            _filter(named),
            *_aggregates(named, page),
        ]
    )


def _aggregates(named: NamedTable, page: str) -> list[str]:
    kind, compared = named.type, _compared(named)
    numbers = {name: column for name, column in compared.items() if is_number(column.type)}
    fields, orders, parts = ["count: Long!"], ["count: Direction"], []
    if compared:
        fields += [f"keys: {kind}Values", f"min: {kind}Values", f"max: {kind}Values", f"countDistinct: {kind}Counts"]
        orders += [f"{word}: {kind}Order" for word in ("keys", "min", "max", "countDistinct")]
        parts += [
            f"input {kind}Order {{\n  {_lines(f'{name}: Direction' for name in compared)}\n}}",
            _type(f"{kind}Values", [f"{name}: {scalar_of(column.type)}" for name, column in compared.items()]),
            _type(f"{kind}Counts", [f"{name}: Long" for name in compared]),
        ]
    if numbers:
        fields += [f"sum: {kind}Sum", f"avg: {kind}Avg"]
        orders += [f"{word}: {kind}SumOrder" for word in ("sum", "avg")]
        parts += [
            f"input {kind}SumOrder {{\n  {_lines(f'{name}: Direction' for name in numbers)}\n}}",
            _type(f"{kind}Sum", [f"{name}: {_sum(column)}" for name, column in numbers.items()]),
            _type(f"{kind}Avg", [f"{name}: Float" for name in numbers]),
        ]
    return [
        *parts,
        _type(f"{kind}Group", fields),
        f"type {kind}Groups {{ nodes: [{kind}Group!]! {page} }}",
        f"input {kind}GroupOrder {{\n  {_lines(orders)}\n}}",
    ]


def _metric_root(field: str, metric: NamedMetric) -> str:
    kind, arguments = metric.dimensions.type, []
    if metric.dimensions.columns:
        arguments.append(f"where: {kind}Filter")
    if metric.grains:
        arguments += ["grain: Grain", "begin: String", "end: String"]
    arguments += [f"orderBy: [{kind}Order!]", f"first: Int = {DEFAULT_LIMIT}"]
    return f"{_text(metric.description)}{field}({', '.join(arguments)}): {kind}"


def _metric(metric: NamedMetric) -> str:
    named, kind = metric.dimensions, metric.dimensions.type
    fields, orders = ["value: JSON"], ["value: Direction"]
    parts = [f"type {kind} {{ rows: [{kind}Row!]! isTruncated: Boolean! answeredBy: String! }}"]
    if metric.grains:
        fields.append('"The first day of the period." period: Date')
        orders.append("period: Direction")
    if named.columns:
        fields.append(f'"The values are by the dimensions that are selected here." by: {kind}By!')
        lines = [
            f"{_text(_note(name, column))}{name}: {scalar_of(column.type)}" for name, column in named.columns.items()
        ]
        parts += [_type(f"{kind}By", lines), _filter(named)]
    compared = _compared(named)
    if compared:
        orders.append(f"by: {kind}GroupOrder")
        parts.append(f"input {kind}GroupOrder {{\n  {_lines(f'{name}: Direction' for name in compared)}\n}}")
    parts.append(f"input {kind}Order {{\n  {_lines(orders)}\n}}")
    return "\n".join([*parts, _type(f"{kind}Row", fields)])


def _filter(named: NamedTable) -> str:
    kind = named.type
    filters = [f"{name}: {filter_of(column.type)}" for name, column in named.columns.items()]
    words = [f"and: [{kind}Filter!]", f"or: [{kind}Filter!]", f"not: {kind}Filter"]
    return f"input {kind}Filter {{\n  {_lines([*words, *filters])}\n}}"


def _compared(named: NamedTable) -> Mapping[str, Column]:
    return {name: column for name, column in named.columns.items() if is_comparable_scalar(column.type)}


def _sum(column: Column) -> str:
    return "Float" if scalar_of(column.type) == "Float" else "Decimal"


def _note(name: str, column: Column) -> str:
    return column.type if name == column.name else f"{column.name}: {column.type}"


def _type(name: str, fields: Iterable[str]) -> str:
    return f"type {name} {{\n  {_lines(fields)}\n}}"


def _lines(lines: Iterable[str]) -> str:
    return "\n  ".join(lines)


def _text(text: str) -> str:
    """Return a description, or nothing for an empty one."""
    return f"{json.dumps(text)} " if text else ""
