"""Tokens of an identity provider (RFC 9068): signed by one of its keys, for these endpoints, and valid now."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError, UnsupportedAlgorithmError

from pipeline.core.errors import RequestError
from pipeline.core.serve_settings import ServeSettings
from pipeline.governance.api_keys import require_scope
from serve.access.caller import Caller
from serve.access.provider_keys import ProviderKeys, PublicKey
from serve.http_errors import OverloadError, UnauthenticatedError

_ALGORITHMS = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "Ed25519", "EdDSA"),
)
"""Those with a private and a public key."""
_TYPES = frozenset({"at+jwt", "application/at+jwt", "jwt"})
_SCOPE_PREFIX = "hw:"
_SKEW_S = 30
"""How much the clocks of the provider and of this machine may differ."""
_MOST_BYTES = 8 << 10
_MOST_VERDICTS = 10_000
_LONGEST_VERDICT_S = 3600.0


@dataclass(frozen=True)
class _Verdict:
    caller: Caller
    ends_at: float
    key_id: str
    key: PublicKey


class _Registry(jws.JWSRegistry):
    """Admits our algorithms; joserfc warns of the older name of Ed25519, which providers still use."""

    max_header_length = max_payload_length = _MOST_BYTES

    def get_alg(self, name: str) -> Any:
        if name not in _ALGORITHMS:
            raise UnsupportedAlgorithmError(f"the algorithm {name!r} is not allowed")
        return self.algorithms[name]


class ProviderTokens:
    """Checks tokens of the provider that the settings name. Thread-safe."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float] = time.time) -> None:
        """Read nothing yet. `clock` returns seconds since 1970."""
        self._settings = settings
        self._clock = clock
        self._keys = ProviderKeys(settings.oidc_issuer, clock)
        self._verdicts: OrderedDict[bytes, _Verdict] = OrderedDict()
        self._lock = threading.Lock()
        self._registry = _Registry(algorithms=_ALGORITHMS, strict_check_header=False)
        self._claims = jwt.JWTClaimsRegistry(
            now=lambda: int(clock()),
            leeway=_SKEW_S,
            iss={"essential": True, "value": settings.oidc_issuer},
            aud={"essential": True, "value": settings.oidc_audience},
            exp={"essential": True},
            sub={"essential": True},
        )

    def known(self, token: str) -> Caller | None:
        """Return the caller of a token that was checked before and is still valid; never waits."""
        if self._keys.is_due:
            return None
        return self._found(_digest(token))

    def verify(self, token: str) -> Caller:
        """Return the caller of a token. May wait for the provider.

        Raises `UnauthenticatedError` for one that is not valid, and `OverloadError` if the key that signed it is not known
        while the provider does not answer.
        """
        if len(token) > _MOST_BYTES:
            raise _invalid(f"it is longer than {_MOST_BYTES} bytes")
        key_id = self._key_id(token)
        self._keys.refresh(key_id)
        digest = _digest(token)
        caller = self._found(digest)
        if caller is not None:
            return caller
        key = self._keys.find(key_id)
        if key is None and not self._keys.is_reachable:
            raise OverloadError(
                "the token cannot be checked", do="try again later: the identity provider does not answer"
            )
        if key is None:
            raise _invalid("the identity provider has no such key")
        claims = self._checked(token, key)
        caller = self._caller(claims)
        ends_at = min(claims["exp"] + _SKEW_S, self._clock() + _LONGEST_VERDICT_S)
        with self._lock:
            self._verdicts[digest] = _Verdict(caller, ends_at, key_id, key)
            if len(self._verdicts) > _MOST_VERDICTS:
                self._verdicts.popitem(last=False)
        return caller

    def close(self) -> None:
        """Close the connections to the provider."""
        self._keys.close()

    def _found(self, digest: bytes) -> Caller | None:
        with self._lock:
            verdict = self._verdicts.get(digest)
            if verdict is None:
                return None
            if self._clock() < verdict.ends_at and self._keys.find(verdict.key_id) == verdict.key:
                return verdict.caller
            del self._verdicts[digest]
            return None

    def _key_id(self, token: str) -> str:
        """Return which key a token says that it is signed with, after checking what else its header says."""
        try:
            header = jws.extract_compact(token.encode("ascii"), registry=self._registry).headers()
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise _invalid("it is no signed JWT") from error
        if not isinstance(header, dict):
            raise _invalid("its header is no JSON object")
        kind, key_id = header.get("typ"), header.get("kid")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _invalid("its type is not at+jwt or JWT")
        if header.get("alg") not in _ALGORITHMS:
            raise _invalid("its algorithm is not one of public keys")
        if "crit" in header or "b64" in header:
            raise _invalid("its header requires extensions")
        if not isinstance(key_id, str) or not key_id:
            raise _invalid("it does not name its key")
        return key_id

    def _checked(self, token: str, key: PublicKey) -> Mapping[str, Any]:
        try:
            decoded = jwt.decode(token, key, registry=self._registry)
            self._claims.validate(decoded.claims)
        except (JoseError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _invalid(getattr(error, "error", "") or "its claims cannot be read") from error
        if not decoded.claims["sub"].strip():
            raise _invalid("its subject is empty")
        return decoded.claims

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        names = (claims.get(each) for each in ("name", "preferred_username", "client_id", "azp"))
        return Caller(
            claims["sub"],
            "token",
            next((each for each in names if isinstance(each, str) and each), ""),
            frozenset(_words(_inside(claims, self._settings.oidc_roles_claim))),
            tuple(sorted(_scopes(_words(_inside(claims, self._settings.oidc_scopes_claim))))),
            {name: value for name, value in ((n, _claim(v)) for n, v in claims.items()) if value is not None},
        )


def _scopes(words: tuple[str, ...]) -> set[str]:
    """Return the scopes of ours among those of a token, without their prefix; others are for other services."""
    found = set()
    for word in words:
        scope = word.removeprefix(_SCOPE_PREFIX)
        try:
            require_scope(scope)
        except RequestError:
            continue
        if word != scope:
            found.add(scope)
    return found


def _inside(claims: Mapping[str, Any], path: str) -> object:
    """Return a claim by its name, or by a path of names; names may contain dots, as in addresses."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _words(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _claim(value: object) -> str | tuple[str, ...] | None:
    """Return the claim of policies that a claim of a token is; `None` for null and objects, which policies cannot use."""
    if isinstance(value, list):
        return tuple(text for text in (_text(each) for each in value) if text is not None)
    return _text(value)


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _invalid(reason: str) -> UnauthenticatedError:
    return UnauthenticatedError("the token is not valid", got=reason, do="get a new one from the identity provider")
