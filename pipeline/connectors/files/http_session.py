"""The HTTP client of files, which follows redirects to public addresses only and without credentials."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from pipeline.connectors.certificates import trusting
from pipeline.connectors.http.addresses import checked_addresses
from pipeline.core.errors import Place, SourceError

_KEPT = {"accept", "accept-encoding", "range", "user-agent"}
"""The headers that another host gets."""
_COMPRESSED = (".gz", ".tgz", ".zst", ".zip")
"""Names of files that a server may call encoded because they are compressed; their bytes are read as they are."""


async def checked_session(
    *, allowed_hosts: Sequence[str], ca: str | None = None, **options: Any
) -> aiohttp.ClientSession:
    """Return a session that connects to the allowed hosts, and to others with public addresses.

    `ca` is a file with the authorities that are trusted instead of those of the system.
    """
    trace = aiohttp.TraceConfig()

    async def check(_: aiohttp.ClientSession, __: SimpleNamespace, sent: aiohttp.TraceRequestRedirectParams) -> None:
        target = sent.url.join(_location(sent.response))
        if target.host and (target.host, target.port) != (sent.url.host, sent.url.port):
            for name in [name for name in sent.headers if name.lower() not in _KEPT]:
                sent.headers.popall(name, None)
            # a host that is a number is not resolved, so the resolver does not check it
            await asyncio.to_thread(checked_addresses, target.host, target.port or 0, allowed_hosts)

    async def refuse(_: aiohttp.ClientSession, __: SimpleNamespace, got: aiohttp.TraceRequestEndParams) -> None:
        encoding, path = got.response.headers.get("Content-Encoding", ""), got.url.path.lower()
        if encoding.lower() not in {"", "identity"} and not path.endswith(_COMPRESSED):
            do = "let the server answer the header Accept-Encoding: identity"
            raise SourceError("a response has an encoding that is not read", got=repr(encoding), do=do)

    trace.on_request_redirect.append(check)
    trace.on_request_end.append(refuse)
    tls = trusting(ca, Place("options=")) if ca else True
    connector = aiohttp.TCPConnector(resolver=_CheckedResolver(allowed_hosts), ssl=tls)
    return aiohttp.ClientSession(connector=connector, trace_configs=[trace], **options)


def _location(response: aiohttp.ClientResponse) -> Any:
    return type(response.url)(response.headers.get("Location") or response.headers.get("URI") or "")


class _CheckedResolver(AbstractResolver):
    """Resolves the names of other hosts to addresses that were checked, and to no others."""

    def __init__(self, allowed_hosts: Sequence[str]) -> None:
        self._allowed_hosts, self._inner = allowed_hosts, ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host not in self._allowed_hosts:
            checked_addresses(host, port, (), lambda *_: [each["host"] for each in found])
        return found

    async def close(self) -> None:
        await self._inner.close()
