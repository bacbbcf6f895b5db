"""Returns every error in one JSON shape: `{"error": {"problem": …, "got": …, "do": …}}`."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from pipeline.core.errors import HeadwaterError, ModelError, RequestError, StorageError
from serve.http_errors import HttpError

_LOG = logging.getLogger("headwater.serve")
_SERVER_ERROR = 500


def answer_errors(app: FastAPI, lake: str) -> None:
    """Make an app return every error in this JSON shape. The path or URI of the lake is not revealed to callers."""

    def ours(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HeadwaterError)  # noqa: S101 - the handler is registered for it
        if not isinstance(error, RequestError):
            _LOG.warning("%s: %s", request.url.path, error)
        parts = {"problem": error.problem, "got": error.got, "do": error.do}
        if isinstance(error, StorageError):
            parts = {name: text and text.replace(lake, "the lake") for name, text in parts.items()}
        answer = _answer(status_of(error), parts)
        if isinstance(error, HttpError) and error.retry_after_s is not None:
            answer.headers["Retry-After"] = str(error.retry_after_s)
        return answer

    def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101 - see above
        got = f"{request.method} {request.url.path}"[:200]
        answer = _answer(error.status_code, {"problem": error.detail.lower(), "got": got, "do": "see /docs"})
        answer.headers.update(error.headers or {})
        return answer

    def unknown(request: Request, error: Exception) -> JSONResponse:
        _LOG.error("%s failed", request.url.path, exc_info=error)
        return _answer(_SERVER_ERROR, {"problem": "internal error", "got": None, "do": "see the server's log"})

    app.add_exception_handler(HeadwaterError, ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(Exception, unknown)


def status_of(error: HeadwaterError) -> int:
    """Return the HTTP status for an error's type."""
    if isinstance(error, HttpError):
        return error.status
    if isinstance(error, RequestError):
        return 400
    if isinstance(error, ModelError):
        return 409
    return 503 if isinstance(error, StorageError) else _SERVER_ERROR


def _answer(status: int, parts: dict[str, str | None]) -> JSONResponse:
    return JSONResponse({"error": parts}, status)
