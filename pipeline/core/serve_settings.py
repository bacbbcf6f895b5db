"""The table `[env.….serve]` of `headwater.toml`: how much the endpoints allow, and whom they trust."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from pipeline.core.errors import Place, SettingsError, did_you_mean
from pipeline.core.setting_values import positive, typed


@dataclass(frozen=True)
class CertificateRights:
    """What a client may do whose certificate has some name."""

    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ("read",)
    """As those of keys."""
    claims: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)


ROUTES = (
    "catalog",
    "experiments",
    "features",
    "flight",
    "graphql",
    "lineage",
    "metrics",
    "models",
    "odata",
    "postgres",
    "quality",
    "queries",
    "query",
    "runs",
    "sharing",
    "sources",
    "streams",
    "tables",
)
"""The groups of endpoints that may have limits of their own: the first words of their paths after `/v1/`, Flight SQL, and PostgreSQL's protocol."""


@dataclass(frozen=True)
class RouteLimits:
    """What requests to a group of endpoints cost, and how many of them each caller may send."""

    cost: int = 1
    """How much each takes from the limit and the quota of its caller."""
    requests_per_second: float | None = None
    """How many a second each caller may send over time; `None`: as many as its other limits allow."""
    burst: int = 1
    """How many of them it may send at once."""


@dataclass(frozen=True)
class ServeSettings:
    """How much the endpoints allow, and whom they trust."""

    requests_per_second: float = 100.0
    """How many requests a second each key or token may send over time: to all replicas with `redis_url`, otherwise to each."""
    burst: int = 200
    """How many requests it may send at once."""
    anonymous_requests_per_second: float = 10.0
    """How many requests a second callers without a key may send from one address."""
    routes: Mapping[str, RouteLimits] = field(default_factory=dict)
    """What requests to groups of endpoints cost, by names of `ROUTES`."""
    quotas: Mapping[str, int] = field(default_factory=dict)
    """How much the requests of a caller may cost in a day of UTC, by patterns of its roles; the first that fits counts."""
    redis_url: str = ""
    """The Redis or Valkey server by which replicas share limits and responses; empty: each has its own."""
    redis_secret: str = ""
    """By what replicas name and check what they share; empty: the secret in a file of the project's folder."""
    redis_response_seconds: int = 3600
    """How long replicas find each other's responses there; 0: they share none."""
    concurrent_queries: int = 8
    """How many statements run at once in a replica; others wait, those of each caller in turn."""
    requests_per_replica: int = 8
    """How many requests a replica should have under way, if the number of replicas follows the requests."""
    cache_bytes: int = 64 << 20
    """The memory for responses in each replica; 0: none are kept."""
    hot_bytes: int = 1 << 30
    """The disk space for local copies of tables that are asked for often; 0: none are made."""
    export_bytes: int = 4 << 30
    """The disk space of a machine for whole tables as files, for Delta Sharing; 0: none are made."""
    background_seconds: int = 600
    """How long a query in the background may run."""
    result_seconds: int = 3600
    """How long the result of a query in the background is kept."""
    result_bytes: int = 4 << 30
    """The disk space of a machine for these results; 0: there are no queries in the background."""
    cors_origins: tuple[str, ...] = ()
    """The origins of web pages that may call the endpoints from a browser."""
    graphql_trusted: str = ""
    """The folder of the only GraphQL documents that are run; empty: every document is."""
    graphql_introspection: tuple[str, ...] = ("*",)
    """The roles of callers that may read their GraphQL schema, where `*` matches any text; `*` alone is for every caller."""
    session_seconds: int = 12 * 3600
    """How long a browser stays signed in at most."""
    session_idle_seconds: int = 3600
    """How long it stays signed in without a request."""
    public_url: str = ""
    """The address of the server for clients, for example behind a proxy; empty: the one that each request was sent to."""
    oidc_issuer: str = ""
    """The identity provider whose tokens are accepted, as its tokens name it; empty: none are."""
    oidc_audience: str = ""
    """By what its tokens name these endpoints."""
    oidc_roles_claim: str = "roles"
    """The claim with a caller's roles; `a.b` is claim `b` inside `a`."""
    oidc_scopes_claim: str = "scope"
    """The claim with a caller's scopes, likewise."""
    oidc_client_id: str = ""
    """As what the pages for browsers are registered at the provider; empty: people sign in with keys only."""
    oidc_client_secret: str = ""
    """The secret of that client; empty: it is a public one."""
    oidc_login: Mapping[str, str] = field(default_factory=dict)
    """Further parameters with which browsers are sent to the provider, such as `scope` and `resource`."""
    certificates: Mapping[str, CertificateRights] = field(default_factory=dict)
    """What clients may do that show a certificate, by its names: URIs such as `spiffe://acme/reports`, or hosts."""


def serve_settings(values: Mapping[str, object], place: Place) -> ServeSettings:
    """Return the settings with these values; raise `SettingsError` for an unknown key and for an invalid value."""
    _require_known("serve", values, [each.name for each in fields(ServeSettings)], place)
    settings = ServeSettings(**{key: _CHECKS[key](f"serve.{key}", value, place) for key, value in values.items()})
    missing = [key for key in ("oidc_issuer", "oidc_audience") if not getattr(settings, key)]
    if missing and any(key.startswith("oidc_") for key in values):
        raise SettingsError(
            "tokens need both an issuer and an audience", do=f"set 'serve.{missing[0]}' too", place=place
        )
    _require_affordable(settings, place)
    return settings


def _require_known(table: str, given: Iterable[str], known: Collection[str], place: Place) -> None:
    for key in given:
        if key not in known:
            raise SettingsError(f"unknown key '{table}.{key}'", do=did_you_mean(key, known), place=place)


def _require_affordable(settings: ServeSettings, place: Place) -> None:
    """Raise `SettingsError` if a request costs more than its caller can ever have."""
    for name, route in settings.routes.items():
        if route.cost > settings.burst:
            raise SettingsError(
                f"'serve.routes.{name}.cost' exceeds 'serve.burst', so no such request would be answered",
                got=f"{route.cost} > {settings.burst}",
                place=place,
            )


def _rate(key: str, value: object, place: Place) -> float:
    number = value if isinstance(value, float) else typed(key, value, int, "a number", place)
    if not 0 < number < math.inf:
        raise SettingsError(f"{key!r} must be positive", got=repr(number), place=place)
    return float(number)


def _number(key: str, value: object, place: Place) -> int:
    return positive(key, value, "a number", place)


def _bytes(key: str, value: object, place: Place) -> int:
    return positive(key, value, "a number of bytes", place, least=0)


def _seconds(key: str, value: object, place: Place) -> int:
    return positive(key, value, "a number of seconds", place, least=0)


def _origins(key: str, value: object, place: Place) -> tuple[str, ...]:
    origins = typed(key, value, list, "a list of origins such as 'https://app.example'", place)
    for each in origins:
        if not isinstance(each, str) or not each.startswith(("http://", "https://")) or each.count("/") != 2:  # noqa: PLR2004 - those of ://
            raise SettingsError(f"{key!r} must name origins such as 'https://app.example'", got=repr(each), place=place)
    return tuple(origins)


def _folder(key: str, value: object, place: Place) -> str:
    return str(typed(key, value, str, "a folder", place))


def _roles(key: str, value: object, place: Place) -> tuple[str, ...]:
    roles = typed(key, value, list, "a list of texts", place)
    wrong = next((each for each in roles if not isinstance(each, str) or not each), None)
    if wrong is not None:
        raise SettingsError(f"{key!r} must be a list of texts", got=repr(wrong), place=place)
    return tuple(roles)


def _url(key: str, value: object, place: Place) -> str:
    url = typed(key, value, str, "an address such as 'https://data.example.com'", place)
    if re.fullmatch(r"https?://[^\s\"<>?#]+", url) is None:
        raise SettingsError(
            f"{key!r} must be an address such as 'https://data.example.com'", got=repr(url), place=place
        )
    return url.rstrip("/")


def _issuer(key: str, value: object, place: Place) -> str:
    issuer = typed(key, value, str, "an address such as 'https://login.example.com'", place)
    url = urlsplit(issuer)
    is_secure = url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
    if not is_secure or not url.hostname or url.query or url.fragment or url.username is not None:
        raise SettingsError(
            f"{key!r} must be the issuer's address", got=repr(issuer), do="use https://, without a query", place=place
        )
    return str(issuer)


def _word(key: str, value: object, place: Place) -> str:
    word = typed(key, value, str, "a text", place)
    if not word.strip():
        raise SettingsError(f"{key!r} is empty", place=place)
    return str(word)


def _redis(key: str, value: object, place: Place) -> str:
    url = str(typed(key, value, str, "an address such as 'redis://HOST:PORT/DATABASE'", place))
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError(
            f"{key!r} must be the address of a Redis or Valkey server",
            got=repr(url.partition("://")[0]),
            do="write redis://HOST:PORT/DATABASE, rediss://… with TLS, or unix:///PATH",
            place=place,
        )
    return url


def _secret(key: str, value: object, place: Place) -> str:
    secret = _word(key, value, place)
    if len(secret) < _SECRET_LENGTH:
        raise SettingsError(
            f"{key!r} is too short",
            got=f"{len(secret)} characters",
            do=f"use at least {_SECRET_LENGTH} random ones, for example of `openssl rand -hex 32`",
            place=place,
        )
    return secret


def _routes(key: str, value: object, place: Place) -> Mapping[str, RouteLimits]:
    tables = typed(key, value, dict, "a table of endpoints", place)
    for name in tables:
        if name not in ROUTES:
            raise SettingsError(f"unknown endpoints '{key}.{name}'", do=did_you_mean(name, ROUTES), place=place)
    return {name: _route(f"{key}.{name}", each, place) for name, each in tables.items()}


def _route(key: str, value: object, place: Place) -> RouteLimits:
    given = typed(key, value, dict, "a table with cost, requests_per_second and burst", place)
    checks: Mapping[str, Callable[[str, object, Place], Any]] = {
        "cost": _number,
        "requests_per_second": _rate,
        "burst": _number,
    }
    _require_known(key, given, checks, place)
    if "burst" in given and "requests_per_second" not in given:
        raise SettingsError(f"'{key}.burst' needs '{key}.requests_per_second'", place=place)
    return RouteLimits(**{each: checks[each](f"{key}.{each}", one, place) for each, one in given.items()})


def _quotas(key: str, value: object, place: Place) -> Mapping[str, int]:
    quotas = typed(key, value, dict, "a table of numbers by roles", place)
    return {str(role): _number(f"{key}.{role}", each, place) for role, each in quotas.items()}


def _words(key: str, value: object, place: Place) -> Mapping[str, str]:
    words = typed(key, value, dict, "a table of texts", place)
    return {str(name): _word(f"{key}.{name}", each, place) for name, each in words.items()}


def _certificates(key: str, value: object, place: Place) -> Mapping[str, CertificateRights]:
    names = typed(key, value, dict, "a table of names", place)
    return {str(name): _rights(f"{key}.{name}", each, place) for name, each in names.items()}


def _rights(key: str, value: object, place: Place) -> CertificateRights:
    given = typed(key, value, dict, "a table with roles, scopes and claims", place)
    _require_known(key, given, ("roles", "scopes", "claims"), place)
    claims = typed(f"{key}.claims", given.get("claims", {}), dict, "a table of texts or lists of texts", place)
    return CertificateRights(
        _roles(f"{key}.roles", given.get("roles", []), place),
        _roles(f"{key}.scopes", given.get("scopes", ["read"]), place),
        {
            str(name): each if isinstance(each, str) else _roles(f"{key}.claims.{name}", each, place)
            for name, each in claims.items()
        },
    )


_SECRET_LENGTH = 16
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_CHECKS: Mapping[str, Callable[[str, object, Place], Any]] = {
    "requests_per_second": _rate,
    "burst": _number,
    "anonymous_requests_per_second": _rate,
    "routes": _routes,
    "quotas": _quotas,
    "redis_url": _redis,
    "redis_secret": _secret,
    "redis_response_seconds": _seconds,
    "concurrent_queries": _number,
    "requests_per_replica": _number,
    "cache_bytes": _bytes,
    "hot_bytes": _bytes,
    "export_bytes": _bytes,
    "background_seconds": _number,
    "result_seconds": _number,
    "result_bytes": _bytes,
    "cors_origins": _origins,
    "graphql_trusted": _folder,
    "graphql_introspection": _roles,
    "session_seconds": _number,
    "session_idle_seconds": _number,
    "public_url": _url,
    "certificates": _certificates,
    "oidc_issuer": _issuer,
    "oidc_audience": _word,
    "oidc_roles_claim": _word,
    "oidc_client_id": _word,
    "oidc_client_secret": _word,
    "oidc_login": _words,
    "oidc_scopes_claim": _word,
}
