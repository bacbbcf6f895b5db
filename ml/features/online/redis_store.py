"""An online store in Redis or Valkey: many readers and one writer a view, on several machines.

The state of each view is a string, and so is each value. All keys of a namespace have one hash tag, so they are in one slot of
a cluster and can be written in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

from ml.features.online.store import StoredValue, StoredValues, ViewState
from pipeline.core.clients import message_of
from pipeline.core.errors import ConflictError, SettingsError, StorageError, StorageUnavailableError
from pipeline.core.extras import imports_of

with imports_of("redis", "an online store in Redis"):
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        ConnectionError,  # noqa: A004 - the library's name
        RedisError,
        TimeoutError,  # noqa: A004 - likewise
        WatchError,
    )
    from redis.retry import Retry

MOST_KEYS = 10_000
"""The number of keys that one transaction writes; a larger change is marked as incomplete until its end."""
_TIMEOUT_S = 10
_PAGE = 1_000
_MARGIN_MS = 60_000
"""How much longer than its time to live a value is kept: clocks of servers differ."""


class RedisStore:
    """The views of one namespace, which is a project's environment."""

    def __init__(self, url: str, namespace: str) -> None:
        """Configure the store; it is connected at the first request. Raises `SettingsError` for an invalid URL."""
        try:
            self._redis = Redis.from_url(
                url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S, retry=Retry(NoBackoff(), 0)
            )
        except ValueError as error:
            do = "write redis://HOST:PORT/DATABASE, or rediss:// with TLS"
            raise SettingsError("`online` is not a URL of Redis", got=str(error), do=do) from error
        self._views = f"headwater:{{{namespace}}}:views".encode()
        self._namespace = namespace
        self._generations: dict[str, str] = {}
        """The generation of each view when it was last read."""

    def states(self) -> Mapping[str, ViewState]:
        """See `FeatureStore.states`."""
        with _translated():
            views = sorted(view.decode() for view in cast("set[bytes]", self._redis.smembers(self._views)))
            texts = cast("list[bytes | None]", self._redis.mget(self._state_names(views)) if views else [])
        return {view: ViewState.from_json(text) for view, text in zip(views, texts, strict=True) if text}

    def read(self, keys: Mapping[str, Sequence[bytes]]) -> Mapping[str, StoredValues]:
        """See `FeatureStore.read`. A second request is needed only if a view was loaded anew since the last read."""
        if not keys:
            return {}
        views = list(keys)
        while True:
            before = {view: self._generations.get(view, "") for view in views}
            with _translated():
                request = self._redis.pipeline(transaction=True)
                request.mget(self._state_names(views))
                names = [self._name(view, before[view], key) for view in views for key in keys[view]]
                if names:
                    request.mget(names)
                texts, *values = request.execute()
            states = {view: text and ViewState.from_json(text) for view, text in zip(views, texts, strict=True)}
            now = {view: state.generation if state else "" for view, state in states.items()}
            self._generations.update(now)
            if now == before:
                break
        flat = iter(values[0] if values else ())
        return {view: StoredValues(states[view] or None, [next(flat) for _ in keys[view]]) for view in views}

    def begin(self, view: str, based_on: ViewState | None, generation: str) -> RedisWriter:
        """See `FeatureStore.begin`. Raises `StorageError` if the server may evict keys."""
        with _translated():
            memory = self._redis.info("memory")
        policy = memory.get("maxmemory_policy", "noeviction")
        if memory.get("maxmemory") and policy != "noeviction":
            raise StorageError(
                "the Redis server removes keys when its memory is full, so features would be null without a reason",
                got=f"maxmemory-policy {policy}",
                do="set it to noeviction",
            )
        return RedisWriter(self, view, based_on, generation)

    def forget(self, view: str) -> None:
        """See `FeatureStore.forget`."""
        with _translated():
            self._redis.delete(*self._state_names([view]))
            self._redis.srem(self._views, view)
        self.remove(view, but="")

    def close(self) -> None:
        """See `FeatureStore.close`."""
        self._redis.close()

    def get(self, view: str, generation: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys in a generation."""
        with _translated():
            return cast("list[bytes | None]", self._redis.mget([self._name(view, generation, key) for key in keys]))

    def write(
        self,
        view: str,
        generation: str,
        values: Mapping[bytes, StoredValue | None],
        states: tuple[ViewState | None, ViewState | None],
    ) -> None:
        """Write values, and the second of the states if it is one, in one transaction.

        Raises `ConflictError` unless the view still has the first state.
        """
        expected, state = states
        names = {self._name(view, generation, key): value for key, value in values.items()}
        present = {name: each.value for name, each in names.items() if each is not None and each.life is None}
        gone = [name for name, each in names.items() if each is None]
        with _translated(), self._redis.pipeline(transaction=True) as request:
            state_name = self._state_names([view])[0]
            request.watch(state_name)  # type: ignore[no-untyped-call]
            text = cast("bytes | None", request.get(state_name))
            if (None if text is None else ViewState.from_json(text)) != expected:
                raise ConflictError("another process has written this view to the online store", do="run one writer")
            request.multi()
            if present:
                request.mset(cast("Any", present))
            for name, each in names.items():
                if each is not None and each.life is not None:
                    request.set(name, each.value, px=each.life // 1_000 + _MARGIN_MS)
            if gone:
                request.delete(*gone)
            if state is not None:
                request.set(state_name, state.to_json())
                request.sadd(self._views, view)
            request.execute()

    def remove(self, view: str, but: str) -> None:
        """Remove the values of all generations of a view but one."""
        prefix, kept = self._name(view, "", b"")[:-1], self._name(view, but, b"")
        pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\" else bytes([c]) for c in prefix)
        with _translated():
            page: list[bytes] = []
            for name in self._redis.scan_iter(pattern + b"*", count=_PAGE):
                if not but or not name.startswith(kept):
                    page.append(name)
                if len(page) >= _PAGE:
                    self._redis.unlink(*page)
                    page = []
            if page:
                self._redis.unlink(*page)

    def _state_names(self, views: Sequence[str]) -> list[bytes]:
        return [f"headwater:{{{self._namespace}}}:{view}".encode() for view in views]

    def _name(self, view: str, generation: str, key: bytes) -> bytes:
        return f"headwater:{{{self._namespace}}}:{view}:{generation}:".encode() + key


class RedisWriter:
    """See `Writer`. What is put is kept here until `commit`, or until it is too large for one transaction."""

    def __init__(self, store: RedisStore, view: str, based_on: ViewState | None, generation: str) -> None:
        """Create the writer; the generations of killed loads are removed when the view is loaded anew."""
        self._store, self._view, self._generation = store, view, generation
        self._current = based_on
        self._is_new = based_on is None or based_on.generation != generation
        self._values: dict[bytes, StoredValue | None] = {}
        if self._is_new:
            store.remove(view, but="" if based_on is None else based_on.generation)

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See `Writer.get`."""
        other = [key for key in keys if key not in self._values]
        stored = dict(zip(other, self._store.get(self._view, self._generation, other), strict=True)) if other else {}
        put = {key: None if each is None else each.value for key, each in self._values.items()}
        return [put[key] if key in put else stored[key] for key in keys]

    def put(self, values: Mapping[bytes, StoredValue | None]) -> None:
        """See `Writer.put`."""
        self._values.update(values)
        if len(self._values) >= MOST_KEYS:
            self._flush()

    def commit(self, state: ViewState) -> None:
        """See `Writer.commit`."""
        self._store.write(self._view, self._generation, self._values, (self._current, state))
        if self._is_new:
            self._store.remove(self._view, but=self._generation)

    def close(self) -> None:
        """See `Writer.close`."""
        self._values.clear()

    def _flush(self) -> None:
        """Write what was put so far; a generation that is shown has no position from now on, until `commit`."""
        marked = None if self._is_new or self._current is None else replace(self._current, position="")
        self._store.write(self._view, self._generation, self._values, (self._current, marked))
        self._current = marked or self._current
        self._values.clear()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except WatchError as error:
        raise ConflictError("another process has written to the online store meanwhile", do="run it again") from error
    except (ConnectionError, TimeoutError) as error:
        do = "check `online` in headwater.toml, and that the server runs"
        raise StorageUnavailableError("the online store does not answer", got=message_of(error), do=do) from error
    except RedisError as error:
        raise StorageError("the online store cannot be used", got=message_of(error), do="check the server") from error
