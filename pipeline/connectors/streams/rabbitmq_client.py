"""A client of RabbitMQ's stream protocol that reads: what streams contain, and ranges of their messages."""

from __future__ import annotations

import secrets
import socket
import ssl
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from pipeline.connectors.certificates import untrusted
from pipeline.connectors.streams import rabbitmq_frames as protocol
from pipeline.connectors.streams.rabbitmq_frames import Chunk, FrameError, StreamLeader
from pipeline.core.clients import message_of
from pipeline.core.errors import Place, SourceError, SourceUnavailableError

_TIMEOUT_S = 30.0
_MOST_FRAME_BYTES = 64 << 20
_CREDIT = 16
"""Number of chunks that the server sends ahead."""
_ASK_AGAIN_S = 0.02
_MARKER_ATTEMPTS = 50


@dataclass(frozen=True)
class RabbitServer:
    """Where a server is, and the user."""

    host: str
    port: int
    vhost: str
    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = None


class StreamClient:
    """Reads streams of one cluster: from the brokers that lead them. Connected at the first request; thread-safe."""

    def __init__(self, server: RabbitServer, place: Place) -> None:
        """Configure the client; `place` is shown in errors."""
        self._server, self._place = server, place
        self._connections: dict[tuple[str, int], _Connection] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._connections)

    def close(self) -> None:
        """End the connections."""
        _close(self._connections)

    def first(self, name: str) -> Chunk | None:
        """Return the first messages of a stream; `None` if it is empty. Raises `SourceError` if it does not exist."""
        return self._peek(name, protocol.FIRST)

    def last(self, name: str) -> Chunk | None:
        """Return the last messages of a stream; `None` if it is empty."""
        return self._peek(name, protocol.LAST)

    def at_offset(self, name: str, offset: int) -> Chunk | None:
        """Return the messages among which an offset is, or the first ones after it; `None` if there are none."""
        return self._peek(name, protocol.OFFSET, struct.pack(">Q", offset))

    def at_time(self, name: str, moment_ms: int) -> Chunk | None:
        """Return the first messages that were written at or after a time; `None` if there are none."""
        return self._peek(name, protocol.TIMESTAMP, struct.pack(">q", moment_ms))

    def marker(self, name: str, reference: str) -> str:
        """Return the number that is stored in a stream as the offset of a reference; a random one is stored if there is none."""
        with self._connected(name) as connection:
            for _ in range(_MARKER_ATTEMPTS):
                stored = connection.stored_offset(name, reference)
                if stored is not None:
                    return str(stored)
                connection.store_offset(name, reference, secrets.randbits(62) | 1 << 62)
                time.sleep(_ASK_AGAIN_S)
            raise SourceError(f"no offset can be stored in the stream {name!r}", place=self._place)

    def chunks(self, name: str, begin: int, end: int) -> Iterator[Chunk]:
        """Yield the messages of a range in order, with those that were written together with its first and its last."""
        with self._connected(name) as connection:
            subscription = connection.subscribe(name, protocol.OFFSET, struct.pack(">Q", begin), _CREDIT)
            try:
                while True:
                    chunk = connection.delivery(subscription)
                    if chunk is not None:
                        yield chunk
                        if chunk.end >= end:
                            return
                    connection.credit(subscription)
            finally:
                connection.unsubscribe(subscription)

    def _peek(self, name: str, kind: int, value: bytes = b"") -> Chunk | None:
        with self._connected(name) as connection:
            subscription = connection.subscribe(name, kind, value, 1)
            try:
                is_asked_again = False
                while True:
                    # the server delivers what there is before it answers the next request
                    connection.leader(name)
                    delivered, chunk = connection.delivered(subscription)
                    if chunk is not None:
                        return chunk
                    if delivered:
                        connection.credit(subscription)
                    elif is_asked_again:
                        return None
                    else:
                        is_asked_again = True
                        time.sleep(_ASK_AGAIN_S)
            finally:
                connection.unsubscribe(subscription)

    @contextmanager
    def _connected(self, name: str) -> Iterator[_Connection]:
        """Yield a connection to the leader of a stream."""
        with self._lock:
            try:
                own = (self._server.host, self._server.port)
                leader = self._connection(own).leader(name)
                yield self._connection(own if leader.brokers == 1 else (leader.host, leader.port))
            except FrameError as error:
                self.close()
                raise SourceError("the stream cannot be read", got=str(error), place=self._place) from error
            except (OSError, struct.error) as error:
                self.close()
                if (untrusted_server := untrusted(error, self._place)) is not None:
                    raise untrusted_server from error
                problem, do = "the RabbitMQ server does not answer", "check url=, and that rabbitmq_stream is enabled"
                got = message_of(error) or type(error).__name__
                raise SourceUnavailableError(problem, got=got, do=do, place=self._place) from error
            except BaseException:
                self.close()  # a delivery may still be under way
                raise

    def _connection(self, address: tuple[str, int]) -> _Connection:
        if address not in self._connections:
            self._connections[address] = _Connection(self._server, address, self._place)
        return self._connections[address]


def _close(connections: dict[tuple[str, int], _Connection]) -> None:
    for connection in connections.values():
        connection.close()
    connections.clear()


class _Connection:
    """One connection of a user."""

    def __init__(self, server: RabbitServer, address: tuple[str, int], place: Place) -> None:
        self._place = place
        raw = socket.create_connection(address, _TIMEOUT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket = raw if server.tls is None else server.tls.wrap_socket(raw, server_hostname=address[0])
            self._stream = self._socket.makefile("rb")
        except BaseException:
            raw.close()
            raise
        self._correlation, self._subscription = 0, 0
        self._deliveries: deque[tuple[int, bytes]] = deque()
        try:
            self._log_in(server)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(OSError):
            self._stream.close()
        with suppress(OSError):
            self._socket.close()

    def _log_in(self, server: RabbitServer) -> None:
        self._ask(protocol.PEER_PROPERTIES, protocol.properties({"product": "Headwater"}))
        self._ask(protocol.SASL_HANDSHAKE, b"")
        words = f"\0{server.user}\0{server.password}".encode()
        opaque = protocol.text("PLAIN") + struct.pack(">i", len(words)) + words
        self._require(self._ask(protocol.SASL_AUTHENTICATE, opaque)[0], server.user)
        while (received := self._frame())[0] != protocol.TUNE:
            pass
        self._socket.sendall(protocol.frame(protocol.TUNE, struct.pack(">II", _MOST_FRAME_BYTES, 0)))
        self._require(self._ask(protocol.OPEN, protocol.text(server.vhost))[0], server.vhost)
        del received

    def leader(self, name: str) -> StreamLeader:
        """Return where a stream is; raise `SourceError` if it does not exist."""
        _, content = self._ask(protocol.METADATA, protocol.texts([name]), has_code=False)
        code, found = protocol.leader(content)
        if code == protocol.STREAM_UNAVAILABLE or (code == protocol.OK and found is None):
            problem, do = f"the stream {name!r} has no leader now", "wait, or check the nodes of the cluster"
            raise SourceUnavailableError(problem, do=do, place=self._place)
        if code != protocol.OK or found is None:
            self._require(code, name)
            raise SourceError(f"the stream {name!r} does not exist", got=f"code {code}", place=self._place)
        return found

    def stored_offset(self, name: str, reference: str) -> int | None:
        code, content = self._ask(protocol.QUERY_OFFSET, protocol.text(reference) + protocol.text(name))
        self._require(code, name)
        return struct.unpack_from(">Q", content)[0] if code == protocol.OK else None

    def store_offset(self, name: str, reference: str, offset: int) -> None:
        stored = protocol.text(reference) + protocol.text(name) + struct.pack(">Q", offset)
        self._socket.sendall(protocol.frame(protocol.STORE_OFFSET, stored))

    def subscribe(self, name: str, kind: int, value: bytes, credit: int) -> int:
        self._subscription = (self._subscription + 1) % 256
        self._deliveries.clear()
        start = struct.pack(">B", self._subscription) + protocol.text(name) + struct.pack(">H", kind) + value
        code, _ = self._ask(protocol.SUBSCRIBE, start + struct.pack(">Hi", credit, 0))
        if code != protocol.OK:
            self._require(code, name)
            raise SourceError(f"the stream {name!r} cannot be read", got=f"code {code}", place=self._place)
        return self._subscription

    def unsubscribe(self, subscription: int) -> None:
        with suppress(OSError, struct.error):  # the connection may have ended
            self._ask(protocol.UNSUBSCRIBE, struct.pack(">B", subscription))
        self._deliveries.clear()

    def credit(self, subscription: int) -> None:
        self._socket.sendall(protocol.frame(protocol.CREDIT, struct.pack(">BH", subscription, 1)))

    def delivery(self, subscription: int) -> Chunk | None:
        """Wait for messages; `None` if what was delivered has none of users."""
        while True:
            while self._deliveries:
                whose, content = self._deliveries.popleft()
                if whose == subscription:
                    return protocol.chunk(content)
            self._frame()

    def delivered(self, subscription: int) -> tuple[bool, Chunk | None]:
        """Return whether something was delivered, and its messages."""
        return (True, self.delivery(subscription)) if self._deliveries else (False, None)

    def _require(self, code: int, what: str) -> None:
        if code in protocol.REFUSED:
            got, do = f"{protocol.REFUSED[code]} ({what})", "check user=, password= and the permissions"
            raise SourceError("RabbitMQ refuses the user", got=got, do=do, place=self._place)

    def _ask(self, key: int, content: bytes, *, has_code: bool = True) -> tuple[int, bytes]:
        """Send a request, and return the code and the content of its answer."""
        self._correlation += 1
        self._socket.sendall(protocol.frame(key, content, self._correlation))
        while True:
            got, answer = self._frame()
            if got == protocol.RESPONSE | key and struct.unpack_from(">I", answer)[0] == self._correlation:
                code = struct.unpack_from(">H", answer, 4)[0] if has_code else protocol.OK
                return code, answer[6 if has_code else 4 :]

    def _frame(self) -> tuple[int, bytes]:
        """Receive a frame, and return its key and its content; deliveries are kept."""
        (size,) = struct.unpack(">I", self._bytes(4))
        if size > _MOST_FRAME_BYTES:
            raise FrameError(f"a frame of {size:,} bytes")
        received = self._bytes(size)
        key, _ = struct.unpack_from(">HH", received)
        if key == protocol.DELIVER:
            self._deliveries.append((received[4], received[5:]))
        if key == protocol.CLOSE:
            raise ConnectionError("the server closed the connection")
        return key, received[4:]

    def _bytes(self, size: int) -> bytes:
        content = self._stream.read(size)
        if len(content) < size:
            raise ConnectionError("the server closed the connection")
        return content
