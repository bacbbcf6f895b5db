"""How long a response asks to wait, from its headers."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from datetime import UTC, datetime

_SECONDS = re.compile(r"\s*(\d+(?:\.\d+)?)\s*")
_EPOCH_S, _EPOCH_MS = 1e8, 1e11
"""Larger numbers are times since 1970, in seconds or milliseconds; smaller ones are waits."""
_PREFIXES = ("ratelimit-", "x-ratelimit-", "x-rate-limit-", "x-ratelimit-requests-")
_STRUCTURED = re.compile(r";\s*r=0(?![0-9.]).*?;\s*t=(\d+)|;\s*t=(\d+).*?;\s*r=0(?![0-9.])")


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds of `Retry-After`, which is a number or a date; `None` without a valid one.

    A date is compared with the `Date` of the response, because the clocks may differ. Header names are in lower case.
    """
    text = headers.get("retry-after", "")
    match = _SECONDS.fullmatch(text)
    if match is not None:
        return float(match[1])
    until, sent = _date(text), _date(headers.get("date", ""))
    return None if until is None else max(0.0, (until - (sent or now)).total_seconds())


def limit_pause_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return how long to wait because a rate limit is used up, by `RateLimit-*` and `X-RateLimit-*`; `None` if it is not."""
    structured = _STRUCTURED.search(headers.get("ratelimit", ""))
    if structured is not None:
        return float(structured[1] or structured[2])
    for prefix in _PREFIXES:
        left, reset = headers.get(f"{prefix}remaining", ""), _SECONDS.fullmatch(headers.get(f"{prefix}reset", ""))
        is_used_up = _SECONDS.fullmatch(left) is not None and float(left) <= 0
        if is_used_up and reset is not None:
            return _pause(float(reset[1]), headers, now)
    return None


def _pause(reset: float, headers: Mapping[str, str], now: datetime) -> float:
    if reset < _EPOCH_S:
        return reset
    moment = reset / 1000 if reset >= _EPOCH_MS else reset
    clock = _date(headers.get("date", "")) or now
    return max(0.0, moment - clock.timestamp())


def _date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
