"""New versions of tables as events: which they are, how they are sent, and how many callers may wait for them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from anyio import sleep, to_thread
from starlette.requests import HTTPConnection

from pipeline.core.errors import HeadwaterError, StorageError
from pipeline.lake import Version
from serve.access.admission import Admission
from serve.access.caller import Caller
from serve.access.gate import context_of
from serve.access.sessions import BrowserSessions, SignedIn
from serve.backend import Backend
from serve.http_errors import TooManyError, UnauthenticatedError
from serve.tables import Tables, identity_of

_LOG = logging.getLogger("headwater.serve")
EVERY_S = 1.0
"""How often a table is looked at, and the caller checked again, in seconds."""
MOST_OPEN, MOST_OF_A_CALLER = 1_000, 50
_BEAT_S = 10.0
_BEAT = b":\n\n"
"""A comment, because proxies close connections on which nothing is sent."""


class OpenSubscriptions:
    """How many subscriptions are open. Used by the event loop only."""

    def __init__(self) -> None:
        """Begin with none."""
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, caller: Caller, address: str) -> Iterator[None]:
        """Count one more while it is open; raise `TooManyError` if there are too many."""
        name = f"address {address}" if caller.is_anonymous else f"{caller.kind} {caller.id}"
        if self._open[name] >= MOST_OF_A_CALLER or self._open.total() >= MOST_OPEN:
            raise TooManyError("there are too many subscriptions", do="end some")
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


async def new_versions(tables: Tables, table: str, known: frozenset[int | None]) -> AsyncIterator[Version | None]:
    """Yield each new version of a table, and `None` whenever there is none, once in `EVERY_S`.

    The first is the newest version now, unless its number is `known`; with `None` among these, it is known whatever its number is.
    Ends when the server does.
    """
    told: str | None = None
    while not tables.is_draining:
        version = await _changed(tables, table, told)
        if version is not None:
            is_first, told = told is None, identity_of(version)
            yield None if is_first and not known.isdisjoint({None, version.number}) else version
        else:
            yield None
        await sleep(EVERY_S)


async def _changed(tables: Tables, table: str, told: str | None) -> Version | None:
    """Return the newest version, or `None` if it is the one that was told, or cannot be read now."""
    if told is not None and tables.known(table) == told:
        return None
    try:
        version = await to_thread.run_sync(tables.newest, table)
    except StorageError as error:
        _LOG.warning("the versions of %s cannot be read: %s", table, error)
        return None  # they are told when they can be read again
    return None if version is None or identity_of(version) == told else version


async def event_stream(
    backend: Backend,
    subscriptions: OpenSubscriptions,
    request: HTTPConnection,
    events: AsyncIterator[bytes | None],
    failed: Callable[[HeadwaterError], bytes],
) -> AsyncIterator[bytes]:
    """Yield events as they come, and comments while there are none, as long as the key, token or session of the caller is valid.

    The last event is what `failed` returns for the error that ends the stream, such as one of too many subscriptions.
    """
    context, address, authorization = (
        context_of(request.scope),
        address_of(request),
        request.headers.get("authorization"),
    )
    try:
        with subscriptions.one(context.caller, address):
            quiet = _BEAT_S
            async for event in events:
                await caller_of(backend.admission, authorization, address)
                await _require_session(backend.sessions, context.session)
                quiet += EVERY_S
                if event is not None:
                    yield event
                elif quiet > _BEAT_S:
                    yield _BEAT
                    quiet = 0.0
    except HeadwaterError as error:
        yield failed(error)


def address_of(connection: HTTPConnection) -> str:
    """Return the address of a client; empty if it is not known."""
    return str((connection.scope.get("client") or ("",))[0])


async def _require_session(sessions: BrowserSessions, signed_in: SignedIn | None) -> None:
    """Raise `UnauthenticatedError` if the session of a subscription, if it has one, has ended."""
    if signed_in is None or sessions.known(signed_in.token) is not None:
        return
    if await to_thread.run_sync(sessions.find, signed_in.token) is None:
        raise UnauthenticatedError("the session has ended", do="sign in again")


async def caller_of(admission: Admission, authorization: str | None, address: str) -> Caller:
    """Return the caller of a subscription as it is known now; raise `HttpError` if its key or token is not valid."""
    admission.require_record()
    known = admission.known(authorization, address)
    if known is not None:
        return known
    return await to_thread.run_sync(admission.caller, authorization, address)
