"""What every request passes first: its caller, its limits, the cache, the headers of the response, and the audit log.

It is plain ASGI, because a response from the cache costs less than a framework's routing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from math import ceil
from typing import TYPE_CHECKING

from anyio import fail_after, to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.core.errors import HeadwaterError, StorageError
from serve.access.admission import Admission, RequestContext
from serve.access.caller import ANONYMOUS, Caller
from serve.access.certificates import CERTIFICATE
from serve.access.client_messages import ClientMessages
from serve.access.request_limits import route_of
from serve.access.response_cache import SHARED_ROUTES, CachedResponse, Key, ResponseCache
from serve.access.sessions import SAFE, BrowserSessions, SignedIn, require_intended
from serve.access.signed_urls import SignedUrls
from serve.conditional_requests import is_same
from serve.http_errors import TooManyError
from serve.problems import REQUEST_ID, problem, problem_response
from serve.queries.cancellation import CURRENT
from serve.queries.processor_time import CURRENT_TIME, ProcessorTime
from serve.tables import Tables

if TYPE_CHECKING:
    from serve.access.shared_cache import SharedCache, SharedFlight

_LOG = logging.getLogger("headwater.serve")
LOGIN = "/login"
"""The path of the page where people sign in."""
STATE = "headwater"
"""Where a request's scope has its `RequestContext`."""
_EVENTS = "/events"
"""The end of paths whose responses wait for something: each request waits for itself."""
_UNCHANGED = 304
_OK = 200
_SERVER_ERROR = 500
_TOO_MANY = 429
_DECISIVE = (b"accept", b"prefer", b"host", b"odata-maxversion")
"""The headers on which responses depend: links of some protocols have the host."""
_SENT_WITHIN_S = 60.0
"""How long a client may take to read a part of a response."""
_OF_BODY = (b"content-length", b"content-type")
"""The headers that a response without its body does not have."""
_HIT, _REPLICAS_HIT = b"headwater; hit", b"headwater; hit; detail=replicas"
_SECURITY = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"strict-transport-security", b"max-age=31536000"),
)


def context_of(scope: Scope) -> RequestContext:
    """Return the context of a request that passed the gate."""
    context: RequestContext = scope[STATE]
    return context


_Flights = dict[tuple[int, Key], "asyncio.Future[CachedResponse | None]"]
"""What will be the responses of requests that are answered now, by their event loop and their key; `None` if it is for one request only."""


class Gate:
    """An application behind authentication, rate limits, the cache and the audit log."""

    def __init__(  # noqa: PLR0913 - what a request passes, all keyword-only
        self,
        app: ASGIApp,
        *,
        admission: Admission,
        tables: Tables,
        cache: ResponseCache,
        signatures: SignedUrls,
        sessions: BrowserSessions,
        replicas: SharedCache | None = None,
    ) -> None:
        """Pass requests on to `app`. Who was given a signed address is its caller if it sends no key.

        Responses that are not in the cache are looked for in that of the replicas.
        """
        self._app = app
        self._signatures = signatures
        self._sessions = sessions
        self._admission = admission
        self._tables = tables
        self.cache = cache
        self.replicas = replicas
        self._flights: _Flights = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        context = RequestContext(os.urandom(16).hex(), ANONYMOUS, "", time.perf_counter())
        scope[STATE], scope[REQUEST_ID] = context, context.request_id
        try:
            await self._admit(scope, headers, context)
        except HeadwaterError as error:
            await problem_response(error, scope)(scope, receive, _Sender(self, scope, send, context))
            return
        key = self._key(scope, headers, context.rights)
        cached = None if key is None else await self._from_cache(key) or await self._from_another(key)
        if cached is None:
            await self._compute(key, scope, headers, receive, _Sender(self, scope, send, context))
        else:
            await self._answer(cached, scope, headers, send)

    async def _admit(self, scope: Scope, headers: Mapping[bytes, bytes], context: RequestContext) -> None:
        """Find the caller of a request; raise `HeadwaterError` if it may not be answered now."""
        self._admission.require_record()
        address = (scope.get("client") or ("",))[0]
        context.session = await self._session(scope, headers, address)
        if context.session is None:
            context.caller = await self._caller(scope, headers.get(b"authorization"), address)
        else:
            context.caller, context.facts["session"] = context.session.caller, context.session.name
        context.rights = self._admission.rights(context.caller)
        context.charges = self._admission.charges(context.caller, address, route_of(scope["path"]))
        context.allowance = await self._admission.admit(context.charges)
        if not context.allowance.is_granted:
            raise TooManyError("there are too many requests", do="send fewer, or wait as `Retry-After` says")
        require_intended(scope, headers, context.session)

    async def _compute(
        self, key: Key | None, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive, sender: _Sender
    ) -> None:
        """Answer with the response of another replica, or let the application do it."""
        if key is not None and sender.leads(key, self._flights):
            shared = await self._from_replicas(key, scope, sender)
            if shared is not None:
                await self._answer(shared, scope, headers, sender.send, _REPLICAS_HIT)
                return
        sender.client = client = ClientMessages(scope, receive)
        current, spent = CURRENT.set(client.cancellation), CURRENT_TIME.set(sender.time)
        try:
            await self._app(scope, client, sender)
        except Exception:
            _LOG.exception("%s failed", scope["path"])
            if sender.has_begun:
                raise  # the connection is closed, so that the client does not take the response for complete
            parts = {"detail": "internal error", "do": "see the server's log"}
            await problem(_SERVER_ERROR, parts, scope)(scope, client, sender)
        finally:
            sender.end()
            client.close()
            CURRENT.reset(current)
            CURRENT_TIME.reset(spent)

    async def _session(self, scope: Scope, headers: Mapping[bytes, bytes], address: str) -> SignedIn | None:
        if b"authorization" in headers or b"cookie" not in headers:
            return None
        if scope["path"] == LOGIN and scope["method"] not in SAFE:
            return None  # its form has a token of its own, and begins another session
        token = self._sessions.token_of(scope, headers)
        if not token:
            return None
        known = self._sessions.known(token)
        if known is None:
            self._admission.require_attempts(address)
            known = await to_thread.run_sync(self._sessions.find, token)
            if known is None:
                self._admission.count_guess(address)
        return known

    async def _caller(self, scope: Scope, header: bytes | None, address: str) -> Caller:
        if header is None and CERTIFICATE in scope:
            return self._admission.caller_of_certificate(scope[CERTIFICATE], address)
        if header is None:
            signed = self._signatures.caller(scope["path"], scope["query_string"].decode("latin-1"))
            if signed is not None:
                return signed
        authorization = None if header is None else header.decode("latin-1")
        known = self._admission.known(authorization, address)
        if known is not None:
            return known
        return await to_thread.run_sync(self._admission.caller, authorization, address)

    def _key(self, scope: Scope, headers: Mapping[bytes, bytes], rights: str) -> Key | None:
        if scope["method"] != "GET" or scope["path"].endswith(_EVENTS):
            return None
        decisive = [headers.get(name, b"").decode("latin-1") for name in _DECISIVE]
        return (rights, scope.get("scheme", "http"), scope["path"], scope["query_string"].decode("latin-1"), *decisive)

    async def _from_cache(self, key: Key) -> CachedResponse | None:
        found = self.cache.get(key)
        if found is None or not await self._is_current(found):
            self.cache.misses += 1
            return None
        self.cache.hits += 1
        return found

    async def _from_another(self, key: Key) -> CachedResponse | None:
        """Return the response of an equal request that is answered now, so that many at once are computed once."""
        flight = self._flights.get((id(asyncio.get_running_loop()), key))
        if flight is None:
            return None
        with suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(flight), _SENT_WITHIN_S)
        return None

    async def _from_replicas(self, key: Key, scope: Scope, sender: _Sender) -> CachedResponse | None:
        """Return the response of another replica, or of an equal request that another one answers now."""
        if self.replicas is None or route_of(scope["path"]) not in SHARED_ROUTES:
            return None
        try:
            found, sender.shared_flight = await self.replicas.find(key, self._is_current)
        except BaseException:
            sender.end()
            raise
        if found is not None:
            self.cache.put(key, found, is_known=True)
            sender.tell(found)
        return found

    async def _answer(
        self, cached: CachedResponse, scope: Scope, headers: Mapping[bytes, bytes], send: Send, how: bytes = _HIT
    ) -> None:
        """Send a cached response. Nothing is wrapped around it: most responses are cached ones."""
        context = context_of(scope)
        context.facts.update(cached.facts)
        status, kept, body = _OK, cached.headers, cached.body
        known = headers.get(b"if-none-match")
        if known is not None and is_same(known.decode("latin-1"), cached.etag):
            status, body = _UNCHANGED, b""
            kept = tuple(pair for pair in kept if pair[0] not in _OF_BODY)
        sent = [*kept, *_added(context, status), (b"cache-status", how)]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        self.finish(scope, context, status, len(body))
        await send({"type": "http.response.body", "body": body})

    async def _is_current(self, response: CachedResponse) -> bool:
        for name, identity in response.versions:
            known = self._tables.known(name)
            if known is None:
                with suppress(StorageError):  # the application says what is wrong
                    await to_thread.run_sync(self._tables.newest, name)
                known = self._tables.known(name)
            if known != identity:
                return False
        return True

    def finish(self, scope: Scope, context: RequestContext, status: int, size: int) -> None:
        """Record a request that was answered."""
        self._admission.record(context, scope["method"], scope["path"], {"status": status, "bytes": size})


class _Sender:
    """Sends a response with the headers that all have, and keeps it if it may be cached."""

    def __init__(self, gate: Gate, scope: Scope, send: Send, context: RequestContext) -> None:
        self._gate = gate
        self._scope = scope
        self.send = send
        self._context = context
        self.client: ClientMessages | None = None
        self.key: Key | None = None
        self.shared_flight: SharedFlight | None = None
        self._is_admitted = False
        self.time = ProcessorTime()
        self._status = 0
        self._size = 0
        self._is_recorded = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: bytes | None = None
        self._flights: _Flights = {}
        self._flight: asyncio.Future[CachedResponse | None] | None = None

    def leads(self, key: Key, flights: _Flights) -> bool:
        """Tell equal requests what this one is answered; return false if another one does that already."""
        self.key = key
        loop = asyncio.get_running_loop()
        if (id(loop), key) not in flights:
            self._flights, self._flight = flights, loop.create_future()
            flights[id(loop), key] = self._flight
        return self._flight is not None

    def tell(self, response: CachedResponse | None) -> None:
        """Tell those that wait what the response is, or that there is none for them."""
        if self.shared_flight is not None:
            self.shared_flight.end(response, is_admitted=self._is_admitted)
            self.shared_flight = None
        if self._flight is not None and not self._flight.done():
            self._flight.set_result(response)
            self._flights.pop((id(self._flight.get_loop()), self.key or ()), None)

    def end(self) -> None:
        """Record a response that was not sent to its end, because the client has left or does not read."""
        self.tell(None)
        if not self._is_recorded:
            self._context.facts["is_cut"] = True
            self._record()

    def _record(self) -> None:
        self._is_recorded = True
        if self.client is not None and self.client.has_left:
            self._context.facts["is_cut"] = True
        self._gate.finish(self._scope, self._context, self._status, self._size)

    @property
    def has_begun(self) -> bool:
        """Whether the client has got the status."""
        return self._status > 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._headers = list(message.get("headers", []))
            if self._status != _OK or not self._context.is_cacheable:
                self.tell(None)
            await self.send({**message, "headers": [*self._headers, *_added(self._context, self._status)]})
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        self._size += len(body)
        if not more:
            self._body = body if self._size == len(body) else None
            self._keep()
            self._record()
        with fail_after(_SENT_WITHIN_S):  # a client that does not read ends its own response, and holds up no other
            await self.send(message)

    def _keep(self) -> None:
        context = self._context
        if self.key is None or not context.is_cacheable or self._status != _OK or self._body is None:
            return
        facts = tuple(context.facts.items())
        response = CachedResponse(tuple(self._headers), self._body, context.etag, context.versions, facts)
        self._is_admitted = self._gate.cache.put(self.key, response)
        if self._gate.replicas is not None:
            self._gate.replicas.note(self.key, self.time.seconds)
        self.tell(response)


def _added(context: RequestContext, status: int) -> list[tuple[bytes, bytes]]:
    """Return the headers that all responses have."""
    added, allowance = [(b"x-request-id", context.request_id.encode()), *_SECURITY], context.allowance
    if status == _TOO_MANY:
        wait_s = 0.0 if allowance is None else allowance.retry_after_s
        added.append((b"retry-after", b"%d" % max(1, ceil(wait_s))))
    if allowance is not None:
        states = [f'"{each.name}";r={each.remaining};t={max(1, ceil(each.reset_s))}' for each in allowance.states]
        added.append((b"ratelimit", ", ".join(states).encode()))
    return added


def _headers(scope: Scope) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    repeated: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        if name in headers:
            repeated.setdefault(name, [headers[name]]).append(value)
        else:
            headers[name] = value
    headers.update((name, b", ".join(values)) for name, values in repeated.items())
    if b"authorization" in repeated:
        headers[b"authorization"] = b"several"  # refused: which one another server looked at is not known
    return headers
