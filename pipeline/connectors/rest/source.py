"""REST APIs as a source. Create it with `rest`.

Delivery: each row that the API returned to a complete fetch, once. The plan of a run fetches the responses into a spool, and
tasks read the spool, so that a task that is repeated reads the same rows, although the API may return others by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from pipeline.connectors.http.credentials import Credentials, require_credentials
from pipeline.connectors.rest.api import (
    MOST_PAGES,
    ApiReader,
    Repeated,
    Since,
    SinceFormat,
    api_calls,
    cursor_column,
    require_plain_url,
    since_text,
)
from pipeline.connectors.rest.pages import Pages, require_pages
from pipeline.connectors.spool.high_water import Nulls
from pipeline.connectors.spool.progress import Progress
from pipeline.core.errors import DefinitionError, Place
from pipeline.core.extras import imports_of
from pipeline.core.fingerprint import fingerprint

if TYPE_CHECKING:
    from pipeline.connectors.http.client import ApiRequest
    from pipeline.connectors.rest.paging import Paging


@dataclass(frozen=True, kw_only=True)
class RestApi(ApiReader):
    """An endpoint of an API. Create it with `rest`."""

    rows: str | None = None
    pages: Pages | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    since: Since = field(default_factory=Since)
    method: str = "GET"
    body: Any = None

    @property
    def fingerprint(self) -> str:
        """A hash of the parameters, the rows, and the cursor column; the address is not part of it."""
        column = () if self.column is None else (self.column.name, self.column.nulls)
        return fingerprint(
            "rest", sorted(self.params.items()), self.method, self.body, self.rows, column, self.since.start
        )

    @property
    def uri(self) -> str:
        """The address with its parameters."""
        with imports_of("rest", "rest(…)"):
            import httpx  # noqa: PLC0415 - optional dependency
        hidden = () if self.auth is None else self.auth.parameters
        params = {name: text for name, text in self.params.items() if name not in hidden}
        return str(httpx.URL(self.url).copy_merge_params(params)) if params else self.url

    def first(self, progress: Progress) -> ApiRequest:
        """Return the request for the rows from the highest value on."""
        from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - optional dependency

        params = dict(self.params)
        if self.since.parameter is not None:
            high, value = progress.mark, self.since.start
            if high is not None and self.column is not None:
                value = since_text(high, self.column, self.since.format)
            params |= {} if value is None else {self.since.parameter: value}
        return ApiRequest(self.url, params, {}, self.method, self.body)

    def paging(self) -> Paging:
        """Return the declared style of pagination, or that it is to be detected."""
        from pipeline.connectors.rest.paging import Paging, rows_at  # noqa: PLC0415 - optional dependency

        return Paging(self.pages, rows_at(self.rows), self.most_pages)


def rest(
    url: str,
    *,
    rows: str | None = None,
    pages: Pages | None = None,
    params: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
    auth: Credentials | None = None,
    cursor: str | None = None,
    since: str | None = None,
    since_format: SinceFormat = "as delivered",
    start: str | None = None,
    lag: str | timedelta | int = 0,
    null_cursors: Nulls = "refuse",
    repeated: Repeated = "drop",
    rate: str | None = None,
    timeout: str | timedelta = "1 minute",
    deadline: str | timedelta = "5 minutes",
    method: Literal["GET", "POST"] = "GET",
    body: Any = None,
    most_pages: int = MOST_PAGES,
    most_response_bytes: int = 64 << 20,
    allowed_hosts: tuple[str, ...] = (),
    spool: str | None = None,
) -> RestApi:
    """Read an endpoint of a REST API that returns JSON.

    `rows` is the path of the rows in a response, such as `$.items`, and `pages` the style of pagination; both are detected
    if they are not given. Objects and arrays in a row become structs and lists, by `schema=` of the source or inferred.

    `cursor` is a field whose values say what is new, such as `updated_at` or `id`: a run reads the rows from the highest
    value on, and recognizes those that it has read. `since` is the parameter that asks the API for these rows only, in
    `since_format` (`as delivered`, `iso`, `date`, `epoch` or `epoch_ms`), and `start` its first value. Rows up to `lag` below the
    highest value are fetched again, because they may appear later (`'5 minutes'`, or a number for numbers). Without
    `cursor`, each run reads everything, and computes the table again if the rows are others than before.

    Values of `headers` and credentials are references such as `env:NAME` or `file:PATH`. At most `rate` requests are sent
    (`'10/s'`, `'100/min'`) by all sources of the same host. Temporary failures are retried until `deadline`, with the waits
    that the API asks for. Redirects and links to another host are followed without credentials, and to private
    addresses only for `allowed_hosts`. Responses are kept below `spool` (`.headwater/spool`).

    Raises `DefinitionError` for invalid options.
    """
    address = require_plain_url(url)
    if pages is not None:
        require_pages(pages)
    if since is not None and cursor is None:
        raise DefinitionError(
            "since= requires cursor=", do="pass the field whose highest value is sent", place=Place(address)
        )
    if rows is not None:
        with imports_of("rest", "rest(…)"):
            from pipeline.connectors.http.json_rows import path_of  # noqa: PLC0415 - optional dependency
        path_of(rows)
    return RestApi(
        url=address,
        rows=rows,
        pages=pages,
        params={name: _parameter(value) for name, value in (params or {}).items()},
        headers=dict(headers or {}),
        auth=require_credentials(auth),
        column=cursor_column(cursor, lag, null_cursors, repeated),
        since=Since(since, since_format, start),
        calls=api_calls(rate, timeout, deadline, most_response_bytes, allowed_hosts),
        method=method,
        body=body,
        most_pages=most_pages,
        spool=spool,
    )


def _parameter(value: object) -> str:
    """Return a value of a parameter as text: true and false as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)
