"""Errors of requests, by HTTP status.

RequestError
└── HttpError              400  a parameter is invalid
    ├── UnauthenticatedError  401  the key or token is missing or not valid
    ├── ForbiddenError     403  the key or token lacks a scope
    ├── UnknownError       404  there is no such table, version, model or page
    ├── UnacceptableError  406  the requested media type is not supported
    ├── TooSlowError       408  the client does not send its body
    ├── NotReadyError      409  the query in the background has no rows, or none yet
    ├── GoneError          410  the version is no longer available
    ├── TooLargeError      413  the body is too large
    ├── TooLongError       414  the query is too long
    ├── RowsError          422  the model does not accept the rows
    ├── TooManyError       429  the caller sends more requests than it may
    ├── UnsupportedError   501  the protocol has it, and this service does not
    ├── DeniedError        503  a policy cannot be applied, so nothing is shown
    └── OverloadError      503  the request exceeds the limit of time or memory
        ├── AbandonedError 503  the client has left, or has cancelled the query
        └── BusyError      503  as many requests wait as may; with Retry-After
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.errors import RequestError


class HttpError(RequestError):
    """An error that is returned with `status` and the parts of this error."""

    status: ClassVar[int] = 400
    retry_after_s: ClassVar[int | None] = None
    """After how many seconds the same request may succeed; `None` if that is not known."""


class UnauthenticatedError(HttpError):
    """The key or token is missing or not valid."""

    status = 401


class ForbiddenError(HttpError):
    """The caller is known, and lacks a scope."""

    status = 403


class UnknownError(HttpError):
    """There is no such table, version, model or page."""

    status = 404


class UnacceptableError(HttpError):
    """The requested media type is not supported."""

    status = 406


class TooSlowError(HttpError):
    """The client does not send its body."""

    status = 408


class NotReadyError(HttpError):
    """The query in the background has no rows, or none yet."""

    status = 409


class GoneError(HttpError):
    """The version existed and is no longer available."""

    status = 410


class TooLargeError(HttpError):
    """The body exceeds the size limit."""

    status = 413


class TooLongError(HttpError):
    """The query exceeds the length limit."""

    status = 414


class RowsError(HttpError):
    """The model does not accept the rows."""

    status = 422


class TooManyError(HttpError):
    """The caller sends more requests than it may."""

    status = 429


class UnsupportedError(HttpError):
    """The protocol has it, and this service does not."""

    status = 501


class DeniedError(HttpError):
    """A policy cannot be applied, so nothing is shown."""

    status = 503


class OverloadError(HttpError):
    """The request exceeds the limit of time or memory; a smaller request may succeed."""

    status = 503


class AbandonedError(OverloadError):
    """The client has left, or has cancelled the query, so that nothing is computed for it any more."""


class BusyError(OverloadError):
    """As many requests are answered, or wait, as may; the same request may succeed soon."""

    retry_after_s = 1
