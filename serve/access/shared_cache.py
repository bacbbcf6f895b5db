"""Responses that the replicas of a project share: the second level, which is asked only when a replica does not have a response itself.

Its keys are those of `response_cache`, and what a project is now: another policy, metric or version of Headwater is another key. A response
is used only if a replica has written it, entirely, under this very key, and if its versions are the newest. Of equal requests to several
replicas, one computes the response, and the others wait for it, for a bounded time.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from serve.access.response_cache import MOST_ENTRY_BYTES, CachedResponse, Key
from serve.access.shared_server import SharedScript, SharedServer, SharedServerError

_LOG = logging.getLogger("headwater.serve")
WAIT_S = 5.0
"""How long a replica waits for the response of another one, and after which nobody waits for a replica that was killed."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.1
_WANTED_S = 10
"""How long a response is kept that others wait for, but that nobody has asked for before."""
_MOST_HEAD_BYTES = 1 << 16
LEAST_S = 0.0015
"""How much of a processor a response takes at least that is worth the way to the server, which takes a third of that."""
_WEIGHT = 0.3
_MOST_FORMS = 4_096
_MOST_FORM = 500
_FOUND, _LEADS, _WAITS, _FAILED = 1, 2, 3, 0
_LOOK = SharedScript("""
local size = redis.call('STRLEN', KEYS[1])
if size > 0 and size <= tonumber(ARGV[3]) then
  local stored = redis.call('GET', KEYS[1])
  if redis.sha1hex(stored) ~= ARGV[4] then return {1, stored} end
end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return {2, ''} end
redis.call('SET', KEYS[3], '1', 'PX', ARGV[2])
return {3, ''}
""")
"""Return a response that is not the refused one, or take the lock, or wait for who has it."""
_STORE = SharedScript("""
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2], KEYS[3]) end
return 1
""")
_RELEASE = SharedScript("""
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then return 1 end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2], KEYS[3]) end
return 0
""")
"""Give the lock back; if there is a response and somebody waits for it, return 1 instead."""


class SharedCache:
    """The second level of responses. Thread-safe."""

    def __init__(self, server: SharedServer, deployment: str, kept_s: int) -> None:
        """Share with replicas of the same deployment; responses are removed after `kept_s` seconds."""
        self.server = server
        self._deployment = deployment
        self.kept_ms = kept_s * 1_000
        self._times: OrderedDict[str, float] = OrderedDict()
        """The seconds of a processor that responses to requests of a form took lately."""
        self._lock = threading.Lock()
        self.hits = self.misses = 0
        self.rejected = 0
        """How many responses were found that no replica has written so."""

    async def find(
        self, key: Key, is_current: Callable[[CachedResponse], Awaitable[bool]]
    ) -> tuple[CachedResponse | None, SharedFlight | None]:
        """Return the response of a key, or the lock of who computes it now.

        With neither, the server does not answer, another replica takes too long, or such responses are computed as quickly as they are found.
        """
        if not self.server.is_up or self._times.get(_form(key), LEAST_S) < LEAST_S:
            return None, None
        name = self.server.name("response", self._deployment, *key)
        names = (name, name + b":lock", name + b":wanted")
        flight = SharedFlight(self, names, secrets.token_hex(16))
        try:
            return await self._found(flight, is_current)
        except BaseException:  # the request is cancelled
            flight.end(None)
            raise

    def note(self, key: Key, seconds: float) -> None:
        """Note how much of a processor it took to compute the response of a key."""
        form = _form(key)
        with self._lock:
            before = self._times.pop(form, seconds)
            self._times[form] = before + _WEIGHT * (seconds - before)
            if len(self._times) > _MOST_FORMS:
                self._times.popitem(last=False)

    async def _found(
        self, flight: SharedFlight, is_current: Callable[[CachedResponse], Awaitable[bool]]
    ) -> tuple[CachedResponse | None, SharedFlight | None]:
        loop, ends_at, pause_s, refused = asyncio.get_running_loop(), time.monotonic() + WAIT_S, _FIRST_PAUSE_S, ""
        while time.monotonic() < ends_at:
            look = partial(self._look, flight, refused)
            state, response, digest = await loop.run_in_executor(self.server.executor, look)
            if state == _FOUND and response is not None and await is_current(response):
                self.hits += 1
                return response, None
            if state == _FOUND:
                refused = digest
                continue
            if state == _LEADS:
                self.misses += 1
                return None, flight
            if state == _FAILED:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        self.misses += 1
        return None, None

    def _look(self, flight: SharedFlight, refused: str) -> tuple[int, CachedResponse | None, str]:
        try:
            values = (flight.token, int(WAIT_S * 1_000), MOST_ENTRY_BYTES + _MOST_HEAD_BYTES, refused)
            state, stored = self.server.run(_LOOK, flight.names, values)
        except SharedServerError:
            return _FAILED, None, ""
        if state != _FOUND:
            return state, None, ""
        content = self.server.opened(flight.names[0], stored)
        if content is None:
            self.rejected += 1
            _LOG.warning("a response in the Redis server was not written by a replica, and is not used")
        digest = hashlib.sha1(stored, usedforsecurity=False).hexdigest()
        return _FOUND, None if content is None else _unpacked(content), digest


@dataclass(frozen=True)
class SharedFlight:
    """The lock of a replica that computes a response."""

    cache: SharedCache
    names: tuple[bytes, ...]
    """Those of the response, of the lock, and of the note that somebody waits for it."""
    token: str

    def end(self, response: CachedResponse | None, *, is_admitted: bool = False) -> None:
        """Hand out the response, if it may be shared; never waits. It is kept if it is admitted, otherwise only for those that wait now."""
        if response is not None and (not response.versions or len(response.body) > MOST_ENTRY_BYTES):
            response = None  # without versions it would stay after they are removed
        self.cache.server.submit(partial(self._end, response, is_admitted=is_admitted and response is not None))

    def _end(self, response: CachedResponse | None, *, is_admitted: bool) -> None:
        server = self.cache.server
        if not is_admitted and not server.run(_RELEASE, self.names, (self.token, int(response is not None))):
            return
        if response is not None:
            kept_ms = self.cache.kept_ms if is_admitted else min(self.cache.kept_ms, _WANTED_S * 1_000)
            content = server.sealed(self.names[0], _packed(response))
            server.run(_STORE, self.names, (self.token, content, kept_ms))


def _form(key: Key) -> str:
    """Return what requests have in common that differ in their values only: for texts of queries all but the numbers, otherwise the names of parameters."""
    _, _, path, query, *_ = key
    if path.startswith(("/v1/query", "/v1/graphql")):
        return path + re.sub(r"\d+", "0", query)[:_MOST_FORM]
    return path + "?" + "&".join(part.partition("=")[0] for part in query.split("&"))[:_MOST_FORM]


def _packed(response: CachedResponse) -> bytes:
    head = {
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in response.headers],
        "etag": response.etag,
        "versions": response.versions,
        "facts": response.facts,
    }
    text = json.dumps(head).encode()
    return len(text).to_bytes(4, "big") + text + response.body


def _unpacked(content: bytes) -> CachedResponse:
    begin = 4 + int.from_bytes(content[:4], "big")
    head = json.loads(content[4:begin])
    return CachedResponse(
        headers=tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]),
        body=content[begin:],
        etag=head["etag"],
        versions=tuple((table, identity) for table, identity in head["versions"]),
        facts=tuple((name, value) for name, value in head["facts"]),
    )
