"""Errors as responses: `application/problem+json` of RFC 9457, with the parts of the error as further members."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ExceptionHandler, Scope

from pipeline.core.errors import HeadwaterError, ModelError, RequestError, StorageError
from serve.http_errors import HttpError

_LOG = logging.getLogger("headwater.serve")
MEDIA_TYPE = "application/problem+json"
ODATA = "/v1/odata"
"""The path of the OData service."""
SHARING = "/v1/sharing"
"""The path of the Delta Sharing server."""
REQUEST_ID = "headwater.request_id"
"""Where a request's scope has its id."""
_SERVER_ERROR = 500
_UNAUTHENTICATED = 401


def request_id_of(scope: Scope) -> str:
    """Return the id of a request."""
    request_id: str = scope[REQUEST_ID]
    return request_id


def status_of(error: HeadwaterError) -> int:
    """Return the HTTP status for an error's type."""
    if isinstance(error, HttpError):
        return error.status
    if isinstance(error, RequestError):
        return 400
    if isinstance(error, ModelError):
        return 409
    return 503 if isinstance(error, StorageError) else _SERVER_ERROR


def problem_response(error: HeadwaterError, scope: Scope, hidden: str = "") -> Response:
    """Return the response for an error of a request; of the lake's errors, the path or URI `hidden` is not revealed."""
    parts = {"detail": error.problem, "got": error.got, "do": error.do}
    if isinstance(error, StorageError) and hidden:
        parts = {name: text and text.replace(hidden, "the lake") for name, text in parts.items()}
    response = problem(status_of(error), parts, scope)
    if isinstance(error, HttpError) and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


def problem(status: int, parts: Mapping[str, str | None], scope: Scope) -> Response:
    """Return the response for a problem: `detail`, and optionally what was `got` and what to `do`.

    Its form is that of the protocol: OData and Delta Sharing have errors of their own.
    """
    path = scope["path"]
    if path == ODATA or path.startswith(ODATA + "/"):
        return _odata_error(status, parts, scope)
    if path.startswith(SHARING + "/"):
        return _sharing_error(status, parts)
    content = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "instance": f"urn:uuid:{request_id_of(scope)}",
        **{name: text for name, text in parts.items() if text is not None},
    }
    headers = {"Cache-Control": "no-store"}
    if status == _UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="headwater", Basic realm="headwater"'
    return _json(content, status, headers, MEDIA_TYPE)


def _odata_error(status: int, parts: Mapping[str, str | None], scope: Scope) -> Response:
    content = {"error": {"code": HTTPStatus(status).phrase.replace(" ", ""), "message": _sentence(parts)}}
    asked = dict(scope["headers"]).get(b"odata-maxversion", b"").strip()
    headers = {"Cache-Control": "no-store", "OData-Version": "4.0" if asked == b"4.0" else "4.01"}
    if status == _UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Basic realm="headwater", charset="UTF-8"'
    return _json(content, status, headers, "application/json")


def _sharing_error(status: int, parts: Mapping[str, str | None]) -> Response:
    codes = {400: "INVALID_PARAMETER_VALUE", 401: "UNAUTHENTICATED", 404: "RESOURCE_DOES_NOT_EXIST"}
    headers = {"Cache-Control": "no-store"}
    if status == _UNAUTHENTICATED:
        headers["WWW-Authenticate"] = 'Bearer realm="headwater"'
    code = codes.get(status, HTTPStatus(status).name)
    return _json({"errorCode": code, "message": _sentence(parts)}, status, headers, "application/json")


def _sentence(parts: Mapping[str, str | None]) -> str:
    got, do = parts.get("got"), parts.get("do")
    return f"{parts['detail']}{f' (got {got})' if got else ''}{f'; {do}' if do else ''}"


def _json(content: object, status: int, headers: Mapping[str, str], media_type: str) -> Response:
    body = json.dumps(content, ensure_ascii=False)
    return Response(body.encode("utf-8", "backslashreplace"), status, headers, media_type)


def problem_handlers(lake: str) -> Mapping[Any, ExceptionHandler]:
    """Return the handlers of an application's exceptions. The path or URI of the lake is not revealed to callers."""

    def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, HeadwaterError)  # noqa: S101 - the handler is registered for it
        if not isinstance(error, RequestError):
            _LOG.warning("%s: %s", request.url.path, error)
        return problem_response(error, request.scope, lake)

    def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - see above
        got = f"{request.method} {request.url.path}"[:200]
        parts = {"detail": error.detail.lower(), "got": got, "do": "see /docs"}
        response = problem(error.status_code, parts, request.scope)
        response.headers.update(error.headers or {})
        return response

    return {HeadwaterError: ours, HTTPException: of_http}
