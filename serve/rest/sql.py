"""The route of SQL: one SELECT over the tables that the caller may read, as its policies show them."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import duckdb
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from pipeline.core.schema import Column, Schema
from pipeline.kernel.sql_text import quoted
from pipeline.kernel.types import stored_type
from serve.access.authorization import require_scope
from serve.access.caller import Caller
from serve.access.gate import context_of, is_same
from serve.http_errors import HttpError
from serve.queries.formats import JSON, NDJSON, negotiate, read_page, stream
from serve.queries.query import MOST_ROWS
from serve.queries.rest_syntax import integer
from serve.queries.select import PageStatement, Statement
from serve.queries.sql_guard import guarded
from serve.queries.values import shown
from serve.reading import Reading
from serve.request_body import read_body

_LOG = logging.getLogger("headwater.serve")
_MOST_BODY = 64 << 10
_NO_COLUMN = re.compile(r'Referenced column "([^"]+)" not found|does not have a column named "([^"]+)"')


@dataclass(frozen=True)
class PreparedSql:
    """A statement of a caller, ready to be run, and the versions of the tables that it reads."""

    statement: PageStatement
    versions: Mapping[str, int]
    etag: str
    is_stable: bool


def prepare(reading: Reading, caller: Caller, text: str, limit: int | None) -> PreparedSql:
    """Check a statement, and put what the caller may see in place of its tables.

    The statement returns one row more than `limit`. Raises `HttpError` for what the guard does not allow, and for columns
    and types that do not fit.
    """
    grants = {grant.definition.name: grant for grant in reading.authorizer.readable(caller)}
    checked = guarded(text, grants)
    versions = {name: reading.tables.version(name) for name in checked.tables}
    relations = {name: reading.authorizer.relation(grants[name], caller, version) for name, version in versions.items()}
    sql = checked.sql(lambda name: relations[name].sql)
    schema = _schema(reading, sql)
    columns = tuple(Column(column.name, stored_type(column.type)) for column in schema.columns)
    casts = ", ".join(
        quoted(column.name)
        if column.type == before.type
        else f"cast({quoted(column.name)} as {column.type}) as {quoted(column.name)}"
        for column, before in zip(columns, schema.columns, strict=True)
    )
    bound = f"select {casts} from ({sql})" + ("" if limit is None else f" limit {limit + 1}")
    seen = (bound, [(each.table, each.version, each.fingerprint) for each in relations.values()])
    return PreparedSql(
        PageStatement(Statement(bound), Schema(columns)),
        {name: version.number for name, version in versions.items()},
        hashlib.sha256(repr(seen).encode()).hexdigest()[:32],
        checked.is_stable,
    )


def _schema(reading: Reading, sql: str) -> Schema:
    try:
        return reading.engine.schema(sql)
    except duckdb.Error as error:
        # the engine's text is not for the caller: it quotes the statement, which contains the policies
        _LOG.info("a statement of a caller does not fit: %s", error)
        column = _NO_COLUMN.search(str(error).partition("\n")[0])
        problem = (
            "the columns or types do not fit"
            if column is None
            else f"there is no column {shown(column[1] or column[2])}"
        )
        raise HttpError(problem, do="see /v1/tables for the columns of each table") from error


def sql_routes(reading: Reading) -> list[Route]:
    """Return the route of SQL."""

    async def query(request: Request) -> Response:
        if request.method == "GET":
            asked: Mapping[str, object] = dict(request.query_params)
        else:
            asked = _object(await read_body(request, _MOST_BODY, do="send a shorter statement"))
        return await run_in_threadpool(_answer, reading, request, asked)

    return [Route("/v1/query", query, methods=["GET", "POST"])]


def _answer(reading: Reading, request: Request, asked: Mapping[str, object]) -> Response:
    context = context_of(request.scope)
    require_scope(context.caller, "query")
    unknown = set(asked) - {"sql", "limit"}
    if unknown or not isinstance(asked.get("sql"), str):
        raise HttpError(
            "a query has the members 'sql' and optionally 'limit'", got=", ".join(sorted(map(str, asked)))[:200]
        )
    media_type = negotiate(request.headers.get("accept"))
    limit = _limit(asked.get("limit"), media_type)
    prepared = prepare(reading, context.caller, str(asked["sql"]), limit)
    context.facts.update(table=",".join(prepared.versions), why="scope query")
    etag = f'"{prepared.etag}-{hashlib.sha256(media_type.encode()).hexdigest()[:6]}"'
    headers = {"Vary": "Accept, Authorization", "Cache-Control": "private, no-cache"}
    if prepared.is_stable:
        headers["ETag"] = etag
        if is_same(request.headers.get("if-none-match", ""), etag):
            return Response(None, 304, headers)
    if limit is None:
        return StreamingResponse(
            iterate_in_threadpool(_chunks(reading, prepared, media_type, context.facts)),
            media_type=media_type,
            headers=headers,
        )
    page = read_page(reading.engine, prepared.statement, limit, media_type)
    context.facts["rows"] = page.rows
    context.etag, context.is_cacheable = etag, prepared.is_stable
    context.versions = tuple(prepared.versions.items())
    if media_type != JSON:
        return Response(page.content, media_type=media_type, headers=headers)
    columns = [{"name": column.name, "type": column.type} for column in prepared.statement.schema.columns]
    head = json.dumps({"columns": columns, "versions": dict(prepared.versions), "is_truncated": page.has_next})
    return Response(head[:-1].encode() + b', "rows": ' + page.content + b"}", media_type=JSON, headers=headers)


def _chunks(reading: Reading, prepared: PreparedSql, media_type: str, facts: dict[str, object]) -> Iterator[bytes]:
    rows = 0
    for content, number in stream(reading.engine, prepared.statement, media_type):
        rows += number
        facts["rows"] = rows
        yield content


def _limit(value: object, media_type: str) -> int | None:
    if value == "all":
        if media_type == JSON:
            raise HttpError("'limit' takes all only for a stream", do=f"accept {NDJSON}, CSV, Arrow or Parquet")
        return None
    return MOST_ROWS if value is None else integer("limit", str(value), 1, MOST_ROWS)


def _object(body: bytes) -> Mapping[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HttpError("the body is not JSON", do='send {"sql": "select …"}') from error
    if not isinstance(document, dict):
        raise HttpError("the body is not a JSON object", do='send {"sql": "select …"}')
    return document
