"""Reading of a request's body, up to a limit."""

from __future__ import annotations

from starlette.requests import Request

from serve.http_errors import TooLargeError


async def read_body(request: Request, most_bytes: int, *, do: str) -> bytes:
    """Return a request's body; stop reading when it exceeds the limit.

    Raises `TooLargeError`, with `do` as what the client can do about it.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise TooLargeError(f"the body is longer than {most_bytes} bytes", do=do)
    return bytes(body)
