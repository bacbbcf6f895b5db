"""Protects the systems that connectors call: a rate limit and a circuit breaker per system, and retries within a deadline."""

from pipeline.connectors.guard.calls import Guarded, Temporary, guard_here, guarded, temporary_of
from pipeline.connectors.guard.guard import Guard
from pipeline.connectors.guard.rates import Rate

__all__ = ["Guard", "Guarded", "Rate", "Temporary", "guard_here", "guarded", "temporary_of"]
