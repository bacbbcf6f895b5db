"""Asks a server again and again, over several connections, and prints how long that takes.

python -m benchmarks.http_load FILE CONNECTIONS SECONDS. CONNECTIONS are numbers such as 1,16. FILE has an object of JSON: `url` of the
server, `paths` that are asked in turn, and optionally `body`, which is posted, and `headers`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WARM_S = 1.0


async def ask(host: str, port: int, requests: Iterator[bytes], until: float) -> tuple[list[float], int]:
    """Return the seconds of each answer on one connection until a time, and their bytes; raise `OSError` for one that is not 200."""
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 26)
    taken, size = [], 0
    while (begun := time.perf_counter()) < until:
        writer.write(next(requests))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise OSError(head.decode())
        size += await _body(reader, head)
        taken.append(time.perf_counter() - begun)
    writer.close()
    return taken, size


async def _body(reader: asyncio.StreamReader, head: bytes) -> int:
    """Read a body to its end, and return its size."""
    if b"transfer-encoding: chunked" not in head:
        return len(await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])))
    size = 0
    while length := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(length + 2)
        size += length
    await reader.readuntil(b"\r\n")
    return size


async def load(asked: Mapping[str, Any], connections: int, seconds: float) -> tuple[list[float], int]:
    """Return the sorted seconds of all answers, and the bytes of their bodies."""
    parts = urlsplit(asked["url"])
    host, port = parts.hostname or "", parts.port or 80
    content = json.dumps(asked["body"]).encode() if "body" in asked else b""
    headers = {"Host": host, **asked.get("headers", {})}
    if content:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    method = "POST" if content else "GET"
    requests = [f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content for path in asked["paths"]]
    until = time.perf_counter() + seconds
    turns = itertools.cycle(requests)
    every = await asyncio.gather(*(ask(host, port, turns, until) for _ in range(connections)))
    return sorted(second for taken, _ in every for second in taken), sum(size for _, size in every)


def main() -> None:
    """Print the start-up time, which is none, and for each number of connections the median, the 99th percentile, and the mean time between answers."""
    asked, connections, seconds = json.loads(Path(sys.argv[1]).read_text()), sys.argv[2], float(sys.argv[3])
    figures: dict[str, float] = {}
    for number in map(int, connections.split(",")):
        asyncio.run(load(asked, number, WARM_S))
        begun = time.perf_counter()
        taken, size = asyncio.run(load(asked, number, seconds))
        lasted = time.perf_counter() - begun  # the last answers come after the time is over
        figures[f"c={number} p50"] = taken[len(taken) // 2]
        figures[f"c={number} p99"] = taken[int(len(taken) * 0.99)]
        figures[f"c={number} each"] = lasted / len(taken)
        figures[f"c={number} MB"] = lasted / (size / 1e6)
    print(json.dumps({"start": 0.0, "parts": figures}))


if __name__ == "__main__":
    main()
