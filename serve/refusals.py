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


class Refusal(RequestError):  # noqa: N818 - the word for what a server says no to
    """A request that is answered with `status` and the parts of this error."""

    status: ClassVar[int] = 400


class UnknownError(Refusal):
    """There is no such table, version, model or page."""

    status = 404


class UnacceptableError(Refusal):
    """The answer is not made in the media type that was asked for."""

    status = 406


class GoneError(Refusal):
    """The version was there once and is no longer kept."""

    status = 410


class TooLargeError(Refusal):
    """The body is larger than is read."""

    status = 413


class TooLongError(Refusal):
    """The query is longer than is read."""

    status = 414


class RowsError(Refusal):
    """A model cannot read the rows it was given."""

    status = 422


class OverloadError(Refusal):
    """The answer takes more time or memory than one request may have; a smaller one may do."""

    status = 503
