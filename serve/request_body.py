"""Reading of a request's body, up to a limit, and of the JSON in it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from anyio import fail_after
from starlette.requests import Request

from serve.http_errors import HttpError, TooLargeError, TooSlowError

PATIENCE_S = 30.0
"""How long a body may take to come."""


async def read_body(request: Request, most_bytes: int, *, do: str) -> bytes:
    """Return a request's body; stop reading when it exceeds the limit.

    Raises `TooLargeError`, with `do` as what the client can do about it, and `TooSlowError` for a client that does not send it.
    """
    body = bytearray()
    try:
        with fail_after(PATIENCE_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise TooLargeError(f"the body is longer than {most_bytes} bytes", do=do)
    except TimeoutError as error:
        raise TooSlowError("the body does not come", got=f"{len(body)} bytes in {PATIENCE_S:g} s") from error
    return bytes(body)


def json_object(body: bytes, example: str) -> dict[str, Any]:
    """Return the JSON object of a body; raise `HttpError` for one that has none, which says to send the example."""
    try:
        document = json.loads(body, parse_constant=_refused)
    except (ValueError, RecursionError) as error:
        raise HttpError("the body is not JSON", do=f"send {example}") from error
    if not isinstance(document, dict):
        raise HttpError("the body is not a JSON object", do=f"send {example}")
    return document


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and infinity are not JSON
