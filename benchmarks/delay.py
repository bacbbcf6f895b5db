"""A process on loopback that forwards connections to a port and delays what clients send, as a distant store would.

Run as `python -m benchmarks.delay PORT SECONDS JITTER`: it prints its own port, and ends when its input is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK = 1 << 18


@contextmanager
def delayed(port: int, seconds: float, jitter_s: float) -> Iterator[int]:
    """Yield a port that forwards to another: each request waits `seconds`, and up to `jitter_s` more."""
    command = [sys.executable, "-m", "benchmarks.delay", str(port), str(seconds), str(jitter_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - a pipe was requested
        try:
            yield int(process.stdout.readline())
        finally:
            process.communicate("")


async def _serve(port: int, seconds: float, jitter_s: float) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(_later(reader, back, seconds, jitter_s), _at_once(there, writer))
        for each in (back, writer):
            each.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


async def _later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float, jitter_s: float) -> None:
    """Forward what arrives, each chunk after its delay and in order."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def read() -> None:
        due = 0.0
        while True:
            chunk = await reader.read(_CHUNK)
            due = max(due, loop.time() + seconds + random.uniform(0, jitter_s))  # noqa: S311 - no secret
            waiting.put_nowait((due, chunk))
            if not chunk:
                return

    reading = asyncio.create_task(read())
    while True:
        due, chunk = await waiting.get()
        await asyncio.sleep(max(0.0, due - loop.time()))
        if not chunk:
            break
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()
    await reading


async def _at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))
