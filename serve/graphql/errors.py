"""Errors in the form of GraphQL: a message, where in the document and the response, and a code."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from graphql import GraphQLError

from pipeline.core.errors import HeadwaterError, StorageError
from serve.graphql.selection import Selected
from serve.problems import status_of

_INTERNAL = "INTERNAL_SERVER_ERROR"


def of_problem(error: HeadwaterError, lake: str = "", field: Selected | None = None) -> dict[str, Any]:
    """Return an error of ours, with its advice; the path or URI of the lake is not revealed."""
    hidden = lake if isinstance(error, StorageError) else ""
    extensions = {"code": HTTPStatus(status_of(error)).name}
    extensions |= {
        name: _without(text, hidden) for name, text in (("got", error.got), ("do", error.do)) if text is not None
    }
    return _error(_without(error.problem, hidden), extensions, field)


def internal(field: Selected | None = None) -> dict[str, Any]:
    """Return the error for what must not happen; the reason is in the server's log."""
    return _error("internal error", {"code": _INTERNAL, "do": "see the server's log"}, field)


def of_graphql(errors: Sequence[GraphQLError], code: str) -> list[dict[str, Any]]:
    """Return errors of the document or its variables."""
    return [{**_located(each), "extensions": {"code": code}} for each in errors]


def _located(error: GraphQLError) -> dict[str, Any]:
    formatted: dict[str, Any] = {"message": error.message}
    if error.locations:
        formatted["locations"] = [{"line": each.line, "column": each.column} for each in error.locations]
    if error.path:
        formatted["path"] = error.path
    return formatted


def _error(message: str, extensions: dict[str, str], field: Selected | None) -> dict[str, Any]:
    formatted: dict[str, Any] = {"message": message}
    if field is not None:
        location = field.nodes[0].loc
        if location is not None:
            start = location.start_token
            formatted["locations"] = [{"line": start.line, "column": start.column}]
        formatted["path"] = [field.key]
    return {**formatted, "extensions": extensions}


def _without(text: str, hidden: str) -> str:
    return text.replace(hidden, "the lake") if hidden else text
