"""Rate limits: a token bucket whose decisions are pure functions of the time that is passed in."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from pipeline.core.errors import DefinitionError

_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(?:/|per\s)\s*(s|sec|second|m|min|minute|h|hour|d|day)\s*", re.IGNORECASE)
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BURST_S = 0.1
"""By default, as many calls may be made at once as are allowed in this time."""


@dataclass(frozen=True)
class Rate:
    """A maximum number of calls: in any window of t seconds, at most `per_s * t + burst`."""

    per_s: float
    burst: float

    @classmethod
    def of(cls, text: str) -> Rate:
        """Return the rate for a text such as `10/s`, `100/min` or `5000/hour`.

        The burst is a tenth of a second's calls, at least one. Raises `DefinitionError` for any other text.
        """
        match = _RATE.fullmatch(text)
        per_s = 0.0 if match is None else float(match[1]) / _UNIT_S[match[2][0].lower()]
        if per_s <= 0:
            raise DefinitionError("this is not a rate", got=repr(text), do="write for example rate='10/s' or '100/min'")
        return cls(per_s, max(1.0, per_s * _BURST_S))

    @property
    def lease_s(self) -> float:
        """How long leased tokens remain valid: half of the burst's time, but a single token is to be used at once."""
        return 0.0 if self.burst < 2 else self.burst / 2 / self.per_s  # noqa: PLR2004 - a lease of half a token is none

    @property
    def at_once(self) -> float:
        """The tokens that the bucket holds: tokens that are leased may be used later, which also counts as burst."""
        return self.burst - self.per_s * self.lease_s

    def shared_by(self, callers: int) -> Rate:
        """Return the rate for one of several callers that cannot coordinate; each may still make one call at once."""
        return Rate(self.per_s / callers, max(1.0, self.burst / callers))


@dataclass(frozen=True)
class TokenBucket:
    """The tokens of a rate, as the time at which the bucket is full again (the generic cell rate algorithm).

    Tokens are reserved in the order of the requests, also ahead of time, so waiting callers do not compete for them.
    """

    rate: Rate
    full_at: float

    @classmethod
    def empty(cls, rate: Rate, now: float) -> TokenBucket:
        """Return a bucket without tokens, which is right after a crash: what was handed out before is unknown."""
        return cls(rate, now + rate.at_once / rate.per_s)

    def reserve(self, now: float, tokens: float) -> tuple[TokenBucket, float]:
        """Return the bucket without these tokens, and the time from which on they may be used.

        At most `rate.at_once` tokens can be reserved together.
        """
        full_at = max(self.full_at, now) + tokens / self.rate.per_s
        return replace(self, full_at=full_at), max(now, full_at - self.rate.at_once / self.rate.per_s)

    def limited(self, rate: Rate) -> TokenBucket:
        """Return the bucket with a lower rate, with the time until the next token unchanged."""
        next_at = self.full_at - (self.rate.at_once - 1) / self.rate.per_s
        return TokenBucket(rate, next_at + (rate.at_once - 1) / rate.per_s)
