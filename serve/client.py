"""A client of the endpoints: tables, SQL and predictions, in Python, with retries, pages and Arrow.

    from serve.client import ApiClient

    with ApiClient("http://127.0.0.1:8000") as client:  # the key is in HEADWATER_API_KEY
        for row in client.rows("departure_delays", origin="eq.JFK", order="late.desc"):
            ...
        delays = client.arrow("departure_delays")  # all rows, as a table of PyArrow
        worst = client.query("select origin, max(late) as late from departure_delays group by all")
        every = client.query("select * from departure_delays order by late", background=True)

`AsyncApiClient` has the same methods to await. Needs `headwater[rest]`, and no other part of Headwater's server.
"""

from __future__ import annotations

import io
import json
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from urllib.parse import quote

import anyio
import httpx

from pipeline.core.errors import HeadwaterError, UnavailableError

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
KEY = "HEADWATER_API_KEY"
"""The environment variable with the key."""
_ARROW = "application/vnd.apache.arrow.stream"
_LATER = (429, 502, 503, 504)
_LONGEST_WAIT_S = 30.0
_LONGEST_POLL_S = 5.0
_BAD, _ERROR = 400, 500


class ApiError(HeadwaterError):
    """The server refused a request: `status` is that of HTTP, and the other parts are the server's."""

    status: int = 0

    @classmethod
    def of(cls, status: int, body: bytes) -> ApiError:
        """Return the error for a response, whose body is a problem of RFC 9457, that of GraphQL, or anything else."""
        try:
            parts = json.loads(body)
            if "errors" in parts:
                first = parts["errors"][0]
                parts = {"detail": first["message"], **first.get("extensions", {})}
            error = cls(str(parts["detail"]), got=parts.get("got"), do=parts.get("do"))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            error = cls(f"the server returned {status}", got=repr(body[:200].decode(errors="replace")))
        error.status = status
        return error

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by the parts and the status."""
        return (*super().__reduce__(), self.__dict__)


@dataclass(frozen=True)
class _Call(Generic[T]):
    """A request that changes nothing, or has a key, so that it can be sent again; and how its response is read."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Sequence[tuple[str, str]] = ()
    body: object = None
    accept: str = "application/json"
    key: str = ""
    """By which the server recognizes a request that writes when it is sent again."""
    prefer: str = ""

    def arguments(self) -> dict[str, Any]:
        content = None if self.body is None else json.dumps(self.body).encode()
        headers = {"Accept": self.accept} | ({} if content is None else {"Content-Type": "application/json"})
        headers |= {"Idempotency-Key": self.key} if self.key else {}
        headers |= {"Prefer": self.prefer} if self.prefer else {}
        # a link to the next page has its parameters in the path
        params = {} if not self.params else {"params": list(self.params)}
        return {"method": self.method, "url": self.path, "content": content, "headers": headers, **params}


_Outcome = httpx.Response | httpx.TransportError


class _Attempts:
    """When a request is sent again: while the server is busy or away, for some time."""

    def __init__(self, patience_s: float) -> None:
        self._until = time.monotonic() + patience_s
        self._count = 0

    def wait_s(self, outcome: _Outcome) -> float | None:
        """Return how long to wait before the next attempt; `None` if there is none."""
        if not _is_away(outcome):
            return None
        said = outcome.headers.get("Retry-After", "") if isinstance(outcome, httpx.Response) else ""
        # as long as the server says, otherwise longer each time
        longer = min(0.1 * float(2**self._count), 5.0) * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        wait = min(float(said), _LONGEST_WAIT_S) if said.isdecimal() else longer
        self._count += 1
        return wait if time.monotonic() + wait <= self._until else None


def _is_away(outcome: _Outcome) -> bool:
    """Return whether a server does not answer, is busy, or is lost to its proxy: those say 500 in plain text, and we never do."""
    if isinstance(outcome, httpx.TransportError):
        return True
    is_plain = outcome.headers.get("Content-Type", "").startswith("text/plain")
    return outcome.status_code in _LATER or (outcome.status_code == _ERROR and is_plain)


def _good(outcome: _Outcome, url: str) -> httpx.Response:
    """Return the response to the last attempt; raise `UnavailableError` if there is none, and `ApiError` for a refusal."""
    if isinstance(outcome, httpx.TransportError):
        got = str(outcome) or type(outcome).__name__
        raise UnavailableError(f"the server at {url} does not answer", got=got) from outcome
    if outcome.status_code >= _BAD:
        raise ApiError.of(outcome.status_code, outcome.content)
    return outcome


def _poll_s(waits: int) -> float:
    """Return how long to wait before a status is asked for again: longer each time, so that a long query costs few requests."""
    return min(0.1 * 1.5 ** min(waits, 20), _LONGEST_POLL_S)


def _path(*parts: str) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def _parameters(words: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return parameters of a table: a list of values is several conditions on a column."""
    pairs: list[tuple[str, str]] = []
    for name, value in words.items():
        several = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, str(each)) for each in several]
    return pairs


def _read_json(response: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = response.json()
    return body


def _read_rows(response: httpx.Response) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = response.json()["rows"]
    return rows


def _read_arrow(response: httpx.Response) -> pa.Table:
    import pyarrow as pa  # noqa: PLC0415 - not needed for rows

    return pa.ipc.open_stream(io.BytesIO(response.content)).read_all()


def _read_graphql(response: httpx.Response) -> dict[str, Any]:
    body = _read_json(response)
    if "errors" in body:
        raise ApiError.of(response.status_code, response.content)
    data: dict[str, Any] = body["data"]
    return data


_TABLES: _Call[list[dict[str, Any]]] = _Call("GET", "/v1/tables", lambda response: response.json()["tables"])


def _page(path: str, words: Mapping[str, object] | None = None) -> _Call[dict[str, Any]]:
    return _Call("GET", path, _read_json, () if words is None else _parameters({"limit": 1000, **words}))


def _arrow(path: str, words: Mapping[str, object]) -> _Call[pa.Table]:
    return _Call("GET", path, _read_arrow, _parameters({"limit": "all", **words}), accept=_ARROW)


def _query(sql: str) -> _Call[pa.Table]:
    return _Call("POST", "/v1/query", _read_arrow, body={"sql": sql, "limit": "all"}, accept=_ARROW)


def _submission(sql: str, limit: int | None) -> _Call[str]:
    body = {"sql": sql, "limit": "all" if limit is None else limit}
    return _Call("POST", "/v1/query", lambda response: response.json()["id"], body=body, prefer="respond-async")


def _status(query_id: str) -> _Call[dict[str, Any]]:
    return _Call("GET", _path("query", query_id), _read_json)


def _end(query_id: str) -> _Call[None]:
    return _Call("DELETE", _path("query", query_id), lambda _: None)


def _is_active(status: Mapping[str, Any]) -> bool:
    """Return whether a query still waits or runs; raise `ApiError` if it has no rows."""
    if status["status"] in {"queued", "running"}:
        return True
    if status["status"] == "done":
        return False
    parts = status.get("problem", {})
    raise ApiError(parts.get("detail", "the query was cancelled"), got=parts.get("got"), do=parts.get("do"))


def _graphql(document: str, variables: Mapping[str, object]) -> _Call[dict[str, Any]]:
    return _Call("POST", "/v1/graphql", _read_graphql, body={"query": document, "variables": dict(variables)})


def _features(view: str, entities: Sequence[Mapping[str, Any]], names: Sequence[str]) -> _Call[list[dict[str, Any]]]:
    body = {"entities": list(entities)} | ({"features": list(names)} if names else {})
    return _Call("POST", _path("features", view), _read_rows, body=body)


def _prediction(model: str, rows: Sequence[Mapping[str, Any]], options: Mapping[str, object]) -> _Call[dict[str, Any]]:
    return _Call("POST", _path("models", model, "predict"), _read_json, body={"rows": list(rows), **options})


def _write(source: str, rows: Sequence[Mapping[str, Any]], key: str | None) -> _Call[int]:
    path, key = _path("sources", source), key or str(uuid.uuid4())
    return _Call("POST", path, lambda response: response.json()["rows"], body=list(rows), key=key)


def _settings(url: str, key: str | None, timeout_s: float) -> dict[str, Any]:
    text = os.environ.get(KEY, "") if key is None else key
    headers = {"Authorization": f"Bearer {text}"} if text else {}
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": timeout_s}


class ApiClient:
    """The endpoints at a URL. Thread-safe.

    A request that finds the server busy or away, or whose response breaks off, is sent again for `patience_s` seconds: all are
    requests that change nothing, or that the server recognizes. Raises `ApiError` for a request that the server refuses, `UnavailableError` if it does not answer.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 60.0, patience_s: float = 30.0) -> None:
        """Create the client; nothing is sent. `key` is by default that of the environment variable `HEADWATER_API_KEY`."""
        self._url = url
        self._patience_s = patience_s
        self._http = httpx.Client(**_settings(url, key, timeout_s))

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def tables(self) -> list[dict[str, Any]]:
        """Return the tables that the key may read: `name`, `columns`, `version` and so on."""
        return self._ask(_TABLES)

    def rows(self, table: str, **words: object) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table, page by page, all of one version.

        `words` are the parameters of the endpoint: `select="a,b"`, `order="a.desc"`, `a="gt.1"`. `limit` is the size of a page.
        """
        yield from self._pages(self._ask(_page(_path("tables", table), words)))

    def changes(self, table: str, since: int | str, **words: object) -> tuple[int, Iterator[dict[str, Any]]]:
        """Return the newest version of a table, and its rows that differ from an earlier one, page by page.

        `since` is the number of that version, or a time. A row has `_change_type` (`insert`, `delete`, `update_preimage` or
        `update_postimage`), `_changed` (the columns that differ), and the columns of the table. `words` are as for `rows`.
        """
        page = self._ask(_page(_path("tables", table, "changes"), {**words, "since": since}))
        return page["version"], self._pages(page)

    def arrow(self, table: str, **words: object) -> pa.Table:
        """Return the rows of a table, all of them without `limit`, with the types of the table."""
        return self._ask(_arrow(_path("tables", table), words))

    def metric(self, *names: str, **words: object) -> pa.Table:
        """Return metrics. `words` are those of the endpoint: `dimensions="origin"`, `grain="month"`, `origin="eq.JFK"`."""
        return self._ask(_arrow(_path("metrics"), {"metrics": ",".join(names), **words}))

    def query(self, sql: str, *, background: bool = False) -> pa.Table:
        """Return the rows of one SELECT. The key needs the scope `query`.

        With `background`, it may take longer than a request: it is submitted, waited for, and its result removed from the server.
        """
        if not background:
            return self._ask(_query(sql))
        query_id = self.submit(sql)
        try:
            return self.result(query_id)
        finally:
            with suppress(ApiError):  # it was removed already
                self.end_query(query_id)

    def submit(self, sql: str, limit: int | None = None) -> str:
        """Let one SELECT run in the background, with at most so many rows, and return its id.

        If the response is lost, it is submitted twice.
        """
        return self._ask(_submission(sql, limit))

    def query_status(self, query_id: str) -> dict[str, Any]:
        """Return the status of a query in the background: `status`, `row_count`, `expires_at` and so on."""
        return self._ask(_status(query_id))

    def result(self, query_id: str) -> pa.Table:
        """Wait for a query in the background, and return its rows. Raises `ApiError` if it fails or is cancelled."""
        waits = 0
        while _is_active(self.query_status(query_id)):
            time.sleep(_poll_s(waits))
            waits += 1
        return self._ask(_arrow(_path("query", query_id, "rows"), {}))

    def end_query(self, query_id: str) -> None:
        """Cancel a query in the background, or remove its result."""
        self._ask(_end(query_id))

    def graphql(self, document: str, **variables: object) -> dict[str, Any]:
        """Return the data of a GraphQL query; raise `ApiError` if a field has none because of an error."""
        return self._ask(_graphql(document, variables))

    def features(
        self, view: str, entities: Sequence[Mapping[str, Any]], names: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the features of entities in their order, each with `entity`, `found`, `event_time` and `features`; all without `names`."""
        return self._ask(_features(view, entities, names))

    def predict(self, model: str, rows: Sequence[Mapping[str, Any]], **options: object) -> dict[str, Any]:
        """Return the response of a model to rows: `predictions`, `version` and so on. The key needs the scope `predict`."""
        return self._ask(_prediction(model, rows, options))

    def write(self, source: str, rows: Sequence[Mapping[str, Any]], key: str | None = None) -> int:
        """Send rows to a source, and return how many it has taken: all of them, once. The key needs the scope `write`.

        `key` is that of `Idempotency-Key`: pass the same one to send the same rows again later. By default, each call has its own.
        """
        return self._ask(_write(source, rows, key))

    def _pages(self, page: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from page["rows"]
        while page["next"]:
            page = self._ask(_page(page["next"]))
            yield from page["rows"]

    def _ask(self, call: _Call[T]) -> T:
        attempts = _Attempts(self._patience_s)
        while True:
            outcome: _Outcome
            try:
                outcome = self._http.request(**call.arguments())
            except httpx.TransportError as error:
                outcome = error
            wait = attempts.wait_s(outcome)
            if wait is None:
                return call.read(_good(outcome, self._url))
            time.sleep(wait)


class AsyncApiClient:
    """As `ApiClient`, with methods to await."""

    def __init__(self, url: str, key: str | None = None, *, timeout_s: float = 60.0, patience_s: float = 30.0) -> None:
        """Create the client; nothing is sent. `key` is by default that of the environment variable `HEADWATER_API_KEY`."""
        self._url = url
        self._patience_s = patience_s
        self._http = httpx.AsyncClient(**_settings(url, key, timeout_s))

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def tables(self) -> list[dict[str, Any]]:
        """Return the tables that the key may read; see `ApiClient.tables`."""
        return await self._ask(_TABLES)

    async def rows(self, table: str, **words: object) -> AsyncIterator[dict[str, Any]]:
        """Yield the rows of a table; see `ApiClient.rows`."""
        async for row in self._pages(await self._ask(_page(_path("tables", table), words))):
            yield row

    async def changes(self, table: str, since: int | str, **words: object) -> tuple[int, AsyncIterator[dict[str, Any]]]:
        """Return the newest version of a table, and its rows that differ from an earlier one; see `ApiClient.changes`."""
        page = await self._ask(_page(_path("tables", table, "changes"), {**words, "since": since}))
        return page["version"], self._pages(page)

    async def arrow(self, table: str, **words: object) -> pa.Table:
        """Return the rows of a table; see `ApiClient.arrow`."""
        return await self._ask(_arrow(_path("tables", table), words))

    async def metric(self, *names: str, **words: object) -> pa.Table:
        """Return metrics; see `ApiClient.metric`."""
        return await self._ask(_arrow(_path("metrics"), {"metrics": ",".join(names), **words}))

    async def query(self, sql: str, *, background: bool = False) -> pa.Table:
        """Return the rows of one SELECT; see `ApiClient.query`."""
        if not background:
            return await self._ask(_query(sql))
        query_id = await self.submit(sql)
        try:
            return await self.result(query_id)
        finally:
            with anyio.CancelScope(shield=True), suppress(ApiError):
                await self.end_query(query_id)

    async def submit(self, sql: str, limit: int | None = None) -> str:
        """Let one SELECT run in the background; see `ApiClient.submit`."""
        return await self._ask(_submission(sql, limit))

    async def query_status(self, query_id: str) -> dict[str, Any]:
        """Return the status of a query in the background; see `ApiClient.query_status`."""
        return await self._ask(_status(query_id))

    async def result(self, query_id: str) -> pa.Table:
        """Return the rows of a query in the background; see `ApiClient.result`."""
        waits = 0
        while _is_active(await self.query_status(query_id)):
            await anyio.sleep(_poll_s(waits))
            waits += 1
        return await self._ask(_arrow(_path("query", query_id, "rows"), {}))

    async def end_query(self, query_id: str) -> None:
        """Cancel a query in the background; see `ApiClient.end_query`."""
        await self._ask(_end(query_id))

    async def graphql(self, document: str, **variables: object) -> dict[str, Any]:
        """Return the data of a GraphQL query; see `ApiClient.graphql`."""
        return await self._ask(_graphql(document, variables))

    async def features(
        self, view: str, entities: Sequence[Mapping[str, Any]], names: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the features of entities; see `ApiClient.features`."""
        return await self._ask(_features(view, entities, names))

    async def predict(self, model: str, rows: Sequence[Mapping[str, Any]], **options: object) -> dict[str, Any]:
        """Return the response of a model to rows; see `ApiClient.predict`."""
        return await self._ask(_prediction(model, rows, options))

    async def write(self, source: str, rows: Sequence[Mapping[str, Any]], key: str | None = None) -> int:
        """Send rows to a source; see `ApiClient.write`."""
        return await self._ask(_write(source, rows, key))

    async def _pages(self, page: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        for row in page["rows"]:
            yield row
        while page["next"]:
            page = await self._ask(_page(page["next"]))
            for row in page["rows"]:
                yield row

    async def _ask(self, call: _Call[T]) -> T:
        attempts = _Attempts(self._patience_s)
        while True:
            outcome: _Outcome
            try:
                outcome = await self._http.request(**call.arguments())
            except httpx.TransportError as error:
                outcome = error
            wait = attempts.wait_s(outcome)
            if wait is None:
                return call.read(_good(outcome, self._url))
            await anyio.sleep(wait)
