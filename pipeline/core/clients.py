"""Errors of client libraries, which have no common type: whether a system is unavailable, and their text in one line."""

from __future__ import annotations

import re

_UNAVAILABLE = re.compile(
    r"connect|time.?out|timed out|unreachable|error sending request|dns error|slow ?down|internal ?error|unavailable|\b50[0234]\b",
    re.IGNORECASE,
)
_EXCEPTION_LINE = re.compile(r"^[\w.]+: .*$", re.MULTILINE)
"""The line of a traceback that contains the exception."""
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def is_unavailable(error: BaseException) -> bool:
    """Return whether an error means that a system is temporarily unavailable."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return False
    return (
        isinstance(error, ConnectionError | TimeoutError)
        or _UNAVAILABLE.search(f"{type(error).__name__} {error}") is not None
    )


def message_of(error: BaseException) -> str:
    """Return an error as one line; if it contains a Python traceback, its first exception."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    inner = _EXCEPTION_LINE.search(text) if "Traceback (most recent call last)" in text else None
    return " ".join(_COLOURS.sub("", text if inner is None else inner[0]).split())
