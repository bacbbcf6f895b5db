"""The styles of pagination: each finds the request of the next page in a request and its response.

A style is a pure function of one page. What keeps a fetch from never ending is in `paging.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urljoin

from pipeline.core.errors import DefinitionError, SourceError

if TYPE_CHECKING:
    from pipeline.connectors.http.client import ApiRequest, ApiResponse
    from pipeline.connectors.http.json_rows import JsonBody

_MOST_EMPTY = 3
_LINK = re.compile(r"<([^<>]*)>((?:\s*;\s*[^;,=\s]+\s*=\s*(?:\"[^\"]*\"|[^;,\"]*))*)")
_RELATION = re.compile(r";\s*rel\s*=\s*\"?([^\";,]*)\"?", re.IGNORECASE)
_CONTENT_RANGE = re.compile(r"\s*\S+\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)\s*")


@dataclass(frozen=True)
class ApiPage:
    """A request, its response, and its number of rows."""

    request: ApiRequest
    response: ApiResponse
    body: JsonBody
    rows: int


class Pages(Protocol):
    """A style of pagination."""

    @property
    def most_empty(self) -> int | None:
        """How many pages without rows are followed one after the other; `None`: all that the response says are there."""

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request of the first page."""

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request of the next page; `None` after the last one.

        Raises `SourceError` if the response says that there are more rows, but not how to get them.
        """


@dataclass(frozen=True)
class SinglePage:
    """All rows are in one response."""

    most_empty = 0

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request."""
        return request

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return `None`."""
        del page
        return None


@dataclass(frozen=True)
class LinkHeader:
    """The address of the next page is in the header `Link`, with `rel="next"`."""

    relation: str = "next"
    most_empty = None

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request."""
        return request

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return a request for the linked address."""
        target = linked(page.response.headers.get("link", ""), self.relation)
        return None if target is None else _moved(page, target)


@dataclass(frozen=True)
class NextUrl:
    """The address of the next page is in the response, absolute or relative."""

    path: str = "$.next"
    most_empty = None

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request."""
        return request

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return a request for that address; `None` if it is missing, null or empty."""
        target = page.body.value(_keys(self.path))
        if target is None or target is False or target == "":
            return None
        if not isinstance(target, str):
            raise SourceError(f"{self.path} is not an address", got=repr(target), place=page.body.place)
        return _moved(page, target)


@dataclass(frozen=True)
class BodyCursor:
    """A cursor in the response is sent as a parameter of the next request."""

    path: str = "$.next_cursor"
    parameter: str = "cursor"
    more: str | None = None
    """The path of a boolean that says whether there are more pages, also if there is a cursor."""

    @property
    def most_empty(self) -> int | None:
        """A cursor alone may also be on the last page."""
        return _MOST_EMPTY if self.more is None else None

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request."""
        return request

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request with the cursor."""
        return _with_cursor(page, page.body.value(_keys(self.path)), self.parameter, self.more)


@dataclass(frozen=True)
class HeaderCursor:
    """A cursor in a header of the response is sent as a parameter of the next request."""

    header: str = "X-Next-Cursor"
    parameter: str = "cursor"
    more: str | None = None
    """The path of a boolean that says whether there are more pages, also if there is a cursor."""

    @property
    def most_empty(self) -> int | None:
        """A cursor alone may also be on the last page."""
        return _MOST_EMPTY if self.more is None else None

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request."""
        return request

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request with the cursor."""
        return _with_cursor(page, page.response.headers.get(self.header.lower()), self.parameter, self.more)


@dataclass(frozen=True)
class PageNumber:
    """The number of the page is a parameter. The last page is the first one without rows, or that of `total_pages`."""

    parameter: str = "page"
    begin: int = 1
    size: int | None = None
    """The number of rows of a page, sent as `size_parameter`. A page with fewer rows is not taken for the last one."""
    size_parameter: str = "per_page"
    total_pages: str | None = None
    """The path of the number of pages in the response."""
    most_empty = 0

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request with the number of the first page."""
        size = {} if self.size is None else {self.size_parameter: str(self.size)}
        return _with_params(request, {self.parameter: str(self.begin), **size})

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request with the next number."""
        number = int(page.request.params.get(self.parameter, self.begin))
        total = None if self.total_pages is None else _number(page, self.total_pages)
        if not page.rows or (total is not None and number - self.begin + 1 >= total):
            return None
        return _with_params(page.request, {self.parameter: str(number + 1)})


@dataclass(frozen=True)
class Offset:
    """The number of rows to skip is a parameter. Each request continues after the rows that were received."""

    parameter: str = "offset"
    limit: int | None = 100
    """The number of rows of a page, sent as `limit_parameter`; a server may return fewer."""
    limit_parameter: str = "limit"
    total: str | None = None
    """The path of the number of rows in the response."""
    most_empty = 0

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request with the first offset."""
        limit = {} if self.limit is None else {self.limit_parameter: str(self.limit)}
        return _with_params(request, {self.parameter: "0", **limit})

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request with the next offset."""
        begin = int(page.request.params.get(self.parameter, 0)) + page.rows
        total = None if self.total is None else _number(page, self.total)
        if not page.rows or (total is not None and begin >= total):
            return None
        return _with_params(page.request, {self.parameter: str(begin)})


@dataclass(frozen=True)
class RangeHeader:
    """The range of rows is in the headers `Range` and `Content-Range`."""

    size: int = 100
    unit: str = "items"
    most_empty = 0

    def first(self, request: ApiRequest) -> ApiRequest:
        """Return the request with the first range."""
        return self._ranged(request, 0)

    def next(self, page: ApiPage) -> ApiRequest | None:
        """Return the request with the range after the received one; `None` after status 416, and at the total."""
        received = _CONTENT_RANGE.fullmatch(page.response.headers.get("content-range", ""))
        if page.response.status != _PARTIAL or not page.rows or received is None or received[2] is None:
            return None
        end = int(received[2]) + 1
        return None if received[3] != "*" and end >= int(received[3]) else self._ranged(page.request, end)

    def _ranged(self, request: ApiRequest, begin: int) -> ApiRequest:
        text = f"{self.unit}={begin}-{begin + self.size - 1}"
        return replace(request, headers={**request.headers, "Range": text})


_PARTIAL = 206


def linked(header: str, relation: str) -> str | None:
    """Return the address with a relation from a header `Link`; `None` if it has none."""
    for match in _LINK.finditer(header):
        found = _RELATION.search(match[2])
        if found is not None and relation.lower() in found[1].lower().split():
            return match[1].strip()
    return None


def _keys(path: str) -> tuple[str, ...]:
    from pipeline.connectors.http.json_rows import path_of  # noqa: PLC0415 - optional dependency

    return path_of(path)


def _moved(page: ApiPage, target: str) -> ApiRequest:
    """Return a request for an address from a response, which has all parameters."""
    try:
        address = urljoin(page.response.url, target)
    except ValueError:
        address = target
    if not address.startswith(("http://", "https://")):
        raise SourceError("the next page has no HTTP address", got=repr(target), place=page.body.place)
    return replace(page.request, url=address, params={})


def _with_params(request: ApiRequest, params: Mapping[str, str]) -> ApiRequest:
    return replace(request, params={**request.params, **params})


def _with_cursor(page: ApiPage, cursor: object, parameter: str, more: str | None) -> ApiRequest | None:
    has_more = None if more is None else page.body.value(_keys(more))
    is_there = isinstance(cursor, str | int | float) and cursor is not False and cursor != ""
    if has_more is False or (has_more is None and not is_there):
        return None
    if not is_there:
        raise SourceError(
            f"the response says that there are more pages ({more} is {has_more!r}), but has no cursor",
            got=repr(cursor),
            do="check the path of the cursor in pages=",
            place=page.body.place,
        )
    return _with_params(page.request, {parameter: str(cursor)})


def _number(page: ApiPage, path: str) -> int:
    value = page.body.value(_keys(path))
    if isinstance(value, str) and value.isdigit():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise SourceError(f"{path} is not a number", got=repr(value), do="correct pages=", place=page.body.place)


def require_pages(pages: object) -> None:
    """Raise `DefinitionError` if this is not a style of pagination."""
    if not callable(getattr(pages, "first", None)) or not callable(getattr(pages, "next", None)):
        known = "SinglePage, LinkHeader, NextUrl, BodyCursor, HeaderCursor, PageNumber, Offset or RangeHeader"
        raise DefinitionError("this is not a style of pagination", got=repr(pages), do=f"pass pages= {known}")
