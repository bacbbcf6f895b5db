"""OData version 4 as a source. Create it with `odata`.

Delivery: each entity that the service returned to a complete fetch, once; with `delta=True`, each change that it reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urljoin

from pipeline.connectors.http.credentials import Credentials, require_credentials
from pipeline.connectors.odata.metadata import ServiceMetadata
from pipeline.connectors.rest.api import (
    MOST_PAGES,
    ApiReader,
    Repeated,
    api_calls,
    cursor_column,
    require_plain_url,
)
from pipeline.connectors.rest.pages import NextUrl
from pipeline.connectors.spool.high_water import HighWater, Nulls, floor_of, text_of
from pipeline.connectors.spool.progress import Progress
from pipeline.core.errors import DefinitionError, Place, SourceError
from pipeline.core.fingerprint import fingerprint
from pipeline.core.schema import Schema
from pipeline.core.splits import SourceObject

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pipeline.connectors.http.client import ApiRequest, ApiResponse
    from pipeline.connectors.http.json_rows import JsonBody
    from pipeline.connectors.rest.paging import Paging
    from pipeline.connectors.spool.progress import FetchedPage

_NEXT, _DELTA = "@odata.nextLink", "@odata.deltaLink"
_GONE = 410


@dataclass(frozen=True, kw_only=True)
class OdataService(ApiReader):
    """An entity set. Create it with `odata`."""

    entity_set: str
    select: tuple[str, ...] = ()
    filter: str | None = None
    expand: str | None = None
    delta: bool = False
    page_size: int | None = None

    function: ClassVar[str] = "odata(…)"

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked for."""
        column = () if self.column is None else (self.column.name, self.column.nulls)
        return fingerprint("odata", self.entity_set, self.select, self.filter, self.expand, self.delta, column)

    @property
    def uri(self) -> str:
        """The address of the entity set."""
        return f"{self.url.rstrip('/')}/{self.entity_set}"

    @property
    def by_token(self) -> bool:
        """Whether delta links say what is new."""
        return self.delta

    def first(self, progress: Progress) -> ApiRequest:
        """Return the request of the delta link, or of the entities from the highest value on."""
        from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - optional dependency

        if progress.token is not None:
            return ApiRequest(progress.token, {}, self._preferences())
        filters = [f"({self.filter})"] if self.filter else []
        if self.column is not None and progress.mark is not None:
            filters.append(
                f"{self.column.name.replace('.', '/')} ge {_literal(progress.mark, self._floor(progress.mark))}"
            )
        options: dict[str, str | None] = {
            "$select": ",".join(self.select) or None,
            "$expand": self.expand,
            "$filter": " and ".join(filters) or None,
            "$orderby": None if self.column is None else self.column.name.replace(".", "/"),
        }
        params = {name: text for name, text in options.items() if text is not None}
        return ApiRequest(self.uri, params, self._preferences())

    def paging(self) -> Paging:
        """Return the pages by next link, and the delta link of the last one."""
        from pipeline.connectors.rest.paging import Paging, rows_at  # noqa: PLC0415 - optional dependency

        token_of = self._delta_link if self.delta else None
        return Paging(NextUrl(f"$['{_NEXT}']"), rows_at("$.value"), self.most_pages, token_of, _require_no_error)

    def fetch(self, progress: Progress) -> Iterator[FetchedPage]:
        """Yield the pages of what is new; raise `SourceError` if the delta link has expired."""
        try:
            yield from super().fetch(progress)
        except SourceError as error:
            if progress.token is not None and f"status {_GONE}" in (error.got or ""):
                do = "read everything again: headwater run --full"
                raise SourceError("the delta link has expired", got=error.got, do=do, place=Place(self.uri)) from error
            raise

    def schema(self, source_object: SourceObject) -> Schema:
        """Return the types that the service describes; those of expanded and other properties are inferred."""
        inferred = super().schema(source_object)
        described = self._described()
        if described is None:
            return inferred
        known = dict(zip(described.names, described.columns, strict=True))
        return Schema(tuple(known.get(column.name, column) for column in inferred.columns))

    def _described(self) -> Schema | None:
        from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - optional dependency

        url = f"{self.url.rstrip('/')}/$metadata"
        with self.client() as client:
            try:
                response = client.get(ApiRequest(url, {}, {"Accept": "application/xml"}))
            except SourceError:
                return None  # not all services describe themselves to everyone
        return ServiceMetadata.of(response.body, Place(url)).columns(self.entity_set)

    def _floor(self, high: HighWater) -> Any:
        return high.key if self.column is None else floor_of(high.kind, high.key, self.column)

    def _preferences(self) -> Mapping[str, str]:
        wishes = ["odata.track-changes"] if self.delta else []
        wishes += [] if self.page_size is None else [f"odata.maxpagesize={self.page_size}"]
        return {"OData-MaxVersion": "4.01", **({"Prefer": ", ".join(wishes)} if wishes else {})}

    def _delta_link(self, body: JsonBody) -> str:
        link = body.value((_DELTA,))
        if not isinstance(link, str) or not link:
            raise SourceError(
                "the service returned no delta link",
                got=repr(link),
                do="remove delta=True, and pass cursor= if a property says what is new",
                place=body.place,
            )
        try:
            return self._without_secrets(urljoin(body.place.file, link))
        except ValueError as error:
            raise SourceError("the delta link is not an address", got=repr(link), place=body.place) from error

    def _without_secrets(self, link: str) -> str:
        import httpx  # noqa: PLC0415 - optional dependency

        try:
            address = httpx.URL(link)
        except httpx.InvalidURL as error:
            raise ValueError(link) from error
        for name in () if self.auth is None else self.auth.parameters:
            address = address.copy_remove_param(name)
        return str(address)


def _literal(high: HighWater, floor: Any) -> str:
    """Return a value as OData writes it: text in quotes, numbers and times without."""
    unchanged = floor == high.key
    text = high.text if unchanged else text_of(high.kind, floor)
    return "'" + text.replace("'", "''") + "'" if high.kind == "text" else text


def _require_no_error(response: ApiResponse) -> None:
    """Raise `SourceError` for an error in a response whose status was sent before the error was known."""
    if b'"@odata.error"' in response.body or b'"error"' in response.body[:64]:
        from pipeline.connectors.http.json_rows import JsonBody as Body  # noqa: PLC0415 - optional dependency

        body = Body(response.body, Place(response.url))
        error = body.value(("@odata.error",)) or body.value(("error",))
        if isinstance(error, dict):
            got = str(error.get("message", error))
            raise SourceError("the service returned an error", got=got, place=Place(response.url))


def odata(
    url: str,
    entity_set: str,
    *,
    select: Sequence[str] = (),
    filter: str | None = None,  # noqa: A002 - the name of the option in OData
    expand: str | None = None,
    delta: bool = False,
    page_size: int | None = None,
    headers: Mapping[str, str] | None = None,
    auth: Credentials | None = None,
    cursor: str | None = None,
    lag: str | timedelta | int = 0,
    null_cursors: Nulls = "refuse",
    repeated: Repeated = "drop",
    rate: str | None = None,
    timeout: str | timedelta = "1 minute",
    deadline: str | timedelta = "5 minutes",
    most_pages: int = MOST_PAGES,
    most_response_bytes: int = 64 << 20,
    allowed_hosts: tuple[str, ...] = (),
    spool: str | None = None,
) -> OdataService:
    """Read an entity set of an OData service, version 4.

    `url` is the root of the service. `select`, `filter` and `expand` are OData's options of the same names. Without `schema=`,
    the types are those of the service's `$metadata`.

    With `delta=True`, the first run reads all entities and later ones the changes, by the delta links of the service; a
    removed entity is a row with the column `@removed`. Otherwise `cursor` is a property whose values say what is new, which
    is added to the filter. All other options are those of `rest`.

    Raises `DefinitionError` for invalid options.
    """
    address = require_plain_url(url)
    if delta and cursor is not None:
        raise DefinitionError(
            "delta=True and cursor= cannot be combined", do="remove one of them", place=Place(address)
        )
    if isinstance(select, str):
        raise DefinitionError(
            "select= must be a list", got=repr(select), do=f"write [{select!r}]", place=Place(address)
        )
    return OdataService(
        url=address,
        entity_set=entity_set,
        select=tuple(select),
        filter=filter,
        expand=expand,
        delta=delta,
        page_size=page_size,
        headers=dict(headers or {}),
        auth=require_credentials(auth),
        column=cursor_column(cursor, lag, null_cursors, repeated),
        calls=api_calls(rate, timeout, deadline, most_response_bytes, allowed_hosts),
        most_pages=most_pages,
        spool=spool,
    )
