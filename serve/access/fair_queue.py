"""How many queries run at once: the others wait, and those of each caller take turns with those of the others."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

from serve.http_errors import AbandonedError, BusyError
from serve.queries.cancellation import CURRENT, Cancellation

T = TypeVar("T")


class CallerTurns(Generic[T]):
    """What waits, in the order of its turns: what each caller has added takes turns with what others have. Not thread-safe."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def add(self, caller: str, each: T) -> None:
        """Let something wait, behind what the caller has added before."""
        self._waiting.setdefault(caller, deque()).append(each)
        self._count += 1

    def next(self) -> T | None:
        """Return what is next, of the caller that waits longest for a turn, and let it wait no more; `None` if nothing waits."""
        if not self._waiting:
            return None
        caller, waiting = next(iter(self._waiting.items()))
        each = waiting.popleft()
        self._count -= 1
        del self._waiting[caller]
        if waiting:
            self._waiting[caller] = waiting  # behind the other callers
        return each

    def remove(self, caller: str, each: T) -> bool:
        """Let something wait no more; return whether it did."""
        waiting = self._waiting.get(caller, deque())
        if each not in waiting:
            return False
        waiting.remove(each)
        self._count -= 1
        if not waiting:
            del self._waiting[caller]
        return True


class FairQueue:
    """Turns of callers. Used by any number of event loops at once: each server of a replica has its own."""

    def __init__(self, at_once: int, most_waiting: int, patience_s: float) -> None:
        """Let so many run at once, and so many wait, each for so many seconds."""
        self._free = at_once
        self._most_waiting = most_waiting
        self._patience_s = patience_s
        self._turns: CallerTurns[asyncio.Future[None]] = CallerTurns()
        self._lock = threading.Lock()

    @property
    def is_crowded(self) -> bool:
        """Whether queries wait for their turn."""
        return len(self._turns) > 0

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait until it is a caller's turn; raise `BusyError` if too many wait, or if it takes too long.

        Raises `AbandonedError` if the client leaves meanwhile.
        """
        future = self._enter(caller)
        if future is not None:
            await self._granted(caller, future)
        try:
            yield
        finally:
            self._release()

    async def _granted(self, caller: str, future: asyncio.Future[None]) -> None:
        client = CURRENT.get() or Cancellation()
        is_granted = False
        try:
            with client.calling(future.cancel):
                await asyncio.wait((future,), timeout=self._patience_s)
            is_granted = future.done() and not future.cancelled() and not client.is_cancelled
        finally:
            if not is_granted:
                self._leave(caller, future)
        if client.is_cancelled:
            raise AbandonedError("the client has left")
        if not is_granted:
            raise _busy(f"more than {self._patience_s:g} s")

    def _enter(self, caller: str) -> asyncio.Future[None] | None:
        """Take a free place, or return what is done when there is one."""
        with self._lock:
            if self._free:
                self._free -= 1
                return None
            if len(self._turns) >= self._most_waiting:
                raise _busy(f"{len(self._turns)} queries")
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._turns.add(caller, future)
            return future

    def _leave(self, caller: str, future: asyncio.Future[None]) -> None:
        """Wait no longer; if it was the turn already, it is the next one's."""
        with self._lock:
            if self._turns.remove(caller, future):
                return
        self._release()

    def _release(self) -> None:
        """Give the place to the caller that waits longest for a turn."""
        with self._lock:
            future = self._turns.next()
            if future is None:
                self._free += 1
                return
        future.get_loop().call_soon_threadsafe(_grant, future)


def _grant(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _busy(got: str) -> BusyError:
    return BusyError("too many queries wait for their turn", got=got, do="try again after a second")
