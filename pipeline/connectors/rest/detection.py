"""Detects the style of pagination of an API from its first response."""

from __future__ import annotations

from typing import Any

from pipeline.connectors.rest.pages import (
    ApiPage,
    BodyCursor,
    HeaderCursor,
    LinkHeader,
    NextUrl,
    Offset,
    PageNumber,
    Pages,
    SinglePage,
    linked,
)
from pipeline.core.errors import SourceError, quantity

_URLS: tuple[str, ...] = (
    "$.next",
    "$.next_url",
    "$.nextLink",
    "$['@odata.nextLink']",
    "$.links.next",
    "$.links.next.href",
)
_URLS += ("$._links.next.href", "$._links.next", "$.paging.next", "$.pagination.next", "$.meta.next", "$.nextPageUrl")
_CURSORS = {
    "next_cursor": "cursor",
    "nextCursor": "cursor",
    "next_page_token": "page_token",
    "nextPageToken": "pageToken",
    "next_token": "next_token",
    "nextToken": "nextToken",
    "continuation_token": "continuation_token",
    "continuationToken": "continuationToken",
    "end_cursor": "after",
}
_PARENTS = ("", ".meta", ".pagination", ".paging", ".response_metadata", ".page_info", ".links")
_MORE = ("has_more", "hasMore", "has_next", "hasNext", "has_next_page", "hasNextPage", "more")
_HEADERS = {"x-next-cursor": "cursor", "x-next-page": "page", "x-continuation-token": "continuation_token"}
_TOTALS = ("total", "total_count", "totalCount", "count", "total_results", "totalResults")
_TOTAL_PAGES = ("total_pages", "totalPages", "page_count", "pages", "last_page")

DETECTED: tuple[type[Any], ...] = (LinkHeader, NextUrl, BodyCursor, HeaderCursor, PageNumber, Offset, SinglePage)
"""The styles that can be detected."""


def detect(page: ApiPage) -> Pages:
    """Return the style of the first page of an API.

    Raises `SourceError` if the response says that there are more rows, but not in a way that is known.
    """
    style = _by_link(page) or _by_cursor(page) or _by_number(page)
    if style is not None:
        return style
    total, more = _first(page, _TOTALS), _first(page, _MORE)
    has_more = more is not None and page.body.value(_keys(more)) is True
    count = None if total is None else page.body.value(_keys(total))
    if has_more or (isinstance(count, int) and 0 < page.rows < count):
        raise SourceError(
            "the response is one of several pages, but how to get the others is not clear",
            got=f"{more}: true" if has_more else f"{total}: {count}, with {quantity(page.rows, 'row')}",
            do="pass pages=, for example pages=PageNumber('page') or Offset('offset')",
            place=page.body.place,
        )
    return SinglePage()


def _by_link(page: ApiPage) -> Pages | None:
    if linked(page.response.headers.get("link", ""), "next") is not None:
        return LinkHeader()
    for path in _URLS:
        target = page.body.value(_keys(path))
        if isinstance(target, str) and target.startswith(("http://", "https://", "/", "?")):
            return NextUrl(path)
    return None


def _by_cursor(page: ApiPage) -> Pages | None:
    more = _first(page, _MORE)
    for parent in _PARENTS:
        for name, parameter in _CURSORS.items():
            cursor = page.body.value(_keys(f"${parent}.{name}"))
            if isinstance(cursor, str | int) and not isinstance(cursor, bool) and cursor != "":
                return BodyCursor(f"${parent}.{name}", parameter, more)
    for header, parameter in _HEADERS.items():
        if page.response.headers.get(header):
            return HeaderCursor(header, parameter)
    return None


def _by_number(page: ApiPage) -> Pages | None:
    total_pages, total = _first(page, _TOTAL_PAGES), _first(page, _TOTALS)
    number, offset = _first(page, ("page", "current_page", "page_number")), _first(page, ("offset", "skip"))
    if total_pages is not None and number is not None and _is_number(page.body.value(_keys(number))):
        begin = page.body.value(_keys(number))
        return PageNumber("page", begin=begin, total_pages=total_pages) if begin in {0, 1} else None
    if offset is not None and total is not None and page.body.value(_keys(offset)) == 0:
        return Offset(offset.rpartition(".")[2], limit=None, total=total)
    return None


def _first(page: ApiPage, names: tuple[str, ...]) -> str | None:
    """Return the first path of one of these names whose value is not null."""
    paths = [f"${parent}.{name}" for parent in _PARENTS for name in names]
    return next((path for path in paths if page.body.value(_keys(path)) is not None), None)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _keys(path: str) -> tuple[str, ...]:
    from pipeline.connectors.http.json_rows import path_of  # noqa: PLC0415 - optional dependency

    return path_of(path)
