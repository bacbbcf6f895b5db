"""Reads entities: pages of one version with a link to the next one, single entities, properties and counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, urlencode

from starlette.responses import Response

from pipeline.core.fingerprint import fingerprint
from serve.access.admission import RequestContext
from serve.access.authorization import Grant
from serve.conditional_requests import entity_tag, not_modified
from serve.http_errors import UnknownError
from serve.odata.entities import as_entities, plain_text
from serve.odata.filter_syntax import Filter
from serve.odata.headers import JsonForm, json_form
from serve.odata.metric_rows import read_metrics
from serve.odata.model import EntitySet, Property, entity_set, grant_of
from serve.odata.resources import Ask, key_condition, property_of
from serve.queries import cursor as cursors
from serve.queries.cursor import PageCursor
from serve.queries.formats import JSON, Page, read_page
from serve.queries.query import MOST_ROWS, Condition, Query, Selection, with_key
from serve.queries.select import PageStatement, Statement, VisibleRelation, page
from serve.reading import Reading
from serve.tables import reading_files

_OF_COLLECTIONS = ("select", "filter", "orderby", "top", "skip", "count", "format", "skiptoken")


@dataclass(frozen=True)
class _Read:
    """A request whose entity set, version and condition are known."""

    ask: Ask
    grant: Grant
    relation: VisibleRelation
    entities: EntitySet
    filter: Filter | None
    cursor: PageCursor | None


def read_resource(reading: Reading, context: RequestContext, ask: Ask, request: Mapping[str, str]) -> Response:
    """Return a resource, for a client with these headers. Raises `HttpError`, or `StorageError` if the lake cannot be read."""
    if "apply" in ask.options.words and ask.resource.key is None and not ask.resource.tail:
        return read_metrics(reading, context, ask, request)
    read = _read(reading, context, ask)
    number = read.relation.version
    context.facts.update(table=read.relation.table, version=number, why=read.grant.reason)
    headers = {"Table-Version": str(number)}
    uses_clock = read.filter is not None and read.filter.uses_clock
    if not uses_clock:
        headers["ETag"] = entity_tag(read.relation.table, read.relation.identity, read.relation.fingerprint, ask)
    unchanged = not_modified(request, headers)
    if unchanged is not None:
        return unchanged
    with reading_files(read.relation.table, number, is_pinned=read.cursor is not None):
        response = _respond(reading, context, read)
    response.headers.update(headers)
    if ask.preferences.applied:
        response.headers["Preference-Applied"] = ask.preferences.applied
    if not uses_clock:
        newest = () if read.cursor is not None else ((read.relation.table, read.relation.identity),)
        context.keep(headers["ETag"], newest)
    return response


def _read(reading: Reading, context: RequestContext, ask: Ask) -> _Read:
    caller, resource, options = context.caller, ask.resource, ask.options
    grant = grant_of(reading, caller, resource.set_name)
    name = grant.definition.name
    token = options.words.get("skiptoken")
    cursor = None if token is None else PageCursor.of(token)
    version = reading.tables.version(name, None if cursor is None else cursor.version)
    seen = reading.authorizer.columns(grant, caller, version)
    entities = entity_set(resource.set_name, grant, seen)
    if resource.key is not None:
        options.require_only("format", *(() if resource.property is not None else ("select",)))
        condition: Filter | None = Filter(key_condition(resource.key, entities))
    elif resource.tail == "$count":
        options.require_only("filter", "format")
        condition = options.filter(entities)
    else:
        options.require_only(*_OF_COLLECTIONS)
        condition = options.filter(entities)
    where = None if condition is None else condition.condition
    relation = reading.authorizer.relation(grant, caller, version, where)
    return _Read(ask, grant, relation, entities, condition, cursor)


def _respond(reading: Reading, context: RequestContext, read: _Read) -> Response:
    ask, resource = read.ask, read.ask.resource
    if resource.tail == "$count":
        total = _count(reading, read)
        return Response(str(total).encode(), media_type="text/plain")
    if resource.tail == "$value":
        return _value(reading, read)
    form = json_form(ask.accept, ask.options.words.get("format"))
    if resource.key is not None:
        response = _entity(reading, read, form)
        context.facts["rows"] = 1
        return response
    return _collection(reading, context, read, form)


def _collection(reading: Reading, context: RequestContext, read: _Read, form: JsonForm) -> Response:
    ask, options = read.ask, read.ask.options
    selected = options.selected(read.entities)
    top, skip = options.number("top"), options.number("skip") or 0
    most = ask.preferences.page_size or MOST_ROWS
    query = Query(
        select=_selection(selected),
        where=_where(read),
        order=with_key(options.ordering(read.entities), read.relation.key),
        limit=most if top is None else min(top, most),
        offset=skip,
    )
    if read.cursor is not None:
        query = cursors.resumed(read.cursor, query, read.relation.schema, read.relation.key, _identity(read))
    rows = _page(reading, read, query, selected, form)
    owed = None if top is None else top - rows.rows
    following = _following(read, query, rows, owed) if rows.has_next and owed != 0 else None
    context.facts["rows"] = rows.rows
    head: dict[str, object] = {}
    if form.metadata != "none":
        head["@odata.context"] = _context_url(read, selected)
    if options.counts:
        head["@odata.count"] = _shown_count(_count(reading, read), form)
    body = json.dumps(head, ensure_ascii=False)[:-1].encode()
    body += (b", " if head else b"") + b'"value": ' + rows.content
    if following is not None:
        body += b', "@odata.nextLink": ' + json.dumps(following).encode()
    return Response(body + b"}", media_type=form.media_type)


def _entity(reading: Reading, read: _Read, form: JsonForm) -> Response:
    ask, resource = read.ask, read.ask.resource
    if resource.property is not None:
        return _property(reading, read, form, property_of(resource.property, read.entities))
    selected = ask.options.selected(read.entities)
    query = Query(select=_selection(selected), where=_where(read), limit=1)
    rows = _page(reading, read, query, selected, form)
    if not rows.rows:
        raise _no_entity(read)
    entity = rows.content[1:-1]
    if form.metadata == "none":
        return Response(entity, media_type=form.media_type)
    context = json.dumps({"@odata.context": f"{_context_url(read, selected)}/$entity"}, ensure_ascii=False)[
        :-1
    ].encode()
    return Response(context + (b", " if selected else b"") + entity[1:], media_type=form.media_type)


def _property(reading: Reading, read: _Read, form: JsonForm, each: Property) -> Response:
    query = Query(select=_selection((each,)), where=_where(read), limit=1)
    rows = _page(reading, read, query, (each,), replace(form, metadata="none"))
    if not rows.rows:
        raise _no_entity(read)
    value = json.loads(rows.content, parse_float=str, parse_int=str)[0].get(each.name)
    if value is None:
        return Response(None, 204)
    member = rows.content[1:-1].partition(b":")[2]
    context = f"{read.ask.base}/$metadata#{read.entities.name}({quote(str(read.ask.resource.key))})/{each.name}"
    head = "" if form.metadata == "none" else f'"@odata.context": {json.dumps(context)}, '
    return Response(f'{{{head}"value": '.encode() + member, media_type=form.media_type)


def _value(reading: Reading, read: _Read) -> Response:
    each = property_of(str(read.ask.resource.property), read.entities)
    query = Query(select=_selection((each,)), where=_where(read), limit=1)
    made = page(read.relation, query)
    statement = Statement(f"select {plain_text(each)} as value from ({made.statement.sql})", made.statement.values)
    values = reading.engine.rows(statement).column(0).to_pylist()
    if not values:
        raise _no_entity(read)
    return Response(None, 204) if values[0] is None else Response(str(values[0]).encode(), media_type="text/plain")


def _page(reading: Reading, read: _Read, query: Query, selected: tuple[Property, ...], form: JsonForm) -> Page:
    def written(made: PageStatement, end: str) -> Statement:
        return as_entities(
            made,
            end,
            properties=selected,
            entities=read.entities,
            form=form,
            base=read.ask.base,
            omits_nulls=read.ask.preferences.omits_nulls,
        )

    return read_page(reading.engine, page(read.relation, query), query.limit or 0, JSON, written)


def _count(reading: Reading, read: _Read) -> int:
    return reading.count(read.relation, Query(select=(), where=_where(read)))


def _shown_count(number: int, form: JsonForm) -> object:
    return str(number) if form.numbers_as_text else number


def _identity(read: _Read) -> str:
    words = read.ask.options.words
    return fingerprint("odata", read.entities.name, *(words.get(name, "") for name in ("select", "filter", "orderby")))[
        :16
    ]


def _following(read: _Read, query: Query, rows: Page, owed: int | None) -> str:
    cursor = PageCursor.following(read.relation.version, _identity(read), query, rows.last, rows.rows)
    words = {f"${name}": text for name, text in read.ask.options.words.items() if name not in {"top", "skip", "count"}}
    if owed is not None:
        words["$top"] = str(owed)
    words["$skiptoken"] = str(cursor)
    return f"{read.ask.base}/{quote(read.entities.name)}?{urlencode(words, safe='$,():', quote_via=quote)}"


def _context_url(read: _Read, selected: tuple[Property, ...]) -> str:
    names = "" if len(selected) == len(read.entities.properties) else f"({','.join(each.name for each in selected)})"
    return f"{read.ask.base}/$metadata#{read.entities.name}{names}"


def _where(read: _Read) -> Condition | None:
    return None if read.filter is None else read.filter.condition


def _selection(properties: tuple[Property, ...]) -> tuple[Selection, ...]:
    return tuple(Selection(each.name, each.column.name) for each in properties)


def _no_entity(read: _Read) -> UnknownError:
    return UnknownError(f"{read.entities.name!r} has no entity with this key", got=str(read.ask.resource.key)[:80])
