"""Bodies of messages as JSON on one line."""

from __future__ import annotations

import base64
import json


def one_line(body: bytes) -> bytes:
    """Return a body as one line of JSON: as it is if it is JSON, otherwise as a string, with other bytes in Base64."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return json.dumps("base64:" + base64.b64encode(body).decode()).encode()
    if is_json(text):
        return without_line_ends(body.strip())
    return json.dumps(text).encode()


def without_line_ends(text: bytes) -> bytes:
    """Return JSON on one line: a line end inside a string would be escaped."""
    return text.replace(b"\n", b" ").replace(b"\r", b" ")


def is_json(text: str) -> bool:
    """Return whether a text is one JSON value that is not nested too deeply."""
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(word: str) -> object:
    raise ValueError(word)
