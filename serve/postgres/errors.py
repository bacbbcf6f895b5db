"""Errors in PostgreSQL's words: each with a code, by which drivers tell them apart.

Source: https://www.postgresql.org/docs/16/errcodes-appendix.html.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from pipeline.core.errors import HeadwaterError
from serve.http_errors import (
    AbandonedError,
    BusyError,
    ForbiddenError,
    HttpError,
    OverloadError,
    TooManyError,
    UnauthenticatedError,
    UnsupportedError,
)

_LOG = logging.getLogger("headwater.serve")
_CODES: Mapping[type[HeadwaterError], str] = {
    UnauthenticatedError: "28P01", ForbiddenError: "42501", AbandonedError: "57014", BusyError: "53300", OverloadError: "54000", TooManyError: "53400",
    UnsupportedError: "0A000", HttpError: "42601",
}  # fmt: skip
_BY_PROBLEM: Mapping[str, str] = {
    "there is no table": "42P01", "there is no column": "42703", "there is no schema": "3F000", "there is no database": "3D000",
    "the columns or types do not fit": "42804", "the query cannot be computed": "22000",
}  # fmt: skip


class PostgresError(HttpError):
    """An error that only this protocol has, with its code."""

    def __init__(self, code: str, problem: str, *, got: str | None = None, do: str | None = None) -> None:
        """Describe the error."""
        super().__init__(problem, got=got, do=do)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the parts."""
        return partial(PostgresError, got=self.got, do=self.do), (self.code, self.problem)


def parts_of(error: HeadwaterError) -> tuple[str, Mapping[str, str | None]]:
    """Return the code of an error, and what a driver shows of it."""
    if isinstance(error, PostgresError):
        code = error.code
    elif isinstance(error, HttpError):
        by_problem = next((code for begin, code in _BY_PROBLEM.items() if error.problem.startswith(begin)), None)
        code = by_problem or next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    else:
        _LOG.warning("PostgreSQL's protocol: %s", error)
        return "58000", {"M": "the tables cannot be read", "H": "see the server's log"}
    got = None if error.got is None else f"got {error.got}"
    return code, {"M": error.problem, "D": got, "H": error.do}
