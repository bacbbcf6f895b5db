"""Conditional requests of RFC 9110: the entity tag of a response, and what a client gets that has the response already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from starlette.responses import Response


def entity_tag(*decisive: object) -> str:
    """Return the entity tag of a response that all of these decide; their `repr` must tell them apart."""
    return f'"{hashlib.sha256(repr(decisive).encode()).hexdigest()[:32]}"'


def is_same(if_none_match: str, etag: str) -> bool:
    """Return whether a client has the response with this entity tag already."""
    return bool(etag) and (
        if_none_match == "*" or etag in (each.strip().removeprefix("W/") for each in if_none_match.split(","))
    )


def not_modified(request: Mapping[str, str], headers: Mapping[str, str]) -> Response | None:
    """Return the response 304 if the client's headers name the `ETag` of these headers, or `None`: it needs the response."""
    if not is_same(request.get("if-none-match", ""), headers.get("ETag", "")):
        return None
    return Response(None, 304, headers)
