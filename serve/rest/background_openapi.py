"""The OpenAPI entries of queries in the background."""

from __future__ import annotations

from typing import Any, get_args

from serve.background.records import QueryState
from serve.background.rows import MOST_RESULT_ROWS
from serve.queries.formats import JSON
from serve.rest.background import DEFAULT_ROWS, PATH
from serve.rest.shapes import RESULT, limit_of_rows, problems_of, responses_of, responses_with_rows

_ERRORS = ("400", "401", "403", "404", "429", "503")
_MAYBE_TIME = {"type": ["string", "null"], "format": "date-time"}
_COUNT = {"type": "integer", "minimum": 0}
_RESULT = {
    **RESULT,
    "row_count": _COUNT,
}
_STATUS: dict[str, Any] = {
    "type": "object",
    "required": ["id", "status", "row_count", "expires_at"],
    "properties": {
        "id": {"type": "string"},
        "status": {"enum": list(get_args(QueryState))},
        **_RESULT,
        "bytes": _COUNT,
        "submitted_at": {"type": "string", "format": "date-time"},
        **dict.fromkeys(("started_at", "ended_at", "expires_at"), _MAYBE_TIME),
        "problem": {"type": "object", "description": "why it failed: `detail`, `got` and `do`"},
    },
}
PREFER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`: run the statement in the background, for longer than a request may take",
    "schema": {"type": "string"},
}


def accepted() -> dict[str, Any]:
    """Return the response to a statement that runs in the background."""
    location = {"description": "where its status is", "schema": {"type": "string"}}
    content = {JSON: {"schema": _STATUS}}
    return {"202": {"description": "it is in the background", "headers": {"Location": location}, "content": content}}


def background_paths() -> dict[str, Any]:
    """Return the paths of queries in the background."""
    query_id = {"name": "query_id", "in": "path", "required": True, "schema": {"type": "string"}}
    status = {
        "tags": ["SQL"],
        "summary": "status of a query in the background",
        "operationId": "read_query",
        "parameters": [query_id],
        "responses": responses_of(_STATUS, _ERRORS),
    }
    end = {
        "tags": ["SQL"],
        "summary": "cancel a query in the background, or remove its result",
        "operationId": "end_query",
        "parameters": [query_id],
        "responses": {
            "202": {"description": "it is interrupted", "content": {JSON: {"schema": _STATUS}}},
            "204": {"description": "its result is removed"},
            **problems_of(_ERRORS),
        },
    }
    every = {"type": "object", "required": ["queries"], "properties": {"queries": {"type": "array", "items": _STATUS}}}
    listed = {
        "tags": ["SQL"],
        "summary": "queries of the caller in the background",
        "operationId": "read_queries",
        "responses": responses_of(every, ("400", "401", "403", "429", "503")),
    }
    return {
        "/v1/queries": {"get": listed},
        PATH: {"get": status, "delete": end},
        f"{PATH}/rows": {"get": _rows(query_id)},
    }


def _rows(query_id: dict[str, Any]) -> dict[str, Any]:
    answer = {
        "type": "object",
        "required": ["columns", "row_count", "is_truncated", "next", "rows"],
        "properties": {
            **_RESULT,
            "next": {"type": ["string", "null"], "description": "link to the next page"},
            "rows": {"type": "array", "items": {"type": "object"}},
        },
    }
    offset = {"type": "integer", "minimum": 0, "maximum": MOST_RESULT_ROWS, "default": 0}
    return {
        "tags": ["SQL"],
        "summary": "rows of a query in the background",
        "operationId": "read_query_rows",
        "parameters": [
            query_id,
            {"name": "offset", "in": "query", "description": "number of rows to skip", "schema": offset},
            {
                "name": "limit",
                "in": "query",
                "description": "maximum number of rows; or all, for a stream in any media type but JSON",
                "schema": limit_of_rows(DEFAULT_ROWS),
            },
        ],
        "responses": responses_with_rows(answer, (*_ERRORS, "406", "409", "410")),
    }
