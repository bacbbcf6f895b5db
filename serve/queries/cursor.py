"""Where the next page of a query begins: an opaque text, which is valid for the same query of the same version only.

It grants nothing: its values are a condition like any other, within what the caller may read.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from serve.http_errors import HttpError
from serve.queries.query import Query
from serve.queries.values import require_value, shown

_MOST = 8_192


@dataclass(frozen=True)
class PageCursor:
    """The version that pages are read from, and the place in it: after a row with these values, or a number of rows."""

    version: int
    query: str
    """Identifies the query without its page."""
    after: tuple[str | None, ...] = ()
    offset: int = 0

    @classmethod
    def following(cls, version: int, name: str, query: Query, last: Sequence[Any], rows: int) -> PageCursor:
        """Return the cursor after a number of rows of a query `name`, with the values of the cursor's columns in the last of them."""
        after = tuple(_text(value) for value in last)
        return cls(version, name, after, 0 if after else query.offset + rows)

    def __str__(self) -> str:
        """Return the text of a URL."""
        place = list(self.after) if self.after else self.offset
        content = json.dumps([self.version, self.query, place], separators=(",", ":"), ensure_ascii=False)
        return base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @classmethod
    def of(cls, text: str) -> PageCursor:
        """Return the cursor of a text; raise `HttpError` if it is none."""
        try:
            if len(text) > _MOST:
                raise ValueError(text)  # noqa: TRY301 - one refusal for whatever is wrong
            content = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            version, query, place = content
            after = tuple(place) if isinstance(place, list) else ()
            fits = all(each is None or isinstance(each, str) for each in after) and isinstance(query, str)
            if not fits or not _is_number(version) or not (after or _is_number(place)):
                raise ValueError(text)  # noqa: TRY301 - as above
            return cls(version, query, after, 0 if after else place)
        except (ValueError, TypeError, binascii.Error, RecursionError) as error:
            raise invalid(text) from error


def invalid(text: str) -> HttpError:
    """Return the error for a cursor that this query did not return."""
    return HttpError("'cursor' is not one of this query", got=shown(text), do="take it from the link to the next page")


def identity(query: Query) -> str:
    """Return a text that identifies a query without its page."""
    return fingerprint("query", repr((query.select, query.where, query.order, query.is_distinct, query.embed)))[:16]


def resumed(cursor: PageCursor, query: Query, schema: Schema, key: Sequence[str], name: str) -> Query:
    """Return the query `name` of a table with this schema and key from the place of a cursor on.

    Raises `HttpError` for a cursor of another query.
    """
    if cursor.query != name:
        raise invalid(str(cursor))
    if not cursor.after:
        return replace(query, offset=cursor.offset)
    kinds = {column.name: column for column in schema.columns}
    if len(cursor.after) != len(query.order) or not key:
        raise invalid(str(cursor))
    for term, value in zip(query.order, cursor.after, strict=True):
        if value is not None:
            require_value(kinds[term.column], value)
    return replace(query, after=cursor.after, offset=0)


def _text(value: Any) -> str | None:
    if value is None or value != value or value in {float("inf"), float("-inf")}:  # noqa: PLR0124 - NaN; they count as null
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return (value if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return repr(value) if isinstance(value, float) else str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
