"""Requests of GraphQL over HTTP: a document and its variables, in a body or in the parameters of a URL."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from starlette.requests import Request

from serve.graphql.scan import require_bounds
from serve.http_errors import HttpError, TooLargeError, TooLongError
from serve.queries.formats import negotiate
from serve.queries.values import shown
from serve.request_body import read_body

RESPONSE_JSON, PLAIN_JSON, EVENTS = "application/graphql-response+json", "application/json", "text/event-stream"
MOST_BODY_BYTES = 64 << 10
MOST_QUERY_BYTES = 16 << 10
_DEEPEST, _MOST_PARTS = 16, 10_000
_PARAMETERS = ("query", "operationName", "variables", "extensions", "documentId")


class MediaTypeError(HttpError):
    """The body has a media type that is not supported."""

    status: ClassVar[int] = 415


class MethodError(HttpError):
    """The method does not fit the operation."""

    status: ClassVar[int] = 405


@dataclass(frozen=True)
class GraphqlRequest:
    """A document, or the identifier of a trusted one, and what it is run with."""

    document: str | None
    document_id: str | None = None
    operation: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


def media_type_of(request: Request) -> str:
    """Return the media type that a client accepts; raise `UnacceptableError` if it is not one of ours.

    Without a preference, it is `application/json`, which clients before the specification expect.
    """
    return negotiate(request.headers.get("accept"), (PLAIN_JSON, RESPONSE_JSON, EVENTS))


async def read_body_of(request: Request) -> bytes:
    """Return the body of a request, which a GET does not have; raise `HttpError` for one of another type or that is too large."""
    if request.method in {"GET", "HEAD"}:
        return b""
    _require_json(request.headers.get("content-type", ""))
    return await read_body(request, MOST_BODY_BYTES, do="send fewer or shorter variables")


def parsed(request: Request, body: bytes) -> GraphqlRequest:
    """Return a request from its body, or from the parameters of its URL; raise `HttpError` for one that is not well-formed."""
    if request.method in {"GET", "HEAD"}:
        return request_of(_parameters(request))
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise HttpError("the body is not UTF-8") from error
    return request_of(_json(text, "the body"))


def message_of(text: str) -> Any:
    """Return the content of a message in JSON; raise `HttpError` if it is none."""
    return _json(text, "the message")


def _parameters(request: Request) -> dict[str, Any]:
    if len(request.scope["query_string"]) > MOST_QUERY_BYTES:
        raise TooLongError(f"the query is longer than {MOST_QUERY_BYTES} bytes", do="send it by POST")
    pairs = request.query_params.multi_items()
    twice = next((name for name in _PARAMETERS if sum(each == name for each, _ in pairs) > 1), None)
    if twice is not None:
        raise HttpError(f"{twice!r} is given twice")
    parts: dict[str, Any] = {name: value for name, value in pairs if name in _PARAMETERS}
    for name in ("variables", "extensions"):
        if name in parts:
            parts[name] = _json(parts[name], f"the parameter {name!r}") if parts[name] else None
    return parts


def request_of(parts: object) -> GraphqlRequest:
    """Return the request of a parsed body; raise `HttpError` unless it is one within the bounds of documents."""
    if not isinstance(parts, dict):
        problem = (
            "several operations cannot be sent at once" if isinstance(parts, list) else "the body is not an object"
        )
        raise HttpError(problem, do='send {"query": "{ … }"}')
    for name, kind, takes in (
        ("query", str, "a text"),
        ("documentId", str, "a text"),
        ("operationName", str, "a text"),
        ("variables", dict, "an object"),
        ("extensions", dict, "an object"),
    ):
        if not isinstance(parts.get(name), kind | None):
            raise HttpError(f"{name!r} takes {takes}", got=shown(json.dumps(parts[name])[:100]))
    document, document_id = parts.get("query"), parts.get("documentId") or _persisted(parts.get("extensions"))
    if not document and not document_id:
        raise HttpError("the request has no document", do='send it as "query"')
    if document:
        try:
            document.encode()
        except UnicodeEncodeError as error:
            raise HttpError("the document is not valid text", do="send Unicode without lone surrogates") from error
        require_bounds(document)
    variables = parts.get("variables") or {}
    _require_flat(variables)
    return GraphqlRequest(document or None, document_id, parts.get("operationName") or None, variables)


def _persisted(extensions: Mapping[str, Any] | None) -> str | None:
    """Return the hash of a persisted query, as Apollo's clients send it."""
    persisted = (extensions or {}).get("persistedQuery")
    digest = persisted.get("sha256Hash") if isinstance(persisted, dict) else None
    return f"sha256:{digest}" if isinstance(digest, str) else None


def _require_json(content_type: str) -> None:
    media_type, _, parameters = content_type.partition(";")
    charset = re.search(r"charset=\"?([\w-]+)", parameters, re.IGNORECASE)
    if media_type.strip().lower() != PLAIN_JSON or (charset and charset[1].lower() not in {"utf-8", "utf8"}):
        raise MediaTypeError("the media type of the body is not supported", got=shown(content_type), do=PLAIN_JSON)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise HttpError(f"{what} is not JSON", got=shown(text[:100])) from error


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and infinity are not JSON


def _require_flat(variables: Mapping[str, Any]) -> None:
    """Raise `HttpError` for values within each other too deeply, or too many: checking them takes time."""
    level: list[Any] = [variables]
    parts = 0
    for _ in range(_DEEPEST):
        parts += sum(len(each) for each in level)
        if parts > _MOST_PARTS:
            raise TooLargeError(f"the variables have more than {_MOST_PARTS} parts", do="send fewer")
        inner = (one for each in level for one in (each.values() if isinstance(each, dict) else each))
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return
    raise HttpError(f"the variables are more than {_DEEPEST} levels deep", do="send flatter values")
