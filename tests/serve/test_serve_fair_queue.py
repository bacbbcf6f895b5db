"""Queries of callers take turns, and those that wait are bounded."""

from __future__ import annotations

import asyncio
import threading

import pytest

from serve.access.fair_queue import FairQueue
from serve.http_errors import BusyError


def ran(callers, *, at_once=1, most=100, patience_s=10.0):
    """Let callers enter in this order while the first runs; return the order in which they ran."""
    order = []
    queue = FairQueue(at_once, most, patience_s)

    async def one(caller, entered):
        async with queue.turn(caller):
            order.append(caller)
            await entered.wait()

    async def main():
        entered = asyncio.Event()
        tasks = []
        for caller in callers:
            tasks.append(asyncio.create_task(one(caller, entered)))
            await asyncio.sleep(0)
        entered.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return order, asyncio.run(main())


def test_a_caller_with_many_queries_does_not_hold_up_another():
    order, _ = ran(["a"] * 10 + ["b", "b", "c"])
    assert "".join(order) == "aabcab" + "a" * 7


def test_as_many_run_at_once_as_may():
    order, _ = ran(["a", "b", "c", "d"], at_once=3)
    assert order[:3] == ["a", "b", "c"]


def test_too_many_are_refused_at_once():
    order, outcomes = ran(["a"] * 5, most=2)
    assert len(order) == 3
    assert [isinstance(each, BusyError) for each in outcomes] == [False, False, False, True, True]


def test_one_that_waits_too_long_leaves_the_queue():
    queue = FairQueue(1, 10, 0.05)

    async def main():
        async with queue.turn("a"):
            with pytest.raises(BusyError, match=r"too many queries wait for their turn: got more than 0\.05 s"):
                async with queue.turn("b"):
                    pass
        async with queue.turn("c"):
            pass

    asyncio.run(main())
    assert (queue._free, queue.is_crowded) == (1, False)  # noqa: SLF001 - nothing is lost


def test_a_client_that_leaves_gives_its_place_to_the_next():
    queue = FairQueue(1, 10, 10.0)

    async def hold(caller, order):
        async with queue.turn(caller):
            order.append(caller)

    async def main():
        order = []
        async with queue.turn("first"):
            leaves, stays = asyncio.create_task(hold("leaves", order)), asyncio.create_task(hold("stays", order))
            await asyncio.sleep(0)
            leaves.cancel()
            await asyncio.sleep(0)
        await asyncio.wait_for(stays, 5)
        return order

    assert asyncio.run(main()) == ["stays"]
    assert (queue._free, queue.is_crowded) == (1, False)  # noqa: SLF001 - nothing is lost


def test_event_loops_of_several_threads_share_the_turns():
    queue = FairQueue(2, 1000, 30.0)
    running, most = [0], [0]
    lock = threading.Lock()

    async def one(caller):
        async with queue.turn(caller):
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            await asyncio.sleep(0.001)
            with lock:
                running[0] -= 1

    async def many(name):
        await asyncio.gather(*(one(name) for _ in range(40)))

    threads = [threading.Thread(target=lambda n=n: asyncio.run(many(str(n)))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (running[0], most[0], queue._free) == (0, 2, 2)  # noqa: SLF001 - nothing is lost
