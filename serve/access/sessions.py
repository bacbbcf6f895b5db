"""Sessions of browsers: a random token in a cookie, whose SHA-256 is in the catalog, in place of the key or token of its user."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from starlette.types import Scope

from pipeline.core.errors import StorageError
from pipeline.core.serve_settings import ServeSettings
from pipeline.governance.sessions import SessionStore, StoredSession
from serve.access.authentication import EVERY_S, KeyRing
from serve.access.caller import Caller
from serve.http_errors import ForbiddenError, OverloadError

_LOG = logging.getLogger("headwater.serve")
COOKIE = "headwater-session"
CSRF_HEADER = b"x-csrf-token"
SAFE = ("GET", "HEAD", "OPTIONS")
_MOST_AGE_S = 30.0
"""How long a session stays in use while the catalog cannot be read."""
_NOTED_EVERY_S = 30.0
_MOST_KNOWN = 10_000
_TOKEN_BYTES = 32
_TOKEN_LENGTH = 43
_FOREIGN = (b"cross-site", b"same-site")
"""What a browser says of requests that pages of other origins make."""


@dataclass(frozen=True)
class SignedIn:
    """The session of a request."""

    caller: Caller
    token: str
    digest: str
    expires_at: float

    @property
    def name(self) -> str:
        """Identifies it in the audit log."""
        return self.digest[:12]

    @property
    def csrf_token(self) -> str:
        """What requests must have in a header to change something: pages of other origins cannot read it."""
        return hashlib.sha256(f"csrf {self.token}".encode()).hexdigest()


@dataclass(frozen=True)
class _Known:
    session: StoredSession
    read_at: float


class BrowserSessions:
    """The sessions that this process has seen, read from the catalog again and again. Thread-safe."""

    def __init__(
        self, store: SessionStore, ring: KeyRing, settings: ServeSettings, clock: Callable[[], float] = time.time
    ) -> None:
        """Read nothing yet. `clock` returns seconds since 1970."""
        self._store = store
        self._ring = ring
        self._lasts_s, self._idle_s = settings.session_seconds, settings.session_idle_seconds
        self._has_tls = settings.public_url.startswith("https:")
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def is_secure(self, scope: Scope) -> bool:
        """Return whether the connection of the browser is encrypted."""
        return self._has_tls or scope.get("scheme") == "https"

    def cookie(self, scope: Scope, name: str = COOKIE) -> str:
        """Return the name of a cookie: with a prefix, browsers take it from this host over TLS only."""
        return f"__Host-{name}" if self.is_secure(scope) else name

    def token_of(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """Return the token of a request, or an empty text."""
        text = cookies_of(headers).get(self.cookie(scope), "")
        return text if len(text) == _TOKEN_LENGTH and text.isascii() else ""

    def known(self, token: str) -> SignedIn | None:
        """Return a session that was read a moment ago and whose key is valid; never waits."""
        digest = _digest(token)
        with self._lock:
            known = self._known.get(digest)
        now = self._clock()
        if known is None or now - known.read_at > EVERY_S or self._ring.is_older_than(EVERY_S):
            return None
        found = self._signed_in(known.session, token, now)
        if found is not None:
            self._keep(digest, replace(known, session=replace(known.session, last_seen_at=now)))
        return found

    def find(self, token: str) -> SignedIn | None:
        """Return a session, or `None` if it has ended; may wait for the catalog.

        Raises `OverloadError` if it cannot be checked.
        """
        digest, now = _digest(token), self._clock()
        self._ring.read(if_older_s=EVERY_S)
        session = self._read(digest, now)
        found = None if session is None else self._signed_in(session, token, now)
        if found is None or session is None:
            with self._lock:
                self._known.pop(digest, None)
            return None
        self._keep(digest, _Known(replace(session, last_seen_at=now), now))
        return found

    def begin(self, caller: Caller, ends_at: float | None = None) -> SignedIn:
        """Return a new session of a caller, of at most the time of the settings; raise `StorageError` if it cannot be stored."""
        token, now = secrets.token_urlsafe(_TOKEN_BYTES), self._clock()
        expires_at = min(now + self._lasts_s, ends_at or float("inf"))
        is_key = caller.kind == "key"
        known = "" if is_key else _packed(caller)
        session = StoredSession(_digest(token), caller.id if is_key else "", known, now, expires_at, now)
        self._store.begin(session, self._idle_s)
        return SignedIn(caller, token, session.digest, expires_at)

    def end(self, token: str) -> None:
        """End a session: here at once, in other replicas within a second. Raises `StorageError` if that is not possible."""
        digest = _digest(token)
        self._store.end(digest)
        with self._lock:
            self._known.pop(digest, None)

    def _read(self, digest: str, now: float) -> StoredSession | None:
        with self._lock:
            known = self._known.get(digest)
        try:
            stored = self._store.find(digest)
            if stored is None:
                return None
            seen_at = stored.last_seen_at if known is None else max(stored.last_seen_at, known.session.last_seen_at)
            session = replace(stored, last_seen_at=seen_at)
            if session.is_valid(now, self._idle_s) and now - stored.last_seen_at > min(
                _NOTED_EVERY_S, self._idle_s / 4
            ):
                self._store.note_seen(digest, now)  # for other replicas
        except StorageError as error:
            _LOG.warning("sessions cannot be read: %s", error)
            if known is None or now - known.read_at > _MOST_AGE_S:
                raise OverloadError("the session cannot be checked", do="try again later") from error
            return known.session
        return session

    def _signed_in(self, session: StoredSession, token: str, now: float) -> SignedIn | None:
        if not session.is_valid(now, self._idle_s):
            return None
        caller = self._ring.caller_of(session.key_id) if session.key_id else _unpacked(session.caller_json)
        return None if caller is None else SignedIn(caller, token, session.digest, session.expires_at)

    def _keep(self, digest: str, known: _Known) -> None:
        with self._lock:
            self._known[digest] = known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)


def require_intended(scope: Scope, headers: Mapping[bytes, bytes], signed_in: SignedIn | None) -> None:
    """Raise `ForbiddenError` for a request that changes something and that a page of another origin may have made.

    Browsers send cookies, certificates and Basic credentials by themselves. A request of a session has its `X-CSRF-Token`.
    """
    if scope["method"] in SAFE:
        return
    is_bearer = headers.get(b"authorization", b"")[:7].lower() == b"bearer "
    if not is_bearer and headers.get(b"sec-fetch-site") in _FOREIGN:
        raise ForbiddenError("pages of other origins may send requests with a bearer token only", do="send a key")
    if signed_in is not None:
        given = headers.get(CSRF_HEADER, b"")
        if not hmac.compare_digest(given, signed_in.csrf_token.encode()):
            raise ForbiddenError(
                "the request lacks the token of its session", do="send X-CSRF-Token as /session tells it"
            )


def cookies_of(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Return the cookies of a request by their names; of several with one name, none."""
    cookies: dict[str, str | None] = {}
    for part in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = part.strip().partition("=")
        cookies[name] = None if name in cookies else value
    return {name: value for name, value in cookies.items() if value is not None}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _packed(caller: Caller) -> str:
    parts = {
        "id": caller.id,
        "kind": caller.kind,
        "name": caller.name,
        "roles": sorted(caller.roles),
        "scopes": list(caller.scopes),
        "claims": dict(caller.claims),
    }
    return json.dumps(parts)


def _unpacked(text: str) -> Caller:
    parts = json.loads(text)
    claims = {name: value if isinstance(value, str) else tuple(value) for name, value in parts["claims"].items()}
    return Caller(parts["id"], parts["kind"], parts["name"], frozenset(parts["roles"]), tuple(parts["scopes"]), claims)
