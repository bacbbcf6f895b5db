"""Follows the pages of an API, and never without end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.connectors.http.client import ApiRequest, ApiResponse, HttpClient
from pipeline.connectors.http.json_rows import JsonBody, path_of
from pipeline.connectors.rest.detection import DETECTED, detect
from pipeline.connectors.rest.pages import ApiPage, Pages
from pipeline.connectors.spool.progress import FetchedPage
from pipeline.core.errors import Place, SourceError

_NOT_SATISFIABLE = 416
RowsOf = Callable[[JsonBody], list[bytes]]


@dataclass
class PageGuard:
    """What a fetch has seen, to notice that it does not advance."""

    most_pages: int
    requests: set[str] = field(default_factory=set)
    contents: dict[bytes, int] = field(default_factory=dict)
    pages: int = 0
    empty: int = 0

    def has_ended(self, lines: list[bytes], following: ApiRequest | None, place: Place, most_empty: int | None) -> bool:
        """Return whether a page is the last one.

        It is if nothing follows, if the next request was sent before, or after `most_empty` pages without rows. Raises
        `SourceError` for a page that repeats an earlier one, and after the maximum number of pages.
        """
        self.pages += 1
        self.empty = 0 if lines else self.empty + 1
        if lines:
            self._require_new(lines, place)
        if following is None or (not lines and most_empty is not None and self.empty >= most_empty):
            return True
        if self.pages >= self.most_pages:
            raise SourceError(
                f"the fetch has not ended after {self.pages:,} pages",
                do="increase most_pages=, or read fewer rows at a time: source(…, most_rows=)",
                place=place,
            )
        return self.is_repeated(following)

    def is_repeated(self, request: ApiRequest) -> bool:
        """Return whether a request was sent before, and remember it."""
        key = json.dumps([str(request.address()), request.headers, request.body], sort_keys=True, default=dict)
        is_repeated = key in self.requests
        self.requests.add(key)
        return is_repeated

    def _require_new(self, lines: list[bytes], place: Place) -> None:
        content = hashlib.blake2b(b"\n".join(lines), digest_size=16).digest()
        earlier = self.contents.setdefault(content, self.pages)
        if earlier != self.pages:
            raise SourceError(
                f"page {self.pages} has the same rows as page {earlier}, so the fetch would not end",
                got=f"{len(lines)} rows",
                do="check the parameter in pages=, which the API may ignore",
                place=place,
            )


@dataclass(frozen=True)
class Paging:
    """How a fetch goes from page to page."""

    pages: Pages | None
    """None: the style is detected."""
    rows_of: RowsOf
    most_pages: int
    token_of: Callable[[JsonBody], Any] | None = None
    """Returns what the next fetch begins with, from the last page."""
    checked: Callable[[ApiResponse], None] | None = None
    """Raises an error for a response that is a failure, although its status is not."""


def follow(
    client: HttpClient, first: ApiRequest | None, paging: Paging, resumption: Mapping[str, Any] | None
) -> Iterator[FetchedPage]:
    """Yield the pages that begin with a request, or those that follow the last page of a limited fetch."""
    guard = PageGuard(paging.most_pages)
    request, pages = _begin(first, paging, resumption)
    guard.is_repeated(request)
    while True:
        accepted = frozenset({_NOT_SATISFIABLE}) if "Range" in request.headers else frozenset[int]()
        response = client.get(request, accepted=accepted, checked=paging.checked)
        place = Place(client.shown(str(request.address())))
        body = JsonBody(response.body, place)
        lines = [] if response.status == _NOT_SATISFIABLE else paging.rows_of(body)
        page = ApiPage(request, response, body, len(lines))
        pages = detect(page) if pages is None else pages
        following = pages.next(page) if lines or pages.most_empty != 0 else None
        following = None if following is None else _without_secrets(client, following)
        if guard.has_ended(lines, following, place, pages.most_empty) or following is None:
            yield FetchedPage(lines, place.file, token=None if paging.token_of is None else paging.token_of(body))
            return
        yield FetchedPage(lines, place.file, _resumption(following, pages))
        request = following


def rows_at(path: str | None) -> RowsOf:
    """Return a function that returns the rows at a path, or those at the path that is detected in the first response."""
    keys = None if path is None else path_of(path)

    def rows_of(body: JsonBody) -> list[bytes]:
        nonlocal keys
        keys = body.rows_path() if keys is None else keys
        return body.rows(keys)

    return rows_of


def _begin(
    first: ApiRequest | None, paging: Paging, resumption: Mapping[str, Any] | None
) -> tuple[ApiRequest, Pages | None]:
    """Return the first request of a fetch, and the style of its pages; a declared style replaces a detected one."""
    if first is not None:
        return (first if paging.pages is None else paging.pages.first(first)), paging.pages
    known = resumption or {}
    request = ApiRequest(**known["request"])
    if paging.pages is not None:
        return request, paging.pages
    style = next(kind for kind in DETECTED if kind.__name__ == known["style"])
    return request, style(**known["options"])


def _without_secrets(client: HttpClient, request: ApiRequest) -> ApiRequest:
    """Return a request without credentials that the API has copied into its next link."""
    return replace(request, url=client.shown(request.url))


def _resumption(request: ApiRequest, pages: Pages) -> Mapping[str, Any]:
    """Return a request as JSON, with the style of its pages, to be continued by another run."""
    fields = {name: value for name, value in vars(request).items() if value not in ({}, None)}
    return {"request": fields, "style": type(pages).__name__, "options": dict(vars(pages))}
