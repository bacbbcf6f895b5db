"""The fields of tables: a page of rows, a row by its key, and groups of rows. Each is one statement, and one more if rows are counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from pipeline.core.schema import Column
from serve.graphql.filters import condition_of, one_of, ordering, orders_of
from serve.graphql.naming import NamedTable, Naming, Root
from serve.graphql.rows import RowColumns, RowPlanner, columns_in, count_of, require_columns
from serve.graphql.scalars import is_text, text_of
from serve.graphql.selection import Selected
from serve.graphql.snapshot import ReadSnapshot
from serve.http_errors import HttpError
from serve.queries import cursor as cursors
from serve.queries.cursor import PageCursor
from serve.queries.objects import ObjectMember, as_objects
from serve.queries.parameters import version_number
from serve.queries.query import (
    MOST_ROWS,
    ColumnCondition,
    Combination,
    Function,
    Ordering,
    Query,
    Selection,
    with_key,
)
from serve.queries.select import Statement, VisibleRelation, count, page, result_schema
from serve.queries.values import require_value
from serve.tables import reading_files

Run = Callable[[Statement], pa.Table]
"""Runs a statement."""
_FUNCTIONS: Mapping[str, Function] = {
    "min": "min",
    "max": "max",
    "sum": "sum",
    "avg": "avg",
    "countDistinct": "count_distinct",
}


_COUNT = Selection("~count", "", "count")


class FieldPlan(Protocol):
    """A field of an operation, checked: nothing is read before it runs."""

    def run(self, run: Run) -> tuple[str, int]:
        """Return the value as JSON, and the number of rows that it has."""
        ...


@dataclass(frozen=True)
class _Page:
    """A query of a table, from one place of it on."""

    relation: VisibleRelation
    related: Mapping[str, VisibleRelation]
    query: Query
    identity: str
    is_resumed: bool
    is_pinned: bool

    def following(self, last: Sequence[Any], number: int) -> str:
        """Return the cursor after a row with these values of the cursor's columns, which is this one on the page."""
        return str(PageCursor.following(self.relation.version, self.identity, self.query, last, number))


@dataclass(frozen=True)
class _Connection:
    """A page of rows or groups as the value of a field."""

    field: Selected
    page: _Page
    shapes: tuple[tuple[ObjectMember, ...], ...]
    numbers: Mapping[int, int]
    """The number of the shape for each selection of rows, by its identity."""

    def run(self, run: Run) -> tuple[str, int]:
        """See `FieldPlan`."""
        one = self.page
        with reading_files(one.relation.table, one.relation.version, is_pinned=one.is_pinned):
            rows = _rows(one, self.shapes, run) if self._needs_rows else None
            total = None
            if any(each.name == "totalCount" for each in self.field.fields):
                total = int(run(count(one.relation, one.query)).column(0)[0].as_py())
        number = 0 if rows is None else min(rows.num_rows, one.query.limit or 0)
        parts = [f"{_key(each)}{self._value(each, rows, number, total)}" for each in self.field.fields]
        return f"{{{','.join(parts)}}}", number

    @property
    def _needs_rows(self) -> bool:
        return any(each.name in {"nodes", "edges", "pageInfo"} for each in self.field.fields)

    def _value(self, each: Selected, rows: pa.Table | None, number: int, total: int | None) -> str:
        if each.name == "version":
            return str(self.page.relation.version)
        if each.name == "totalCount":
            return str(total)
        if rows is None or each.name == "__typename":
            return json.dumps(self.field.type)
        if each.name == "nodes":
            return f"[{','.join(self._texts(each, rows, number))}]"
        if each.name == "edges":
            return self._edges(each, rows, number)
        return self._page_info(each, rows, number)

    def _texts(self, each: Selected, rows: pa.Table, number: int) -> list[str]:
        texts: list[str] = rows.column(f"row{self.numbers[id(each)]}").slice(0, number).to_pylist()
        return texts

    def _edges(self, each: Selected, rows: pa.Table, number: int) -> str:
        columns: list[tuple[str, list[str]]] = []
        for part in each.fields:
            if part.name == "node":
                texts = self._texts(part, rows, number)
            elif part.name == "cursor":
                texts = [json.dumps(self._cursor(rows, n)) for n in range(number)]
            else:
                texts = [json.dumps(each.type)] * number
            columns.append((_key(part), texts))
        edges = ("{" + ",".join(key + texts[n] for key, texts in columns) + "}" for n in range(number))
        return f"[{','.join(edges)}]"

    def _page_info(self, each: Selected, rows: pa.Table, number: int) -> str:
        values: dict[str, object] = {
            "hasNextPage": rows.num_rows > number,
            "hasPreviousPage": self.page.is_resumed,
            "startCursor": self._cursor(rows, 0) if number else None,
            "endCursor": self._cursor(rows, number - 1) if number else None,
            "__typename": each.type,
        }
        return json.dumps({part.key: values[part.name] for part in each.fields})

    def _cursor(self, rows: pa.Table, number: int) -> str:
        names = [name for name in rows.column_names if name.startswith("~")]
        return self.page.following([rows.column(name)[number].as_py() for name in names], number + 1)


@dataclass(frozen=True)
class _Row:
    """The row with a key as the value of a field, or null."""

    page: _Page
    shape: tuple[ObjectMember, ...]

    def run(self, run: Run) -> tuple[str, int]:
        """See `FieldPlan`."""
        rows = _rows(self.page, (self.shape,), run)
        return (rows.column("row0")[0].as_py(), 1) if rows.num_rows else ("null", 0)


class TablePlanner:
    """Plans the fields of tables of one operation."""

    def __init__(self, naming: Naming, snapshot: ReadSnapshot) -> None:
        """Plan for what a caller sees."""
        self._naming = naming
        self._snapshot = snapshot

    def plan(self, root: Root, field: Selected) -> FieldPlan:
        """Return the plan of a field; raise `HttpError` for an argument that is not valid."""
        named = self._naming.tables[root.name]
        if root.kind == "row":
            return self._row(named, field)
        return self._groups(named, field) if root.kind == "groups" else self._connection(named, field)

    def _row(self, named: NamedTable, field: Selected) -> FieldPlan:
        rows, columns = RowPlanner(self._naming, self._snapshot), RowColumns()
        shape = rows.members(named, field.fields, columns)
        terms = []
        for name, value in field.arguments.items():
            column = named.columns[name]
            text = text_of(column, value)
            require_value(column, text)
            terms.append(ColumnCondition(column, "=", (text,)))
        where = Combination("and", tuple(terms))
        version = self._snapshot.version(named.table.name, None, None)
        relation = self._snapshot.relation(named.table.name, version, where)
        query = Query(_selections(columns.names(relation)), where, limit=1, embed=tuple(columns.embed))
        return _Row(_Page(relation, rows.related, query, "", is_resumed=False, is_pinned=False), shape)

    def _connection(self, named: NamedTable, field: Selected) -> FieldPlan:
        rows, columns = RowPlanner(self._naming, self._snapshot), RowColumns()
        shapes: list[tuple[ObjectMember, ...]] = []
        numbers: dict[int, int] = {}
        for each in _row_selections(field):
            numbers[id(each)] = len(shapes)
            shapes.append(rows.members(named, each.fields, columns))
        order = orders_of(field.arguments.get("orderBy"), named)

        def query_of(relation: VisibleRelation) -> Query:
            select = _selections(columns.names(relation))
            return Query(select, order=with_key(order, relation.key), embed=tuple(columns.embed))

        one = self._page(named, field, query_of, rows.related, lambda query: replace(query, select=(), embed=()))
        return _Connection(field, one, tuple(shapes), numbers)

    def _groups(self, named: NamedTable, field: Selected) -> FieldPlan:
        select: dict[str, Selection] = {}
        shapes: list[tuple[ObjectMember, ...]] = []
        numbers: dict[int, int] = {}
        for each in _row_selections(field):
            numbers[id(each)] = len(shapes)
            shapes.append(tuple(_group_member(named, part, select) for part in each.fields))
        order = tuple(_group_order(named, term, select) for term in field.arguments.get("orderBy") or ())
        select.setdefault("~count", _COUNT)  # so that there is a function, and the keys are grouped by
        query = Query(tuple(select.values()), order=order)
        one = self._page(
            named,
            field,
            lambda _: query,
            {},
            lambda query: replace(query, select=tuple(each for each in query.select if not each.function)),
        )
        kinds = result_schema(one.relation, one.query, {}).as_dict()
        typed = tuple(tuple(_typed(member, kinds) for member in shape) for shape in shapes)
        return _Connection(field, one, typed, numbers)

    def _page(
        self,
        named: NamedTable,
        field: Selected,
        query_of: Callable[[VisibleRelation], Query],
        related: Mapping[str, VisibleRelation],
        rows_only: Callable[[Query], Query],
    ) -> _Page:
        """Return the page that the arguments of a field ask for. `rows_only` returns the part of a query that its cursors belong to."""
        name, arguments, snapshot = named.table.name, field.arguments, self._snapshot
        after = arguments.get("after")
        cursor = None if after is None else PageCursor.of(after)
        number, at = arguments.get("version"), arguments.get("at")
        if cursor is not None and (number is not None or at is not None):
            raise HttpError("a cursor names its version", do="leave out 'version' and 'at'")
        if number is not None and at is not None:
            raise HttpError("'at' and 'version' are both given", do="give one of them")
        asked = version_number("version", str(number)) if number is not None else None
        version = snapshot.version(name, cursor.version if cursor is not None else asked, at)
        where = condition_of(arguments.get("where"), named)
        snapshot.reading.engine.require_patterns(where)
        relation = snapshot.relation(name, version, where)
        query = replace(query_of(relation), where=where, limit=count_of(arguments, MOST_ROWS))
        own = {each.column for each in query.select if each.column}
        results = {each.name for each in query.select if query.is_grouped}
        ordered = {term.column for term in query.order} - results
        require_columns(relation, sorted({*own, *ordered, *columns_in(where)}))
        identity = cursors.identity(rows_only(query))
        if cursor is not None:
            query = cursors.resumed(cursor, query, relation.schema, relation.key, identity)
        is_pinned = cursor is not None or number is not None or at is not None
        return _Page(relation, related, query, identity, cursor is not None, is_pinned)


def _rows(one: _Page, shapes: Sequence[tuple[ObjectMember, ...]], run: Run) -> pa.Table:
    return run(as_objects(page(one.relation, one.query, one.related), shapes))


def _row_selections(field: Selected) -> list[Selected]:
    """Return the selections of rows in a page: those of `nodes`, and of `node` in `edges`."""
    found = [each for each in field.fields if each.name == "nodes"]
    edges = (part for each in field.fields if each.name == "edges" for part in each.fields)
    return [*found, *(part for part in edges if part.name == "node")]


def _selections(names: Sequence[str]) -> tuple[Selection, ...]:
    return tuple(Selection(name, name) for name in names)


def _group_member(named: NamedTable, part: Selected, select: dict[str, Selection]) -> ObjectMember:
    if part.name == "__typename":
        return ObjectMember(part.key, constant=f"{named.type}Group")
    if part.name == "count":
        return ObjectMember(part.key, select.setdefault("~count", _COUNT).name)
    members = []
    for each in part.fields:
        if each.name == "__typename":
            members.append(ObjectMember(each.key, constant=part.type))
            continue
        members.append(ObjectMember(each.key, _aggregate(part.name, named.columns[each.name], select).name))
    return ObjectMember(part.key, members=tuple(members))


def _aggregate(word: str, column: Column, select: dict[str, Selection]) -> Selection:
    function = _FUNCTIONS.get(word, "")
    name = f"~{word}:{column.name}"
    return select.setdefault(name, Selection(name, column.name, function))


def _group_order(named: NamedTable, term: Mapping[str, Any], select: dict[str, Selection]) -> Ordering:
    word, value = one_of(term, "orderBy")
    if word == "count":
        return ordering(select.setdefault("~count", _COUNT).name, value)
    name, direction = one_of(value, word)
    column = named.columns[name]
    if word == "keys" and f"~keys:{column.name}" not in select:
        raise HttpError(
            f"groups are ordered by {name!r}, which is not one of their keys", do=f"select keys {{ {name} }}"
        )
    return ordering(_aggregate(word, column, select).name, direction)


def _typed(member: ObjectMember, kinds: Mapping[str, str]) -> ObjectMember:
    if member.members is not None:
        return replace(member, members=tuple(_typed(each, kinds) for each in member.members))
    if not member.column:
        return member
    kind = kinds[member.column]
    is_count = member.column.startswith("~countDistinct:") or member.column == _COUNT.name
    return replace(member, type=kind, is_text=is_text(kind) and not is_count)


def _key(each: Selected) -> str:
    return f"{json.dumps(each.key)}:"
