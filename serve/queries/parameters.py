"""Parameters of requests that every interface has: numbers, versions and times."""

from __future__ import annotations

import re
from datetime import datetime

from pipeline.core.as_of import AsOf
from pipeline.core.errors import RequestError
from serve.http_errors import HttpError
from serve.queries.values import shown

MOST_OFFSET = 1 << 40
MOST_VERSION = 1 << 62


def integer(name: str, text: str, least: int, most: int) -> int:
    """Return a parameter as an integer between two inclusive bounds; raise `HttpError` if it is not one."""
    if not re.fullmatch(r"\d{1,19}", text, re.ASCII) or not least <= int(text) <= most:
        raise HttpError(f"{name!r} takes an integer from {least} to {most}", got=shown(text))
    return int(text)


def version_number(name: str, text: str) -> int:
    """Return a parameter as the number of a version; raise `HttpError` if it is not one."""
    return integer(name, text, 0, MOST_VERSION)


def time_of(name: str, text: str) -> datetime:
    """Return a parameter as the time in UTC of which a version is read; raise `HttpError` if it is not one."""
    try:
        time = AsOf.of(text).time
    except RequestError:
        time = None
    if time is None:
        form = "a time like 2026-05-01T12:00:00Z, with a plus sign encoded as %2B, or a duration ago like -2h"
        raise HttpError(f"{name!r} takes {form}", got=shown(text))
    return time
