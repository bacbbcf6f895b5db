"""GraphQL as a source. Create it with `graphql`.

Delivery: each row that the API returned to a complete fetch, once; see `rest`. A response with `errors` is a failure, also if
it has data.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.connectors.http.credentials import Credentials, require_credentials
from pipeline.connectors.rest.api import (
    MOST_PAGES,
    ApiReader,
    Repeated,
    Since,
    SinceFormat,
    api_calls,
    cursor_column,
    require_plain_url,
    since_text,
)
from pipeline.connectors.spool.high_water import Nulls
from pipeline.connectors.spool.progress import Progress
from pipeline.core.errors import DefinitionError, Place, SourceError
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint

if TYPE_CHECKING:
    from pipeline.connectors.http.client import ApiRequest, ApiResponse
    from pipeline.connectors.http.json_rows import JsonBody
    from pipeline.connectors.rest.pages import ApiPage
    from pipeline.connectors.rest.paging import Paging

_LIMITED = (
    "RATE_LIMITED",
    "RATE_LIMIT",
    "THROTTLED",
    "TOO_MANY_REQUESTS",
    "MAX_COST_EXCEEDED",
    "COMPLEXITY_BUDGET_EXHAUSTED",
)
_DEEPEST = 6
_NUMERIC = re.compile("int|long|float|double|decimal|number", re.IGNORECASE)
"""In the names of types whose values are numbers, also those that an API defines."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


@dataclass(frozen=True)
class Connection:
    """The pages of a connection: `pageInfo { hasNextPage endCursor }`, whose cursor becomes a variable."""

    path: tuple[str, ...] | None
    """The keys of the object with `pageInfo`; `None`: it is found in the response."""
    variable: str = "after"
    most_empty = None

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request."""
        return request

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request with the cursor; `None` after the last page, and for a query without `pageInfo`.

        Raises `SourceError` if there are more pages, but no cursor.
        """
        path = self.path or connection_in(page.body)
        info = page.body.value((*path, "pageInfo"))
        if not isinstance(info, dict) or not info.get("hasNextPage", info.get("endCursor") is not None):
            return None
        cursor = info.get("endCursor")
        if cursor is None:
            raise SourceError(
                "the response says that there are more pages, but has no cursor",
                got=f"pageInfo {info!r}",
                do="query pageInfo { hasNextPage endCursor }",
                place=page.body.place,
            )
        body = {**page.request.body, "variables": {**page.request.body["variables"], self.variable: cursor}}
        return replace(page.request, body=body)


def connection_in(body: JsonBody) -> tuple[str, ...]:
    """Return the keys of the only object with `nodes` or `edges` in a response.

    Raises `SourceError` if there is none, or if there are several.
    """
    paths = list(_connections(body.value(("data",)), ("data",)))
    if len(paths) == 1:
        return paths[0]
    raise SourceError(
        "it is not clear which part of the response has the rows",
        got=", ".join(".".join(("$", *path)) for path in paths) or "no object with nodes or edges",
        do="pass rows=, for example rows='$.data.orders'",
        place=body.place,
    )


def _connections(value: Any, path: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
    if not isinstance(value, dict) or len(path) > _DEEPEST:
        return
    if isinstance(value.get("nodes"), list) or isinstance(value.get("edges"), list):
        yield path
        return
    for key, inner in value.items():
        yield from _connections(inner, (*path, key))


def rows_in(body: JsonBody, path: tuple[str, ...] | None) -> list[bytes]:
    """Return the rows of a response: `nodes`, or the `node` of each of `edges`, otherwise what is at the path."""
    from pipeline.connectors.http.json_rows import JsonBody as Body  # noqa: PLC0415 - optional dependency

    keys = connection_in(body) if path is None else path
    names = body.keys(keys)
    if "nodes" in names:
        return body.rows((*keys, "nodes"))
    if "edges" in names:
        edges = body.rows((*keys, "edges"))
        return [Body(edge, body.place).at(("node",)) or b"null" for edge in edges]
    return body.rows(keys)


def require_no_errors(response: ApiResponse) -> None:
    """Raise an error if a response has `errors`: one that is retried for a rate limit, otherwise `SourceError`."""
    from pipeline.connectors.http.client import TemporaryResponseError  # noqa: PLC0415 - optional dependency
    from pipeline.connectors.http.json_rows import JsonBody as Body  # noqa: PLC0415 - optional dependency

    errors = Body(response.body, Place(response.url)).value(("errors",))
    if not errors:
        return
    listed = (
        [error if isinstance(error, dict) else {"message": error} for error in errors]
        if isinstance(errors, list)
        else [{}]
    )
    messages = "; ".join(str(error.get("message", "no message")) for error in listed[:3])
    codes = {str(code).upper() for error in listed for code in _codes(error)}
    if codes & set(_LIMITED):
        raise TemporaryResponseError(messages)
    raise SourceError(
        "the query failed", got=messages, do="correct the query or its variables", place=Place(response.url)
    )


def _codes(error: Mapping[str, Any]) -> Iterable[object]:
    extensions = error.get("extensions")
    return (
        (error.get("type"), *(extensions.get(name) for name in ("code", "type")))
        if isinstance(extensions, dict)
        else (error.get("type"),)
    )


@dataclass(frozen=True, kw_only=True)
class GraphqlApi(ApiReader):
    """A query of a GraphQL API. Create it with `graphql`."""

    query: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    rows: str | None = None
    after: str = "after"
    since: Since = field(default_factory=Since)

    function: ClassVar[str] = "graphql(…)"

    @property
    def fingerprint(self) -> str:
        """A hash of the query, its variables, and the cursor column."""
        column = () if self.column is None else (self.column.name, self.column.nulls)
        query = " ".join(self.query.split())
        return fingerprint("graphql", query, sorted(self.variables.items()), self.rows, column, self.since.start)

    def first(self, progress: Progress) -> ApiRequest:
        """Return the request of the query, with the highest value as a variable."""
        from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - optional dependency

        variables, value = dict(self.variables), self.since.start
        if progress.mark is not None and self.column is not None:
            value = since_text(progress.mark, self.column, self.since.format)
        if self.since.parameter is not None and value is not None:
            variables[self.since.parameter] = _typed(self.query, self.since.parameter, value)
        return ApiRequest(self.url, {}, {}, "POST", {"query": self.query, "variables": variables})

    def paging(self) -> Paging:
        """Return the pages of the connection."""
        from pipeline.connectors.http.json_rows import path_of  # noqa: PLC0415 - optional dependency
        from pipeline.connectors.rest.paging import Paging  # noqa: PLC0415 - likewise

        path = None if self.rows is None else path_of(self.rows)
        pages = Connection(path, self.after)
        return Paging(pages, lambda body: rows_in(body, path), self.most_pages, checked=require_no_errors)


def _typed(query: str, variable: str, value: str) -> str | int | float:
    """Return a value as a number if the query declares its variable as one."""
    declared = re.search(rf"\${re.escape(variable)}\s*:\s*\[?\s*(\w+)", query)
    if declared is None or _NUMERIC.search(declared[1]) is None or _NUMBER.fullmatch(value) is None:
        return value
    return float(value) if "." in value else int(value)


def graphql(
    url: str,
    query: str,
    *,
    rows: str | None = None,
    variables: Mapping[str, Any] | None = None,
    after: str = "after",
    headers: Mapping[str, str] | None = None,
    auth: Credentials | None = None,
    cursor: str | None = None,
    since: str | None = None,
    since_format: SinceFormat = "as delivered",
    start: str | None = None,
    lag: str | timedelta | int = 0,
    null_cursors: Nulls = "refuse",
    repeated: Repeated = "drop",
    rate: str | None = None,
    timeout: str | timedelta = "1 minute",
    deadline: str | timedelta = "5 minutes",
    most_pages: int = MOST_PAGES,
    most_response_bytes: int = 64 << 20,
    allowed_hosts: tuple[str, ...] = (),
    spool: str | None = None,
) -> GraphqlApi:
    """Read the rows of a GraphQL query.

    `rows` is the path of a connection (an object with `nodes` or `edges`) or of an array, such as `$.data.orders`; the only
    connection of the response if it is not given. If the query asks for `pageInfo { hasNextPage endCursor }`, its cursor is
    sent in the variable `after` for the next page. `since` is the variable with the lowest value of `cursor` to return. All
    other options are those of `rest`.

    Raises `DefinitionError` for invalid options.
    """
    address = require_plain_url(url)
    if not query.strip():
        raise DefinitionError(
            "the query is empty", do="write for example 'query ($after: String) { … }'", place=Place(address)
        )
    if since is not None and cursor is None:
        raise DefinitionError(
            "since= requires cursor=", do="pass the field whose highest value is sent", place=Place(address)
        )
    if rows is not None:
        with imports_of("rest", "graphql(…)"):
            from pipeline.connectors.http.json_rows import path_of  # noqa: PLC0415 - optional dependency
        path_of(rows)
    return GraphqlApi(
        url=address,
        query=query,
        variables=dict(variables or {}),
        rows=rows,
        after=after,
        headers=dict(headers or {}),
        auth=require_credentials(auth),
        column=cursor_column(cursor, lag, null_cursors, repeated),
        since=Since(since, since_format, start),
        calls=api_calls(rate, timeout, deadline, most_response_bytes, allowed_hosts),
        most_pages=most_pages,
        spool=spool,
    )
