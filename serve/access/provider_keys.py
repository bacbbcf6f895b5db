"""The public keys of an identity provider, read from the address that its configuration names, by their ids."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from pipeline.connectors.guard import Guard, Guarded
from pipeline.connectors.guard.calls import RetryRule
from pipeline.connectors.http.client import ApiRequest, HttpClient, HttpLimits
from pipeline.core.errors import HeadwaterError, SourceError

_LOG = logging.getLogger("headwater.serve")
EVERY_S = 60.0
"""How often the keys are read at most, whatever tokens say."""
_MOST_AGE_S = 600.0
"""How often the keys are read at least while there are tokens, so that keys which the provider withdrew end."""
_TIMEOUT_S = 5.0
_MOST_BYTES = 1 << 20
_MOST_KEYS = 100
_LEAST_RSA_DIGITS = 2048 // 6
"""Those of the modulus in base64."""
_PATH = "/.well-known/openid-configuration"

PublicKey = RSAKey | ECKey | OKPKey


class ProviderKeys:
    """The keys of an issuer. Thread-safe; only `refresh` waits."""

    def __init__(self, issuer: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet. The issuer's own host may have a private address, other hosts may not."""
        self._issuer = issuer
        self._clock = clock
        self._by_id: Mapping[str, PublicKey] = {}
        self._read_at = self._tried_at = float("-inf")
        self._reading = threading.Lock()
        self._client = provider_client(issuer)

    @property
    def is_reachable(self) -> bool:
        """Whether the last attempt to read the keys succeeded."""
        return self._read_at >= self._tried_at > float("-inf")

    @property
    def is_due(self) -> bool:
        """Whether the keys are old and may be read again."""
        now = self._clock()
        return now - self._read_at > _MOST_AGE_S and now - self._tried_at >= EVERY_S

    def find(self, key_id: str) -> PublicKey | None:
        """Return a key as it was read last."""
        return self._by_id.get(key_id)

    def refresh(self, key_id: str = "") -> None:
        """Read the keys if they are due, or if this one is not known; at most once a minute.

        While the provider does not answer, the keys stay as they are.
        """
        with self._reading:
            is_wanted = self.is_due or (key_id and key_id not in self._by_id)
            if not is_wanted or self._clock() - self._tried_at < EVERY_S:
                return
            self._tried_at = self._clock()
            try:
                self._by_id = self._read()
            except HeadwaterError as error:
                _LOG.warning("the keys of the identity provider cannot be read: %s", error)
                return
            self._read_at = self._tried_at

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _read(self) -> Mapping[str, PublicKey]:
        configuration = provider_configuration(self._client, self._issuer)
        address = secure_address(configuration, "jwks_uri", self._issuer)
        listed = _object(self._client, address).get("keys")
        if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
            raise SourceError("the provider's keys are not a list of keys", got=f"{address}")
        keys = {}
        for each in listed:
            key = _key(each)
            if key is not None:
                keys[str(each["kid"])] = key
        return keys


def provider_client(issuer: str) -> HttpClient:
    """Return a client of an identity provider. The issuer's own host may have a private address, other hosts may not."""
    return HttpClient(
        issuer,
        Guarded(issuer, retries=RetryRule(attempts=1, deadline_s=_TIMEOUT_S), guard=Guard()),
        limits=HttpLimits(timeout_s=_TIMEOUT_S, most_bytes=_MOST_BYTES),
    )


def provider_configuration(client: HttpClient, issuer: str) -> Mapping[str, Any]:
    """Return the configuration of a provider; raise `SourceError` if it cannot be read, or is that of another one."""
    configuration = _object(client, issuer.rstrip("/") + _PATH)
    if configuration.get("issuer") != issuer:
        raise SourceError(
            "the identity provider has another name",
            got=repr(configuration.get("issuer")),
            do="set 'serve.oidc_issuer' to it, if it is the right one",
        )
    return configuration


def secure_address(configuration: Mapping[str, Any], name: str, issuer: str) -> str:
    """Return an address of a configuration; raise `SourceError` unless it is encrypted or that of the issuer itself."""
    address = configuration.get(name)
    own, other = urlsplit(issuer), urlsplit(address if isinstance(address, str) else "")
    if not isinstance(address, str) or not (
        other.scheme == "https" or (other.scheme, other.netloc) == (own.scheme, own.netloc)
    ):
        raise SourceError(f"the address {name} of the identity provider is not secure", got=repr(address))
    return address


def _object(client: HttpClient, address: str) -> Mapping[str, Any]:
    response = client.get(ApiRequest(address))
    try:
        found = json.loads(response.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise SourceError("the identity provider did not return a JSON object", got=address)
    return found


def _key(described: object) -> PublicKey | None:
    """Return a public key for signatures, or `None` for what is none: symmetric ones are never used."""
    if not isinstance(described, dict) or not isinstance(described.get("kid"), str):
        return None
    if described.get("use", "sig") != "sig" or "verify" not in described.get("key_ops", ["verify"]):
        return None
    kind = str(described.get("kty"))
    try:
        key: PublicKey
        if kind == "RSA":
            if len(str(described["n"])) < _LEAST_RSA_DIGITS:
                return None
            key = RSAKey.import_key(described)
        elif kind == "EC":
            key = ECKey.import_key(described)
        elif kind == "OKP":
            key = OKPKey.import_key(described)
        else:
            return None
    except (JoseError, ValueError, TypeError, KeyError) as error:
        _LOG.warning("a key of the identity provider cannot be used: %s", error)
        return None
    return key
