"""Requests to a Redis or Valkey server about streams, and the positions of entries, which their ids do not show."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.connectors.certificates import untrusted
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of

with imports_of("redis", "a Redis stream"):
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.exceptions import (
        AuthenticationError,
        BusyLoadingError,
        ConnectionError,  # noqa: A004 - the library's name
        NoPermissionError,
        RedisError,
        ResponseError,
        TimeoutError,  # noqa: A004 - likewise
    )
    from redis.retry import Retry

PAGE = 5_000
"""Number of entries per request."""
_TIMEOUT_S = 30
_KEYS = 10_000
"""Number of keys that are looked at per request."""
_MOST_KNOWN = 4096
_NONE = b"0-0"

Entry = tuple[bytes, list[bytes]]
"""An id, and the names and values of the fields in turn."""


@dataclass(frozen=True)
class StreamInfo:
    """What a stream contains: entry number `begin` has `first_id`, and entry number `end - 1` has `last_id`."""

    begin: int
    end: int
    first_id: bytes
    last_id: bytes


class RedisClient:
    """A client of one server, connected at the first request. Thread-safe."""

    def __init__(self, url: str, options: Mapping[str, Any], place: Place) -> None:
        """Configure the client; `place` is shown in errors."""
        self._place = place
        self._redis = Redis.from_url(
            url,
            **options,
            protocol=2,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S // 3,
            retry=Retry(NoBackoff(), 0),
        )
        self._redis.response_callbacks.clear()
        self._known: dict[str, dict[int, bytes]] = {}
        """Ids of some entries by their number, for each stream."""
        self._lock = threading.Lock()

    def close(self) -> None:
        """End the connection."""
        self._redis.close()

    def info(self, name: str) -> StreamInfo:
        """Return what a stream contains.

        Raises `SourceError` if it does not exist, or if single entries were deleted: the others then have no numbers.
        """
        raw = self._ask("XINFO", "STREAM", name)
        fields = dict(zip(raw[::2], raw[1::2], strict=True))
        place = Place(f"redis://{name}")
        if b"entries-added" not in fields:
            raise SourceError(
                "the server does not count the entries of streams", do="use Redis 7 or later", place=place
            )
        end, length = int(fields[b"entries-added"]), int(fields[b"length"])
        first, last = fields[b"first-entry"], fields[b"last-entry"]
        deleted = fields[b"max-deleted-entry-id"]
        if first and _number(deleted) >= _number(first[0]):
            raise SourceError(
                "single entries of the stream were deleted, so the positions of the others are not known",
                got=f"XDEL of {deleted.decode()}, and the stream begins at {first[0].decode()}",
                do="trim the stream beyond it (XTRIM … MINID), and do not use XDEL",
                place=place,
            )
        return StreamInfo(end - length, end, first[0] if first else _NONE, last[0] if last else _NONE)

    def stream_names(self, most: int) -> list[str]:
        """Return the names of the streams of the database; of more than `most`, at least as many."""
        names: set[bytes] = set()
        at = b"0"
        while len(names) < most:
            at, page = self._ask("SCAN", at, "TYPE", "stream", "COUNT", _KEYS)
            names.update(page)
            if at == b"0":
                break
        return [name.decode(errors="replace") for name in names]

    def marker(self, name: str, prefix: str) -> str:
        """Return the name of the consumer group that identifies a stream, which is created if there is none."""
        for _ in range(2):
            groups = self._ask("XINFO", "GROUPS", name)
            names = sorted(dict(zip(each[::2], each[1::2], strict=True))[b"name"].decode() for each in groups)
            found = next((each for each in names if each.startswith(f"{prefix}-")), None)
            if found is not None:
                break
            found = f"{prefix}-{secrets.token_hex(8)}"
            self._ask("XGROUP", "CREATE", name, found, "$")
        return str(found)

    def exists(self, name: str, entry: bytes) -> bool:
        """Return whether a stream has an entry with this id."""
        return bool(self._ask("XRANGE", name, entry, entry))

    def entries(self, name: str, info: StreamInfo, begin: int, end: int) -> Iterator[list[Entry]]:
        """Yield the entries with these numbers in order, which must be within `info`, one page after the other."""
        after = b"-" if begin == info.begin else b"(" + self._seek(name, info, begin - 1)
        at = begin
        while at < end:
            page = self._ask("XRANGE", name, after, "+", "COUNT", min(PAGE, end - at))
            if not page:
                return
            at += len(page)
            after = b"(" + page[-1][0]
            self._remember(name, at - 1, page[-1][0])
            yield page

    def number_of_first_after(self, name: str, info: StreamInfo, entry: bytes) -> int:
        """Return the number of the first entry whose id is not less than this one, counted from the end."""
        count, after = 0, entry
        while page := self._ask("XRANGE", name, after, info.last_id, "COUNT", PAGE):
            count += len(page)
            after = b"(" + page[-1][0]
        return info.end - count

    def known_id(self, name: str, number: int) -> bytes | None:
        """Return the id of an entry, if this client has read it and still remembers it."""
        return self._known.get(name, {}).get(number)

    def _seek(self, name: str, info: StreamInfo, number: int) -> bytes:
        """Return the id of an entry, from the nearest one whose number is known."""
        known = dict(self._known.get(name, {}))
        if number in known:
            return known[number]
        within = {at: entry for at, entry in known.items() if info.begin <= at < info.end}
        anchors = {**within, info.begin: info.first_id, info.end - 1: info.last_id}
        at = min(anchors, key=lambda each: abs(each - number))
        entry = anchors[at]
        while at != number:
            count = min(PAGE, abs(number - at))
            if at < number:
                page = self._ask("XRANGE", name, b"(" + entry, "+", "COUNT", count)
            else:
                page = self._ask("XREVRANGE", name, b"(" + entry, "-", "COUNT", count)
            if not page:
                raise SourceError("the stream changed while it was read", do="run it again", place=self._place)
            at += len(page) if at < number else -len(page)
            entry = page[-1][0]
            self._remember(name, at, entry)
        return entry

    def _remember(self, name: str, number: int, entry: bytes) -> None:
        with self._lock:
            known = self._known.setdefault(name, {})
            known[number] = entry
            while len(known) > _MOST_KNOWN:
                del known[next(iter(known))]

    def forget(self, name: str) -> None:
        """Forget the ids of a stream."""
        self._known.pop(name, None)

    def _ask(self, *words: object) -> Any:
        with self._translated_errors(str(words[2] if words[0] in {"XINFO", "XGROUP"} else words[1])):
            return self._redis.execute_command(*words)  # type: ignore[no-untyped-call]

    @contextmanager
    def _translated_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except (AuthenticationError, NoPermissionError) as error:
            what, do = "the Redis server refuses the user", "check user= and password="
            raise SourceError(what, got=message_of(error), do=do, place=self._place) from error
        except (ConnectionError, TimeoutError, BusyLoadingError) as error:
            if (problem := untrusted(error, self._place)) is not None:
                raise problem from error
            what = "the Redis server does not answer"
            raise SourceUnavailableError(what, got=message_of(error), do="check url=", place=self._place) from error
        except ResponseError as error:
            text = message_of(error)
            if "no such key" in text:
                what = f"the stream {name!r} does not exist"
                raise SourceError(what, place=Place(f"redis://{name}")) from error
            if "NOAUTH" in text or "WRONGPASS" in text:
                what, do = "the Redis server refuses the user", "check user= and password="
                raise SourceError(what, got=text, do=do, place=self._place) from error
            raise SourceError("the stream cannot be read", got=text, place=Place(f"redis://{name}")) from error
        except RedisError as error:
            raise SourceError("the stream cannot be read", got=message_of(error), place=self._place) from error


def _number(entry: bytes) -> tuple[int, int]:
    """Return an id, of which the text is not in order."""
    first, _, second = entry.partition(b"-")
    return int(first), int(second)
