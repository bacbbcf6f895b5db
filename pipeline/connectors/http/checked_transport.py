"""The transport of the HTTP client, which connects only to allowed addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from pipeline.connectors.http.addresses import Resolve, checked_addresses, resolve


class _CheckedBackend(httpcore.NetworkBackend):
    """Opens connections to checked addresses."""

    def __init__(self, allowed: frozenset[str], resolve_host: Resolve) -> None:
        self._allowed, self._resolve = allowed, resolve_host
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address that answers."""
        try:
            addresses = checked_addresses(host, port, self._allowed, self._resolve)
        except OSError as error:
            raise httpcore.ConnectError(f"the host {host!r} is unknown: {error.strerror}") from error
        for address in addresses[:-1]:
            try:
                return self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    def sleep(self, seconds: float) -> None:
        """Wait between attempts."""
        self._inner.sleep(seconds)


class _Body(httpx.SyncByteStream):
    """The body of a response, with the errors of httpx."""

    def __init__(self, stream: Iterable[bytes]) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._stream
        except httpcore.ReadTimeout as error:
            raise httpx.ReadTimeout("no bytes came in time") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise httpx.TransportError(str(error) or type(error).__name__) from error

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


class CheckedTransport(httpx.BaseTransport):
    """The transport of an HTTP client that connects only to allowed addresses."""

    def __init__(self, allowed: frozenset[str], resolve_host: Resolve = resolve) -> None:
        """Create the transport; certificates are verified, for the names of the hosts."""
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(), network_backend=_CheckedBackend(allowed, resolve_host)
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raise `httpx.TransportError` if no complete response came."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        content: Any = request.stream
        sent = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=content, extensions=request.extensions
        )
        try:
            response = self._pool.handle_request(sent)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise httpx.TransportError(str(error) or type(error).__name__) from error
        body: Any = response.stream
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(body), extensions=response.extensions
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()
