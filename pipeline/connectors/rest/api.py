"""The base class of APIs over HTTP that return JSON page by page: REST, GraphQL and OData."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar, Literal
from urllib.parse import urlsplit, urlunsplit

from pipeline.connectors.guard import Guarded, Rate
from pipeline.connectors.guard.calls import RetryRule
from pipeline.connectors.http.credentials import Credentials
from pipeline.connectors.spool.high_water import CursorColumn, HighWater, Nulls, floor_of, text_of
from pipeline.connectors.spool.progress import FetchedPage, PagedSource, Progress
from pipeline.connectors.spool.reader import SpooledReader
from pipeline.core.cursors import UNBOUNDED, Bound, Cursor, ReadPlan
from pipeline.core.errors import DefinitionError, quantity
from pipeline.core.event_time import parse_duration
from pipeline.core.extras import imports_of
from pipeline.core.findings import Finding, FindingState

if TYPE_CHECKING:
    from pipeline.connectors.http.client import ApiRequest, HttpClient
    from pipeline.connectors.rest.paging import Paging

SinceFormat = Literal["as delivered", "iso", "date", "epoch", "epoch_ms"]
Repeated = Literal["drop", "keep"]
MOST_PAGES = 10_000
_SECOND_US = 1_000_000


@dataclass(frozen=True)
class ApiCalls:
    """How an API is called: its limits, and what else may be reached."""

    rate: Rate | None = None
    timeout_s: float = 60.0
    deadline_s: float = 300.0
    """For all attempts of one request, with their waits."""
    attempts: int = 6
    most_response_bytes: int = 64 << 20
    allowed_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Since:
    """How a request asks for new rows only."""

    parameter: str | None = None
    """The parameter with the lowest value of the cursor column to return; `None`: the API always returns all rows."""
    format: SinceFormat = "as delivered"
    start: str | None = None
    """The value for the first fetch."""


@dataclass(frozen=True, kw_only=True)
class ApiReader(SpooledReader):
    """A source whose plan sends requests to one address and follows the pages of the responses."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: Credentials | None = None
    column: CursorColumn | None = None
    calls: ApiCalls = field(default_factory=ApiCalls)
    most_pages: int = MOST_PAGES

    function: ClassVar[str] = "rest(…)"
    """What needs the extra, as shown in errors."""

    @abstractmethod
    def first(self, progress: Progress) -> ApiRequest:
        """Return the first request of a fetch of what is new."""

    @abstractmethod
    def paging(self) -> Paging:
        """Return how the pages of a fetch are followed."""

    @property
    def uri(self) -> str:
        """The address."""
        return self.url

    @property
    def by_token(self) -> bool:
        """Whether the API itself knows what is new."""
        return False

    def plan(self, cursor: Cursor | None, bound: Bound = UNBOUNDED) -> ReadPlan:
        """Fetch what is new since a cursor into the spool; see `PagedSource.plan`.

        Raises `SourceUnavailableError` if the API does not answer in time, and `SourceError` if it refuses a request, or if
        its responses are not as declared.
        """
        return PagedSource(self.uri, self.segments, self.fetch, self.column, self.by_token).plan(cursor, bound)

    def check(self) -> Iterator[Finding]:
        """Yield the number of rows of the first page; raise `SourceError` if the API is unavailable."""
        page = next(self.fetch(Progress()))
        which = "the first of several pages" if page.next else "the only page"
        yield Finding(self.uri, FindingState.OK, f"{which} has {quantity(len(page.lines), 'row')}")

    def fetch(self, progress: Progress) -> Iterator[FetchedPage]:
        """Yield the pages of what is new since a progress."""
        with self.client() as client:
            from pipeline.connectors.rest.paging import follow  # noqa: PLC0415 - optional dependency

            first = self.first(progress) if progress.next is None else None
            yield from follow(client, first, self.paging(), progress.next)

    @contextmanager
    def client(self) -> Iterator[HttpClient]:
        """Yield a client of the API."""
        with client_of(self.url, self.calls, self.auth, self.headers, self.function) as client:
            yield client


@contextmanager
def client_of(
    url: str, calls: ApiCalls, auth: Credentials | None, headers: Mapping[str, str], what: str = "rest(…)"
) -> Iterator[HttpClient]:
    """Yield an HTTP client for an address; raise `SourceError` if its library is not installed."""
    with imports_of("rest", what):
        from pipeline.connectors.http.client import HttpClient, HttpLimits, Identity  # noqa: PLC0415 - optional dependency
    retries = RetryRule(attempts=calls.attempts, deadline_s=calls.deadline_s)
    guarded = Guarded(urlsplit(url).netloc, calls.rate, retries)
    limits = HttpLimits(calls.timeout_s, calls.most_response_bytes, calls.allowed_hosts)
    client = HttpClient(url, guarded, Identity(auth, headers), limits)
    try:
        yield client
    finally:
        client.close()


def since_text(high: HighWater, column: CursorColumn, style: SinceFormat) -> str:
    """Return the value from which on rows are asked for."""
    if style == "as delivered" and not column.lag:
        return high.text
    key = floor_of(high.kind, high.key, column)
    if high.kind in {"instant", "timestamp"} and style not in {"as delivered", "iso"}:
        if style == "date":
            return text_of(high.kind, key)[:10]
        return str(int(key) // (_SECOND_US if style == "epoch" else 1000))
    return text_of(high.kind, key)


def cursor_column(
    cursor: str | None, lag: str | timedelta | int, null_cursors: Nulls, repeated: Repeated
) -> CursorColumn | None:
    """Return the cursor column from the options of a definition; raise `DefinitionError` for invalid ones."""
    if repeated not in {"drop", "keep"}:
        raise DefinitionError("unknown value of repeated=", got=repr(repeated), do="use 'drop' or 'keep'")
    lagging = parse_duration(lag, "lag=") if isinstance(lag, str) else lag
    return None if cursor is None else CursorColumn(cursor, lagging, null_cursors, repeated == "drop")


def require_plain_url(url: str) -> str:
    """Return an HTTP address without fragment; raise `DefinitionError` for any other, and for one with a password."""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as error:
        raise DefinitionError("the address of an API is invalid", got=f"{error}: {_masked(url)!r}") from error
    if parts.scheme not in {"http", "https"} or not host:
        raise DefinitionError("the address of an API begins with https:// or http://", got=repr(_masked(url)))
    if parts.username is not None or parts.password is not None:
        do = "remove it, and pass auth=Basic('user', password='env:NAME')"
        raise DefinitionError("an address must not contain a user and a password", got=repr(_masked(url)), do=do)
    return urlunsplit(parts._replace(fragment=""))


def _masked(url: str) -> str:
    head, mark, rest = url.rpartition("@")
    return f"{head.partition('://')[0]}://***@{rest}" if mark else url


def api_calls(
    rate: str | None,
    timeout: str | timedelta,
    deadline: str | timedelta,
    most_response_bytes: int,
    allowed_hosts: tuple[str, ...],
) -> ApiCalls:
    """Return how an API is called, from the options of a definition; raise `DefinitionError` for invalid ones."""
    if not isinstance(allowed_hosts, tuple):
        raise DefinitionError(
            "allowed_hosts= must be a tuple", got=repr(allowed_hosts), do=f"write ({allowed_hosts!r},)"
        )
    timeout_s, deadline_s = (
        parse_duration(each, name).total_seconds() for each, name in ((timeout, "timeout="), (deadline, "deadline="))
    )
    limit = None if rate is None else Rate.of(rate)
    return ApiCalls(
        limit, timeout_s, deadline_s, most_response_bytes=most_response_bytes, allowed_hosts=tuple(allowed_hosts)
    )
