"""A Redis or Valkey server by which the replicas of a project share limits, responses and news of versions.

Nothing depends on it: while it does not answer in time, it is not asked, and each replica goes on alone. Whoever can write to it can
neither hand out rows nor learn names of callers: names are HMACs, and what is read is checked with another one.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pipeline.core.clients import message_of
from pipeline.core.errors import SettingsError, StorageUnavailableError
from pipeline.core.extras import imports_of

with imports_of("redis", "a server whose replicas share limits and responses"):
    from redis import BlockingConnectionPool, Redis
    from redis.backoff import NoBackoff
    from redis.client import PubSub
    from redis.exceptions import NoScriptError, RedisError
    from redis.retry import Retry

_LOG = logging.getLogger("headwater.serve")
TIMEOUT_S = 0.1
"""How long a request waits for the server before it goes on without it."""
_CONNECTS_WITHIN_S = 0.5
_THREADS = 8
_MOST_WAITING = 256
_EVERY_S = 0.5
"""How often a server that did not answer is asked whether it does again."""
_CHECKED_EVERY_S = 5.0
_REMEMBERED_S = 20
_MAC_BYTES = 32
_CHECK = """
local known = redis.call('GET', KEYS[1])
if known and known ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
"""Return whether replicas that were seen lately have the same secret."""


class SharedServerError(Exception):
    """The server did not answer in time, or refused."""


@dataclass(frozen=True)
class SharedScript:
    """A script that the server runs as one step."""

    text: str

    @cached_property
    def digest(self) -> str:
        """By what the server knows it."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class SharedServer:
    """The server, as a replica sees it. Thread-safe."""

    def __init__(self, url: str, namespace: str, secret: bytes, *, timeout_s: float | None = None) -> None:
        """Configure the connections; the first request opens one. Replicas with the same namespace and secret share.

        Raises `SettingsError` for an invalid URL.
        """
        timeout_s = TIMEOUT_S if timeout_s is None else timeout_s
        options = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": max(timeout_s, _CONNECTS_WITHIN_S),
            "retry": Retry(NoBackoff(), 0),
        }
        if url.startswith("unix://"):
            del options["socket_connect_timeout"]
        try:
            self._pool = BlockingConnectionPool.from_url(
                url, max_connections=_THREADS + 2, timeout=timeout_s, protocol=2, **options
            )
        except ValueError as error:
            do = "write redis://HOST:PORT/DATABASE, rediss://… with TLS, or unix:///PATH"
            raise SettingsError("'serve.redis_url' is not a URL of Redis", got=str(error), do=do) from error
        self._redis = Redis(connection_pool=self._pool)
        self._prefix = f"headwater:{{{namespace}}}"  # the braces keep all keys in one slot of a cluster
        self._naming, self._sealing = (_derived(secret, purpose) for purpose in ("names", "contents"))
        self._handlers: dict[bytes, Callable[[bytes], None]] = {}
        self._closing = threading.Event()
        self._watching: threading.Thread | None = None
        self._waiting = 0
        self._lock = threading.Lock()
        self.executor = ThreadPoolExecutor(_THREADS, "shared")
        """Where event loops wait for the server."""
        self.is_up = True
        """Whether the last request was answered; while it is false, nothing waits for the server."""
        self.failures = 0
        """How many requests were not answered in time, or refused."""
        self.has_other_secret = False
        """Whether other replicas use another secret, with which nothing is shared."""

    def name(self, kind: str, *parts: str) -> bytes:
        """Return the name of what belongs to these parts, which does not show them."""
        digest = hmac.new(self._naming, repr((kind, parts)).encode(), hashlib.sha256).hexdigest()
        return f"{self._prefix}:{kind}:{digest[:40]}".encode()

    def sealed(self, name: bytes, content: bytes) -> bytes:
        """Return content with what shows that a replica wrote it, all of it, under this name."""
        return self._mac(name, content) + content

    def opened(self, name: bytes, stored: bytes) -> bytes | None:
        """Return content that `sealed` was given for this name; `None` for anything else."""
        mac, content = stored[:_MAC_BYTES], stored[_MAC_BYTES:]
        return content if hmac.compare_digest(mac, self._mac(name, content)) else None

    def run(self, script: SharedScript, names: Sequence[bytes], values: Sequence[object]) -> Any:
        """Return what a script returns. Raises `SharedServerError` if that takes too long, or fails; then the server is not asked for a while."""
        if not self.is_up:
            raise SharedServerError
        words = [len(names), *names, *values]
        try:
            return self._evaluated(script, words)
        except RedisError as error:
            self._fail(error)
            raise SharedServerError from error

    def publish(self, channel: str, message: bytes) -> None:
        """Tell the other replicas, if the server answers."""
        if self.is_up:
            try:
                self._redis.publish(self.name(channel).decode(), message)
            except RedisError as error:
                self._fail(error)

    def submit(self, job: Callable[[], object]) -> None:
        """Do what asks the server later, in a thread; if too much waits already, or the server does not answer, not at all."""
        with self._lock:
            if not self.is_up or self._waiting >= _MOST_WAITING or self._closing.is_set():
                return
            self._waiting += 1
        self.executor.submit(self._run, job)

    def watch(self, channel: str, handler: Callable[[bytes], None]) -> None:
        """Call `handler` with messages of a channel from now on, and find out when a server that did not answer does again."""
        self._handlers[self.name(channel)] = handler
        self._watching = threading.Thread(target=self._watch, name="shared", daemon=True)
        self._watching.start()

    def eviction(self) -> str:
        """Return what the server does when its memory is full: its policy, or an empty text if its memory has no limit.

        Raises `StorageUnavailableError` if it does not answer, or refuses.
        """
        try:
            memory = self._redis.info("memory")
        except RedisError as error:
            do = "check `serve.redis_url` in headwater.toml, and that the server runs"
            raise StorageUnavailableError("the Redis server does not answer", got=message_of(error), do=do) from error
        return str(memory["maxmemory_policy"]) if memory["maxmemory"] else ""

    def close(self) -> None:
        """End the connections."""
        self._closing.set()
        self.is_up = False
        self.executor.shutdown(wait=True, cancel_futures=True)
        if self._watching is not None:
            self._watching.join()
        self._redis.close()
        self._pool.disconnect()

    def _run(self, job: Callable[[], object]) -> None:
        try:
            with suppress(SharedServerError):
                job()
        finally:
            with self._lock:
                self._waiting -= 1

    def _evaluated(self, script: SharedScript, words: Sequence[object]) -> Any:
        try:
            return self._redis.execute_command("EVALSHA", script.digest, *words)  # type: ignore[no-untyped-call]
        except NoScriptError:
            return self._redis.execute_command("EVAL", script.text, *words)  # type: ignore[no-untyped-call]

    def _fail(self, error: RedisError) -> None:
        self.failures += 1
        if self.is_up:
            self.is_up = False
            _LOG.warning("the Redis server does not answer, replicas count and compute alone: %s", message_of(error))
            self._pool.disconnect(inuse_connections=False)

    def _watch(self) -> None:
        subscription: PubSub | None = None
        checked_at = 0.0
        while not self._closing.is_set():
            try:
                if subscription is None:
                    subscription = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
                    subscription.subscribe(*self._handlers)
                if not self.is_up or time.monotonic() - checked_at > _CHECKED_EVERY_S:
                    self._check()
                    checked_at = time.monotonic()
                self._receive(subscription.get_message(timeout=_EVERY_S))
            except (RedisError, OSError, ValueError) as error:
                self._fail(error if isinstance(error, RedisError) else RedisError(str(error)))
                if subscription is not None:
                    with suppress(RedisError, OSError):
                        subscription.close()
                    subscription = None
                self._closing.wait(_EVERY_S)
        if subscription is not None:
            with suppress(RedisError, OSError):
                subscription.close()

    def _check(self) -> None:
        fingerprint = hmac.new(self._naming, b"fingerprint", hashlib.sha256).hexdigest()
        is_same = self._evaluated(
            SharedScript(_CHECK), [1, f"{self._prefix}:secret".encode(), fingerprint, _REMEMBERED_S]
        )
        if not is_same and not self.has_other_secret:
            _LOG.warning("other replicas have another secret, so nothing is shared with them: set serve.redis_secret")
        self.has_other_secret = not is_same
        if not self.is_up and not self._closing.is_set():
            self.is_up = True
            _LOG.warning("the Redis server answers again")

    def _receive(self, message: dict[str, Any] | None) -> None:
        handler = None if message is None else self._handlers.get(message["channel"])
        if handler is not None and message is not None:
            handler(message["data"])

    def _mac(self, name: bytes, content: bytes) -> bytes:
        return hmac.new(self._sealing, name + b"\0" + content, hashlib.sha256).digest()


def _derived(secret: bytes, purpose: str) -> bytes:
    return hmac.new(secret, f"headwater shared {purpose} 1".encode(), hashlib.sha256).digest()
