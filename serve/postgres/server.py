"""A server of PostgreSQL's protocol beside the HTTP endpoints: the same keys, policies, limits and audit log."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline.core.errors import HeadwaterError
from serve.backend import Backend
from serve.http_errors import UnauthenticatedError
from serve.postgres import messages
from serve.postgres.catalog import PostgresCatalog
from serve.postgres.catalog_tables import VERSION
from serve.postgres.errors import PostgresError, parts_of
from serve.postgres.messages import MessageReader
from serve.postgres.results import PostgresResults
from serve.postgres.session import DriverSession
from serve.postgres.settings import PostgresSettings
from serve.postgres.statements import SessionFacts
from serve.queries.values import shown
from serve.tls import TlsFiles

_LOG = logging.getLogger("headwater.serve")
_STARTS_WITHIN_S, _SENDS_WITHIN_S, _IDLE_S = 15.0, 60.0, 3_600.0
_LOOKS_S = 0.5
_MOST_CONNECTIONS = 200
_LONG_BYTES, _LEAST_STARTUP_BYTES = 4, 8
_HEAD = struct.Struct("!ci")


@dataclass(frozen=True)
class _Shared:
    """What the connections of a server have in common."""

    backend: Backend
    catalog: PostgresCatalog
    tls: ssl.SSLContext | None
    sessions: dict[tuple[int, int], DriverSession] = field(default_factory=dict)
    """By the process and secret that a driver is told, with which it can cancel a statement."""


class PostgresEndpoint:
    """Answers drivers of PostgreSQL on a port that other processes may listen on too, until `close`."""

    def __init__(self, backend: Backend, host: str, port: int, tls: TlsFiles | None = None) -> None:
        """Listen, with TLS if there are files for it; raise `OSError` if that is not possible. With port 0, the system chooses one."""
        catalog = PostgresCatalog(backend.reading, backend.project.settings.name)
        self._shared = _Shared(backend, catalog, None if tls is None else tls.context())
        self._connections: set[asyncio.Task[None]] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            self._socket.bind((host, port))
            self._socket.listen(128)
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._ended: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="postgres", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def is_alive(self) -> bool:
        """Whether it answers."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Accept no more connections, and end those that are open."""
        if self._loop is not None and self._ended is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)
        self._shared.catalog.close()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._socket, limit=messages.MOST_BYTES)
        self._started.set()
        await self._ended.wait()
        server.close()
        for session in list(self._shared.sessions.values()):
            session.cancel()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - this is one
        self._connections.add(task)
        try:
            await _Connection(self._shared, reader, writer).run(is_full=len(self._connections) > _MOST_CONNECTIONS)
        except (ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass  # the client has left, does not speak the protocol, or the server ends
        except Exception:  # noqa: BLE001 - one connection ends, and not the server
            _LOG.exception("a connection of PostgreSQL's protocol failed")
        finally:
            self._connections.discard(task)
            writer.close()


class _Connection:
    """One connection: how it starts, and its messages until it ends."""

    def __init__(self, shared: _Shared, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._shared = shared
        self._reader = reader
        self._writer = writer
        self._is_secure = False

    async def run(self, *, is_full: bool) -> None:
        async with asyncio.timeout(_STARTS_WITHIN_S):
            parameters = await self._start()
            if parameters is None:
                return
            if is_full:
                await self._refuse(PostgresError("53300", "there are too many connections", do="try again later"))
                return
            try:
                session, settings = await self._session(parameters)
            except HeadwaterError as error:
                await self._refuse(error)
                return
        key = (secrets.randbelow(1 << 31), secrets.randbelow(1 << 31))
        self._shared.sessions[key] = session
        try:
            told = [messages.parameter_status(name, value) for name, value in settings.reported().items()]
            await self._send(
                messages.message(b"R", struct.pack("!i", 0))
                + b"".join(told)
                + messages.message(b"K", struct.pack("!ii", *key))
            )
            await session.ready()
            await self._answer(session)
        finally:
            del self._shared.sessions[key]
            session.close()

    async def _answer(self, session: DriverSession) -> None:
        while True:
            async with asyncio.timeout(_IDLE_S):
                kind, content = await self._message()
            if kind == b"X":
                return
            task = asyncio.create_task(session.answer(kind, content))
            try:
                while not (await asyncio.wait((task,), timeout=_LOOKS_S))[0]:
                    if self._reader.at_eof():  # nobody waits for the answer
                        session.cancel()
            finally:
                if not task.done():  # this connection ends: the statement is interrupted before what it reads is closed
                    session.cancel()
                    await asyncio.wait((task,))
            await task

    async def _start(self) -> dict[str, str] | None:
        """Return the parameters of a new session, or `None` if there is none."""
        while True:
            size = int.from_bytes(await self._reader.readexactly(_LONG_BYTES), "big")
            if not _LEAST_STARTUP_BYTES <= size <= messages.MOST_STARTUP_BYTES:
                return None
            content = MessageReader(await self._reader.readexactly(size - _LONG_BYTES))
            code = content.long()
            if code == messages.CANCEL_REQUEST:
                session = self._shared.sessions.get((content.long(), content.long()))
                if session is not None:
                    session.cancel()
                return None
            if code in {messages.SSL_REQUEST, messages.GSS_REQUEST}:
                await self._secure(code)
                continue
            if code >> 16 != messages.PROTOCOL >> 16:
                await self._refuse(
                    PostgresError("08P01", "the version of the protocol is not supported", do="use version 3")
                )
                return None
            pairs: dict[str, str] = {}
            while not content.is_at_end and (name := content.text()):
                pairs[name] = content.text()
            extras = [name for name in pairs if name.startswith("_pq_.")]
            if code != messages.PROTOCOL or extras:
                named = b"".join(name.encode() + b"\0" for name in extras)
                await self._send(messages.message(b"v", struct.pack("!ii", 0, len(extras)) + named))
            return pairs

    async def _secure(self, code: int) -> None:
        """Begin TLS if that is asked for and there is a certificate."""
        tls = self._shared.tls
        if code != messages.SSL_REQUEST or tls is None or self._is_secure:
            await self._send(b"N")
            return
        if self._reader._buffer:  # type: ignore[attr-defined]  # noqa: SLF001 - the bytes would count as encrypted
            raise ConnectionError("bytes were sent before TLS began")
        await self._send(b"S")
        await self._writer.start_tls(tls)
        self._is_secure = True

    async def _session(self, parameters: dict[str, str]) -> tuple[DriverSession, PostgresSettings]:
        shared = self._shared
        if shared.tls is not None and not self._is_secure:
            raise PostgresError("28000", "the connection is not encrypted", do="connect with sslmode=require")
        await self._send(messages.message(b"R", struct.pack("!i", 3)))  # the password in clear text
        kind, content = await self._message()
        credential = MessageReader(content).text() if kind == b"p" else ""
        if not credential:
            raise UnauthenticatedError("a key or token is needed", do="send one as the password")
        database = shared.backend.project.settings.name
        if parameters.get("database", parameters.get("user", "")) not in {database, parameters.get("user", "")}:
            raise PostgresError(
                "3D000", f"there is no database {shown(parameters['database'][:100])}", do=f"this one is {database}"
            )
        address = self._writer.get_extra_info("peername")[0]
        results = PostgresResults(shared.backend, shared.catalog, credential, address)
        caller = await results.caller()
        settings = PostgresSettings(
            SessionFacts(database, caller.name or caller.id, f"PostgreSQL {VERSION} (Headwater)")
        )
        for name, value in parameters.items():
            with suppress(PostgresError):  # drivers send what they would like
                settings.set(name, value)
        return DriverSession(results, shared.catalog, settings, self._send), settings

    async def _message(self) -> tuple[bytes, bytes]:
        kind, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
        if not _LONG_BYTES <= size <= messages.MOST_BYTES:
            await self._refuse(PostgresError("08P01", f"the message is longer than {messages.MOST_BYTES} bytes"))
            raise ConnectionError(size)
        return kind, await self._reader.readexactly(size - _LONG_BYTES)

    async def _refuse(self, error: HeadwaterError) -> None:
        code, parts = parts_of(error)
        await self._send(messages.report(b"E", "FATAL", code, parts))

    async def _send(self, content: bytes) -> None:
        self._writer.write(content)
        async with asyncio.timeout(_SENDS_WITHIN_S):
            await self._writer.drain()
