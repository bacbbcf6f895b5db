"""Requests to a NATS server, each of which waits for its answer. They run in an event loop with a thread of its own."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Coroutine
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError
from pipeline.core.extras import imports_of
from pipeline.core.sources import Extent

with imports_of("nats", "a NATS stream"):
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.errors import Error
    from nats.js import JetStreamContext
    from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
    from nats.js.errors import NotFoundError

T = TypeVar("T")
_TIMEOUT_S = 10
_CLOSE_S = 2.0
_TURN_S = 0.02
_BATCH = 1000


class NatsClient:
    """A client of one server, connected at the first request; its connection and its thread end with it."""

    def __init__(self, servers: str, user: str | None, password: str | None) -> None:
        """Start the thread."""
        self._place = Place(servers)
        self._session = _Session({"servers": servers.split(","), "user": user, "password": password})
        weakref.finalize(self, self._session.close)

    def extent(self, stream: str) -> Extent | None:
        """Return the sequences of a stream; `None` if it does not exist."""
        return self._answer(self._session.extent(stream))

    def stream_names(self, most: int) -> list[str]:
        """Return the names of the streams; of more than `most`, at least as many."""
        return self._answer(self._session.stream_names(most))

    def sequence_at(self, stream: str, time: datetime) -> int | None:
        """Return the sequence of the first message that was stored at or after a time; `None` if there is none."""
        start = {"deliver_policy": DeliverPolicy.BY_START_TIME, "opt_start_time": time.astimezone().isoformat()}
        messages = self._answer(self._session.fetch(stream, start, 1))
        return messages[0].metadata.sequence.stream if messages else None

    def messages(self, stream: str, begin: int, end: int, subject: str | None) -> list[Msg]:
        """Return the messages with `begin <= sequence < end`, in order; only those of a subject if it is given."""
        if begin >= end:
            return []
        start = {
            "deliver_policy": DeliverPolicy.BY_START_SEQUENCE,
            "opt_start_seq": max(begin, 1),
            "filter_subject": subject,
        }
        return self._answer(self._session.fetch(stream, start, end - begin, end))

    def _answer(self, request: Coroutine[Any, Any, T]) -> T:
        """Wait for the answer of a request; raise `SourceError` if the server refuses it or does not answer."""
        try:
            return asyncio.run_coroutine_threadsafe(request, self._session.loop).result(_TIMEOUT_S * 6)
        except (OSError, TimeoutError, Error) as error:
            text = message_of(error) or type(error).__name__
            if "uthoriz" in text or "ermission" in text:
                raise SourceError(
                    "the NATS server refuses the user", got=text, do="check user= and password=", place=self._place
                ) from error
            raise SourceUnavailableError(
                "the NATS server does not answer", got=text, do="check servers=", place=self._place
            ) from error


class _Session:
    """The event loop with its thread, the connection, and the requests."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self._options = options
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._work, name="headwater-nats", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self.loop.run_forever()
        finally:
            self.loop.close()

    async def extent(self, stream: str) -> Extent | None:
        try:
            info = await (await self._streams()).stream_info(stream)
        except NotFoundError:
            return None
        return Extent(info.state.first_seq or 1, info.state.last_seq + 1, str(info.created))

    async def stream_names(self, most: int) -> list[str]:
        streams, names = await self._streams(), list[str]()
        while len(names) < most and (page := await streams.streams_info(offset=len(names))):
            names += [str(each.config.name) for each in page]
        return names

    async def fetch(self, stream: str, start: dict[str, Any], most: int, end: int = 1 << 62) -> list[Msg]:
        """Return at most `most` messages from a start, before a sequence, by a consumer that is removed again."""
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, inactive_threshold=_TIMEOUT_S * 3, mem_storage=True, num_replicas=1, **start
        )
        subject = start.get("filter_subject") or ">"
        consumer = await (await self._streams()).pull_subscribe(subject, stream=stream, config=config)
        found: list[Msg] = []
        try:
            pending = (await consumer.consumer_info()).num_pending or 0
            while pending and len(found) < most:
                found += await consumer.fetch(min(_BATCH, pending, most - len(found)), timeout=_TIMEOUT_S)
                pending = found[-1].metadata.num_pending or 0
                if found[-1].metadata.sequence.stream >= end - 1:
                    break
        finally:
            await consumer.unsubscribe()
        return [message for message in found if message.metadata.sequence.stream < end]

    async def _streams(self) -> JetStreamContext:
        """Return the interface of streams, of a connected client."""
        if self._client is None or not self._client.is_connected:
            await self._disconnect()
            self._client = Client()  # also closed if it cannot connect
            await self._client.connect(
                **self._options,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=_TIMEOUT_S // 2,
                allow_reconnect=False,
                error_cb=_ignore,
            )
        return self._client.jetstream(timeout=_TIMEOUT_S)

    async def _disconnect(self) -> None:
        if self._client is None:
            return
        with suppress(Exception):  # the server may have closed the connection
            await self._client.close()
        await asyncio.sleep(_TURN_S)  # the loop closes the socket in a later turn
        self._client = None

    def close(self) -> None:
        """End the connection and the thread; possibly in this thread, if it collects garbage."""
        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self._end()))
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_S)

    async def _end(self) -> None:
        await self._disconnect()
        self.loop.stop()


async def _ignore(error: Exception) -> None:
    """Do not print errors of the connection; the next request raises them."""
    del error
