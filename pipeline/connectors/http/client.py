"""An HTTP client for connectors: guarded calls, bounded responses, credentials only for their own host.

Temporary failures (no connection, no complete response, 408, 425, 429, 5xx) are retried, with `Retry-After`; others are
errors at once. Redirects to other hosts are followed without credentials, and only to public addresses.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import httpx

from pipeline.connectors.guard import Guarded, Temporary, temporary_of
from pipeline.connectors.http.addresses import Resolve, resolve
from pipeline.connectors.http.checked_transport import CheckedTransport
from pipeline.connectors.http.content_encoding import ACCEPTED, body_pieces
from pipeline.connectors.http.credentials import Credentials, OAuth2
from pipeline.connectors.http.waiting import limit_pause_s, retry_after_s
from pipeline.core.credentials import secret
from pipeline.core.errors import Place, SourceError

_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5
_SHOWN = 200
_RENEW_S = 30.0
"""A token is renewed this long before it expires."""


@dataclass(frozen=True)
class HttpLimits:
    """The limits of one response."""

    timeout_s: float = 60.0
    """For the entire response, and for each wait for its next bytes."""
    most_bytes: int = 64 << 20
    """Maximum size of a decompressed response."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that may have private addresses, besides that of the definition."""


@dataclass(frozen=True)
class Identity:
    """What is sent only to the host of a definition."""

    credentials: Credentials | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Values are references, such as `env:NAME`, or texts."""


@dataclass(frozen=True)
class ApiRequest:
    """A request without credentials."""

    url: str
    params: Mapping[str, str] = field(default_factory=dict)
    """Parameters that replace those in the URL with the same names."""
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: Any = None
    """Sent as JSON."""
    form: Mapping[str, str] | None = field(default=None, repr=False)
    """Sent as a form, in place of a body."""

    def address(self) -> httpx.URL:
        """Return the URL with all parameters."""
        return httpx.URL(self.url).copy_merge_params(dict(self.params)) if self.params else httpx.URL(self.url)


@dataclass(frozen=True)
class ApiResponse:
    """A complete response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str
    """The address after redirects, without parameters with credentials."""


@dataclass(frozen=True)
class EventResponse:
    """A response whose body arrives piece by piece, without end."""

    status: int
    chunks: Iterator[bytes]
    socket: socket.socket | None
    """To interrupt it from another thread."""


class TemporaryResponseError(Exception):
    """A response without an error status that says that the same request may succeed later."""

    def __init__(self, text: str, after_s: float = 0.0) -> None:
        """Store how long the system asked to wait."""
        super().__init__(text)
        self.after_s = after_s


class _StatusError(Exception):
    """A response with a status other than success."""

    def __init__(self, status: int, headers: Mapping[str, str], text: str) -> None:
        super().__init__(f"status {status}: {text}" if text else f"status {status}")
        self.status, self.headers = status, headers


def _temporary(error: Exception) -> Temporary | None:
    """Return how a failed request is retried. Waits that a system asks for do not count as its failures."""
    if isinstance(error, _StatusError):
        if error.status not in _TEMPORARY:
            return None
        now = datetime.now(UTC)
        after_s = retry_after_s(error.headers, now)
        if after_s is None and error.status == httpx.codes.TOO_MANY_REQUESTS:
            after_s = limit_pause_s(error.headers, now)
        return Temporary(after_s or 0.0, is_failure=error.status != httpx.codes.TOO_MANY_REQUESTS)
    if isinstance(error, TemporaryResponseError):
        return Temporary(error.after_s, is_failure=False)
    if isinstance(error, httpx.RemoteProtocolError):
        return None  # the address of a redirect is invalid; errors of the connection have other types
    if isinstance(error, httpx.DecodingError | httpx.TransportError):
        return None if "CERTIFICATE" in str(error).upper() else Temporary()
    return temporary_of(error)


@dataclass
class _Token:
    text: str = ""
    valid_until: float = float("-inf")
    refresh: str = field(default="", repr=False)


class HttpClient:
    """The requests of one source. Close it at the end; thread-safe."""

    def __init__(
        self,
        origin: str,
        calls: Guarded,
        identity: Identity | None = None,
        limits: HttpLimits | None = None,
        resolve_host: Resolve = resolve,
    ) -> None:
        """Create a client for an address; the identity is sent only to its scheme, host and port."""
        self._origin, self._calls, self._limits = _origin_of(httpx.URL(origin)), calls, limits or HttpLimits()
        self._credentials, self._headers = (identity or Identity()).credentials, (identity or Identity()).headers
        hosts = {httpx.URL(origin).host, *self._limits.allowed_hosts}
        if isinstance(self._credentials, OAuth2):
            hosts.add(httpx.URL(self._credentials.token_url).host)
        self._client = httpx.Client(
            transport=CheckedTransport(frozenset(hosts), resolve_host),
            timeout=self._limits.timeout_s,
            follow_redirects=False,
            headers={"User-Agent": "headwater", "Accept-Encoding": ACCEPTED},
        )
        self._token, self._lock = _Token(), threading.Lock()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(
        self,
        request: ApiRequest,
        *,
        accepted: frozenset[int] = frozenset(),
        checked: Callable[[ApiResponse], None] | None = None,
    ) -> ApiResponse:
        """Return the response of a request; statuses in `accepted` are not errors.

        `checked` may raise `TemporaryResponseError` for a response that is a failure, although its status is not.

        Raises `SourceUnavailableError` after all retries, and `SourceError` for another failure.
        """
        try:
            shown = self.shown(str(request.address()))
        except httpx.InvalidURL as error:
            raise SourceError("an address is invalid", got=str(error), place=Place(repr(request.url))) from error
        try:
            calls = self._calls_to(request.address())
            response = calls.call(lambda: self._checked(request, accepted, checked), shown, _temporary)
        except _StatusError as error:
            raise self._refused(error, shown) from error
        except httpx.HTTPError as error:
            raise SourceError("a request failed", got=self._hidden(str(error)), place=Place(shown)) from error
        pause_s = limit_pause_s(response.headers, datetime.now(UTC))
        if pause_s:
            calls.pause(pause_s)
        return response

    @contextmanager
    def events(self, request: ApiRequest, idle_s: float) -> Iterator[EventResponse]:
        """Yield a response before its body has arrived; reading raises `httpx.ReadTimeout` after `idle_s` without bytes.

        Redirects are not followed. Raises the errors of `get`.
        """
        shown = self.shown(str(request.address()))
        try:
            response = self._calls.call(lambda: self._opened(request, idle_s), shown, _temporary)
        except _StatusError as error:
            raise self._refused(error, shown) from error
        stream = response.extensions.get("network_stream")
        connected = None if stream is None else stream.get_extra_info("socket")
        try:
            yield EventResponse(response.status_code, body_pieces(response, Place(shown)), connected)
        finally:
            response.close()

    def _opened(self, request: ApiRequest, idle_s: float) -> httpx.Response:
        made = self._made(replace(request, url=str(request.address()), params={}), renew=False)
        made.extensions["timeout"] = {**made.extensions["timeout"], "read": idle_s}
        response = self._client.send(made, stream=True)
        if httpx.codes.is_success(response.status_code):
            return response
        headers = {name.lower(): text for name, text in response.headers.items()}
        response.close()
        raise _StatusError(response.status_code, headers, "")

    def shown(self, url: str) -> str:
        """Return an address without user, password, fragment and parameters with credentials.

        Raises `SourceError` for an invalid address.
        """
        try:
            address = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise SourceError("an address is invalid", got=f"{error}: {url!r}") from error
        for name in () if self._credentials is None else self._credentials.parameters:
            address = address.copy_remove_param(name)
        return str(address.copy_with(username=None, password=None, fragment=None)).removesuffix("?")

    def _calls_to(self, address: httpx.URL) -> Guarded:
        """Return the guarded calls of a host: failures of another one, to which a link leads, are not those of this API."""
        if _origin_of(address) == self._origin:
            return self._calls
        return replace(self._calls, system=address.netloc.decode("ascii", "replace"), rate=None)

    def _checked(
        self, request: ApiRequest, accepted: frozenset[int], checked: Callable[[ApiResponse], None] | None
    ) -> ApiResponse:
        response = self._sent(request, accepted)
        if checked is not None:
            checked(response)
        return response

    def _sent(self, request: ApiRequest, accepted: frozenset[int]) -> ApiResponse:
        response = self._followed(request, renew=False, accepted=accepted)
        if response.status == httpx.codes.UNAUTHORIZED and isinstance(self._credentials, OAuth2):
            response = self._followed(request, renew=True, accepted=accepted)
        if httpx.codes.is_success(response.status) or response.status in accepted:
            return response
        raise _StatusError(response.status, response.headers, self._excerpt(response.body))

    def _followed(self, request: ApiRequest, *, renew: bool, accepted: frozenset[int]) -> ApiResponse:
        url, method, body = request.address(), request.method, request.body
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._once(replace(request, url=str(url), params={}, method=method, body=body), renew=renew)
            target = response.headers.get("location")
            if response.status not in _REDIRECTS or not target or response.status in accepted:
                return response
            url = url.join(target)
            if url.scheme not in {"http", "https"}:
                raise SourceError("a redirect has no HTTP address", got=self.shown(str(url)), place=Place(response.url))
            if response.status in {301, 302, 303} and method != "HEAD":
                method, body = "GET", None
        raise SourceError(f"more than {_MOST_REDIRECTS} redirects", got=self.shown(str(url)), place=Place(request.url))

    def _once(self, request: ApiRequest, *, renew: bool) -> ApiResponse:
        return self._received(self._made(request, renew=renew))

    def _made(self, request: ApiRequest, *, renew: bool) -> httpx.Request:
        """Return a request to send, with the identity if it is for this client's address."""
        is_ours = _origin_of(httpx.URL(request.url)) == self._origin
        headers = {name: secret(text, f"the header {name}") for name, text in self._headers.items()} if is_ours else {}
        made = self._client.build_request(
            request.method,
            request.url,
            headers={"Accept": "application/json", **headers, **request.headers},
            json=request.body,
            data=None if request.form is None else dict(request.form),
        )
        if is_ours and self._credentials is not None:
            if isinstance(self._credentials, OAuth2):
                made.headers["Authorization"] = f"Bearer {self._bearer(self._credentials, renew=renew)}"
            else:
                self._credentials.sign(made)
        return made

    def _received(self, made: httpx.Request) -> ApiResponse:
        """Send a request, and return its response; a slow or too large one is ended."""
        give_up = time.monotonic() + self._limits.timeout_s
        response, place = self._client.send(made, stream=True), Place(self.shown(str(made.url)))
        try:
            chunks, size = [], 0
            for chunk in body_pieces(response, place):
                size += len(chunk)
                if size > self._limits.most_bytes:
                    raise SourceError(
                        "a response is too large",
                        got=f"more than {self._limits.most_bytes:,} bytes",
                        do="request smaller pages, or increase most_response_bytes=",
                        place=place,
                    )
                if time.monotonic() > give_up:
                    raise TimeoutError(f"no complete response within {self._limits.timeout_s:g} s")
                chunks.append(chunk)
        finally:
            response.close()
        headers = {name.lower(): text for name, text in response.headers.items()}
        return ApiResponse(response.status_code, headers, b"".join(chunks), self.shown(str(made.url)))

    def _bearer(self, oauth: OAuth2, *, renew: bool) -> str:
        with self._lock:
            if renew or time.monotonic() > self._token.valid_until - _RENEW_S or not self._token.text:
                text, lifetime_s, refresh = oauth.token(self._ask_token, self._token.refresh)
                lasts_s = max(lifetime_s, 2 * _RENEW_S)  # a shorter one would be renewed for each request
                self._token = _Token(text, time.monotonic() + lasts_s, refresh)
            return self._token.text

    def _ask_token(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Mapping[str, object]:
        made = self._client.build_request(
            "POST", url, data=dict(form), headers={"Accept": "application/json", **headers}
        )
        response = self._received(made)
        if response.status in _TEMPORARY:
            raise _StatusError(response.status, response.headers, "")
        try:
            answer = json.loads(response.body)
        except ValueError:
            answer = None
        if not httpx.codes.is_success(response.status) or not isinstance(answer, dict):
            problem = answer.get("error", "") if isinstance(answer, dict) else ""
            raise SourceError(
                "no token was issued",
                got=f"status {response.status} {problem}".strip(),
                do="check the client, its secret and its scope",
                place=Place(self.shown(url)),
            )
        return answer

    def _refused(self, error: _StatusError, shown: str) -> SourceError:
        if error.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            do = "check auth=, and what its user may read" if self._credentials else "pass auth="
            return SourceError("the request was not authorized", got=str(error), do=do, place=Place(shown))
        return SourceError("the request was refused", got=str(error), place=Place(shown))

    def _excerpt(self, body: bytes) -> str:
        return self._hidden(" ".join(body[: 4 * _SHOWN].decode("utf-8", "replace").split()))[:_SHOWN]

    def _hidden(self, text: str) -> str:
        """Return a text without the credentials of this client, which a server may repeat in an error."""
        known = [self._token.text, self._token.refresh, *self._known_secrets()]
        for each in sorted((each for each in known if len(each) > 3), key=len, reverse=True):  # noqa: PLR2004 - no common words
            text = text.replace(each, "***")
        return text

    def _known_secrets(self) -> list[str]:
        fields = {**vars(self._credentials), **self._headers} if self._credentials is not None else dict(self._headers)
        texts = [text for name, text in fields.items() if isinstance(text, str) and name not in _NOT_SECRET]
        return [secret(text, "a credential") for text in texts]


_NOT_SECRET = frozenset(
    {
        "header",
        "parameter",
        "message",
        "digest",
        "encoding",
        "prefix",
        "token_url",
        "scope",
        "timestamp_header",
        "nonce_header",
    }
)


def _origin_of(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
