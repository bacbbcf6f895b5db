"""Who calls: checked by an API key or a token of an identity provider, as bearer token or as the password of Basic authentication."""

from __future__ import annotations

import base64
import binascii
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from pipeline.core.errors import StorageError
from pipeline.governance.api_keys import ApiKeys, CallerKey, digest_of, is_key
from serve.access.caller import ANONYMOUS, Caller
from serve.access.certificates import Certificates
from serve.http_errors import OverloadError, UnauthenticatedError

_LOG = logging.getLogger("headwater.serve")
EVERY_S = 1.0
"""How often the keys are read: the most that a revoked key stays valid."""
_MOST_AGE_S = 30.0
"""How long keys stay in use while the catalog cannot be read; after that, no key is accepted."""
_LEAST_AGE_S = 0.2
"""How often the keys are read again because of unknown ones, at most."""
_NOTED_EVERY_S = 30.0
_PREFIX = "hw_"


class TokenVerifier(Protocol):
    """Checks tokens of an identity provider."""

    def known(self, token: str) -> Caller | None:
        """Return the caller of a token that was checked before; never waits."""

    def verify(self, token: str) -> Caller:
        """Return the caller; raise `UnauthenticatedError` for a token that is not valid. May wait for the provider."""

    def close(self) -> None:
        """End connections."""


class KeyRing:
    """The keys of an environment in this process, read from the catalog again and again. Thread-safe."""

    def __init__(self, keys: ApiKeys, clock: Callable[[], float] = time.time) -> None:
        """Create the ring without reading anything. `clock` returns seconds since 1970."""
        self._keys = keys
        self._clock = clock
        self._by_digest: Mapping[str, tuple[CallerKey, Caller]] = {}
        self._digests: Mapping[str, str] = {}
        self._read_at = 0.0
        self._used: dict[str, float] = {}
        self._noted_at = clock()
        self._reading = threading.Lock()

    def find(self, digest: str) -> Caller | None:
        """Return the caller of a valid key, as it was read last; never waits. Raises `OverloadError` if that is long ago."""
        now = self._clock()
        if now - self._read_at > _MOST_AGE_S:
            raise OverloadError("the keys cannot be checked", do="try again later")
        known = self._by_digest.get(digest)
        if known is None or not known[0].is_valid(now):
            return None
        self._used[known[0].id] = now
        return known[1]

    def caller_of(self, key_id: str) -> Caller | None:
        """Return the caller of a valid key by its id, as `find` does by its digest."""
        digest = self._digests.get(key_id)
        return None if digest is None else self.find(digest)

    def is_older_than(self, seconds: float) -> bool:
        """Return whether the keys were read longer ago than this."""
        return self._clock() - self._read_at > seconds

    def read(self, *, if_older_s: float) -> None:
        """Read the keys, and note which were used. While the catalog cannot be read, the keys stay as they are."""
        with self._reading:
            now = self._clock()
            if now - self._read_at <= if_older_s:
                return
            try:
                keys = self._keys.all()
                if self._used and now - self._noted_at > _NOTED_EVERY_S:
                    self._note()
            except StorageError as error:
                _LOG.warning("the keys cannot be read: %s", error)
                return
            self._by_digest = {key.digest: (key, _caller(key)) for key in keys if key.is_valid(now)}
            self._digests = {key.id: key.digest for key, _ in self._by_digest.values()}
            self._read_at = now

    def read_again(self) -> None:
        """Read the keys; if they were read a moment ago, wait a moment first."""
        time.sleep(max(0.0, _LEAST_AGE_S - (self._clock() - self._read_at)))
        self.read(if_older_s=_LEAST_AGE_S / 2)

    def close(self) -> None:
        """Note which keys were used."""
        try:
            self._note()
        except StorageError as error:
            _LOG.warning("the last use of keys could not be recorded: %s", error)

    def _note(self) -> None:
        used, self._used = self._used, {}
        if used:
            self._keys.note_use(used)
        self._noted_at = self._clock()


class Authenticator:
    """Finds the caller of a request from its `Authorization` header. Without one, the caller is anonymous."""

    def __init__(
        self, ring: KeyRing, tokens: TokenVerifier | None = None, certificates: Certificates | None = None
    ) -> None:
        """Use keys, and optionally tokens of an identity provider and certificates."""
        self.ring = ring
        self.certificates = certificates or Certificates({})
        self._tokens = tokens

    def known(self, authorization: str | None) -> Caller | None:
        """Return the caller if it is known without waiting, otherwise `None`; raises `UnauthenticatedError` as `caller` does."""
        if authorization is None:
            return ANONYMOUS
        text = credential_of(authorization)
        if not text.startswith(_PREFIX):
            return None if self._tokens is None else self._tokens.known(text)
        if self.ring.is_older_than(EVERY_S):
            return None
        caller = self.ring.find(digest_of(text))
        if caller is None:
            _require_key(text)
        return caller

    def refreshed(self, authorization: str) -> Caller | None:
        """Return the caller of a key that was known before, after the keys were read; may wait for the catalog."""
        text = credential_of(authorization)
        if not text.startswith(_PREFIX):
            return None
        self.ring.read(if_older_s=EVERY_S)
        _require_key(text)
        return self.ring.find(digest_of(text))

    def close(self) -> None:
        """Note which keys were used, and end connections."""
        self.ring.close()
        if self._tokens is not None:
            self._tokens.close()

    def caller(self, authorization: str) -> Caller:
        """Return the caller. May wait for the catalog, or for the identity provider.

        Raises `UnauthenticatedError` for a key or token that is not valid, `OverloadError` if it cannot be checked.
        """
        text = credential_of(authorization)
        if not text.startswith(_PREFIX):
            if self._tokens is None:
                raise UnauthenticatedError("the key is not valid", do="use a key that `headwater keys create` printed")
            return self._tokens.verify(text)
        caller = self.refreshed(authorization)
        if caller is None:  # it may be new
            self.ring.read_again()
            caller = self.ring.find(digest_of(text))
        if caller is None:
            raise UnauthenticatedError("the key is not valid", do="it may be revoked or expired: ask for a new one")
        return caller


def _require_key(text: str) -> None:
    """Raise `UnauthenticatedError` for a text that cannot be a key."""
    if not is_key(text):
        raise UnauthenticatedError("the key is not valid", do="check that it was copied completely")


def credential_of(authorization: str) -> str:
    """Return the key or token of an `Authorization` header: of Basic authentication, the password."""
    scheme, _, value = authorization.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic":
        try:
            padded = value + "=" * (-len(value) % 4)  # drivers of Flight in Go leave it out
            return base64.b64decode(padded, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            pass
    raise UnauthenticatedError(
        "the Authorization header cannot be read",
        do="send `Authorization: Bearer KEY`, or Basic with the key as password",
    )


def _caller(key: CallerKey) -> Caller:
    return Caller(key.id, "key", key.name, frozenset(key.roles), key.scopes, key.claims)
