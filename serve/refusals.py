"""Requests that are refused, by the HTTP status of the answer.

RequestError
└── Refusal                400  a parameter is wrong
    ├── UnknownError       404  there is no such table, version, model or page
    ├── UnacceptableError  406  the answer is not made in the type that was asked for
    ├── GoneError          410  the version is no longer kept
    ├── TooLargeError      413  the body is too large
    ├── TooLongError       414  the query is too long
    ├── RowsError          422  a model cannot read the rows it was given
    └── OverloadError      503  the answer takes more time or memory than one request may have
"""

from __future__ import annotations

from typing import ClassVar

from pipeline.core.errors import RequestError


class HttpError(RequestError):
    """A request that is answered with `status` and the parts of this error."""

    status: ClassVar[int] = 400


class UnknownError(HttpError):
    """There is no such table, version, model or page."""

    status = 404


class UnacceptableError(HttpError):
    """The answer is not made in the media type that was asked for."""

    status = 406


class GoneError(HttpError):
    """The version was there once and is no longer kept."""

    status = 410


class TooLargeError(HttpError):
    """The body is larger than is read."""

    status = 413


class TooLongError(HttpError):
    """The query is longer than is read."""

    status = 414


class RowsError(HttpError):
    """A model cannot read the rows it was given."""

    status = 422


class OverloadError(HttpError):
    """The answer takes more time or memory than one request may have; a smaller one may do."""

    status = 503
