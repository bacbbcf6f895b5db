"""Which limits a request has, and what it takes from them: by its caller, and by the endpoint that it asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache

from pipeline.core.serve_settings import ServeSettings
from serve.access.caller import Caller
from serve.access.rate_limits import Charge, Limit

PAGE_ROWS = 10_000
"""How many rows are included in what a request costs; it costs 1 more for each further so many."""
_MOST_KEPT = 10_000
_PREFIX = "/v1/"


class RequestLimits:
    """The limits that settings declare. Thread-safe."""

    def __init__(self, settings: ServeSettings) -> None:
        """Use the limits, costs and quotas of the settings."""
        self._settings = settings
        self._of_caller = lru_cache(_MOST_KEPT)(self._charges_of_caller)

    def of_address(self, address: str) -> Limit:
        """Return the limit of all that is known by its address only."""
        settings = self._settings
        return Limit("requests", f"address {address}", settings.burst, settings.anonymous_requests_per_second)

    def of_guesses(self, address: str) -> Limit:
        """Return the limit of keys and sessions from an address that are not valid; each replica counts its own."""
        return replace(self.of_address(address), name="guesses")

    def charges(self, caller: Caller, address: str, route: str) -> tuple[Charge, ...]:
        """Return what a request takes from which limits. `route` is the group of endpoints that it asks; see `route_of`."""
        route = route if route in self._settings.routes else ""
        if caller.is_anonymous:
            return self._on_route(self.of_address(address), route)
        return self._of_caller(f"{caller.kind} {caller.id}", caller.roles, route)

    def _charges_of_caller(self, name: str, roles: frozenset[str], route: str) -> tuple[Charge, ...]:
        settings = self._settings
        charges = self._on_route(Limit("requests", name, settings.burst, settings.requests_per_second), route)
        for pattern, quota in settings.quotas.items():
            if pattern == "*" or any(fnmatchcase(role, pattern) for role in roles):
                return (*charges, Charge(Limit("day", name, quota), charges[0].amount))
        return charges

    def _on_route(self, limit: Limit, route: str) -> tuple[Charge, ...]:
        own = self._settings.routes.get(route)
        if own is None:
            return (Charge(limit, 1),)
        charge = Charge(limit, own.cost)
        if own.requests_per_second is None:
            return (charge,)
        return (charge, Charge(Limit(route, limit.of, own.burst, own.requests_per_second), 1, is_cost=False))


def route_of(path: str) -> str:
    """Return the group of endpoints of a path: the first word after `/v1/`; empty for other paths."""
    return path[len(_PREFIX) :].partition("/")[0] if path.startswith(_PREFIX) else ""


def further(charges: Sequence[Charge], rows: object, more: int = 0) -> tuple[Charge, ...]:
    """Return what a request with so many rows costs in addition to what it was charged; `more` is added to that."""
    pages = (rows - 1) // PAGE_ROWS if isinstance(rows, int) and rows > PAGE_ROWS else 0
    amount = pages + more
    return tuple(replace(each, amount=amount) for each in charges if each.is_cost) if amount > 0 else ()
