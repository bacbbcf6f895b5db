"""Asks a server for the same answer again and again, over several connections, and prints how long that takes.

python -m benchmarks.http_load URL BODY-FILE CONNECTIONS SECONDS, where CONNECTIONS are numbers such as 1,16.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

WARM_S = 1.0


async def ask(host: str, port: int, request: bytes, until: float) -> list[float]:
    """Return the seconds of each answer on one connection until a time; raise `OSError` for one that is not 200."""
    reader, writer = await asyncio.open_connection(host, port)
    taken = []
    while (begun := time.perf_counter()) < until:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.partition(b"\r\n")[0]:
            raise OSError(head.decode())
        await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        taken.append(time.perf_counter() - begun)
    writer.close()
    return taken


async def load(url: str, body: bytes, connections: int, seconds: float) -> list[float]:
    """Return the sorted seconds of all answers."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    key = os.environ.get("HEADWATER_API_KEY", "")
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    )
    request, until = f"{head}\r\n\r\n".encode() + body, time.perf_counter() + seconds
    every = await asyncio.gather(*(ask(host, port, request, until) for _ in range(connections)))
    return sorted(second for taken in every for second in taken)


def main() -> None:
    """Print the start-up time, which is none, and for each number of connections the median, the 99th percentile, and the mean time between answers."""
    url, body, connections, seconds = sys.argv[1], Path(sys.argv[2]).read_bytes(), sys.argv[3], float(sys.argv[4])
    figures: dict[str, float] = {}
    for number in map(int, connections.split(",")):
        asyncio.run(load(url, body, number, WARM_S))
        taken = asyncio.run(load(url, body, number, seconds))
        figures[f"c={number} p50"] = taken[len(taken) // 2]
        figures[f"c={number} p99"] = taken[int(len(taken) * 0.99)]
        figures[f"c={number} each"] = seconds / len(taken)
    print(json.dumps({"start": 0.0, "parts": figures}))


if __name__ == "__main__":
    main()
