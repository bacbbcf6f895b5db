"""The protocol of Delta Sharing: the profile of a recipient, and requests for the data files of a table."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from pipeline.connectors.http.credentials import Bearer
from pipeline.connectors.rest.api import ApiCalls, client_of
from pipeline.core.credentials import is_reference, secret
from pipeline.core.errors import Place, SettingsError, SourceError

if TYPE_CHECKING:
    from pipeline.connectors.http.client import HttpClient

_VERSION_HEADER = "delta-table-version"
_FRESH_S = 300
"""Answers are used for this long; the addresses of data files in them are usually valid for an hour."""


@dataclass(frozen=True)
class ShareToken(Bearer):
    """The token of a profile, which is sent to the server only; data files have addresses with a signature."""

    hidden: tuple[str, ...] = ()

    @property
    def parameters(self) -> tuple[str, ...]:  # type: ignore[override]
        """The parameters of addresses that must not be shown."""
        return self.hidden


@dataclass(frozen=True)
class SharedTable:
    """A table of a share, and the profile of its recipient: a path, or a reference to its content."""

    profile: str
    share: str
    schema: str
    table: str
    calls: ApiCalls = field(default_factory=ApiCalls)

    @property
    def uri(self) -> str:
        """The table, as `_source` and errors show it."""
        return f"delta-sharing://{self.share}/{self.schema}/{self.table}"

    @contextmanager
    def client(self, hidden: tuple[str, ...] = ()) -> Iterator[tuple[HttpClient, str]]:
        """Yield a client of the server, and the address of the table."""
        names = "/".join(
            f"{kind}/{quote(name, safe='')}"
            for kind, name in (("shares", self.share), ("schemas", self.schema), ("tables", self.table))
        )
        with _client(self.profile, self.calls, hidden) as (client, endpoint):
            yield client, f"{endpoint}/{names}"


def read_profile(profile: str) -> tuple[str, str]:
    """Return the address of the server and the token; raise `SettingsError` if there is no valid profile."""
    what = "the profile of a share"
    text = secret(profile if is_reference(profile) else f"file:{profile}", what)
    try:
        value = json.loads(text)
        endpoint, token = str(value["endpoint"]), str(value["bearerToken"])
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{what} is not valid", got=type(error).__name__, do="download it again from its provider"
        ) from error
    return endpoint.rstrip("/"), token


@contextmanager
def _client(profile: str, calls: ApiCalls, hidden: tuple[str, ...] = ()) -> Iterator[tuple[HttpClient, str]]:
    endpoint, token = read_profile(profile)
    with client_of(endpoint, calls, ShareToken(token, hidden), {}, "delta_sharing(…)") as client:
        yield client, endpoint


def shared_tables(profile: str, most: int) -> list[str]:
    """Return `share.schema.table` of what a provider shares; of more than `most`, at least as many."""
    names: list[str] = []
    with _client(profile, ApiCalls()) as (client, endpoint):
        for share in _items(client, f"{endpoint}/shares"):
            at = f"{endpoint}/shares/{quote(str(share['name']), safe='')}/all-tables"
            for table in _items(client, at):
                names.append(f"{table['share']}.{table['schema']}.{table['name']}")
                if len(names) >= most:
                    return names
    return names


def _items(client: HttpClient, address: str) -> Iterator[Mapping[str, Any]]:
    """Yield the items of a list, page by page."""
    from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - an extra

    token: str | None = None
    while True:
        response = client.get(ApiRequest(address, {} if token is None else {"pageToken": token}))
        try:
            page = json.loads(response.body)
            items, following = list(page.get("items") or ()), page.get("nextPageToken") or None
        except (ValueError, AttributeError) as error:
            raise SourceError("the answer of the server is not one of Delta Sharing", place=Place(address)) from error
        yield from items
        if following is None or following == token:
            return
        token = str(following)


@dataclass(frozen=True)
class SharedAnswer:
    """The answer to a request: the version of the table, its metadata, and its data files as the server lists them."""

    version: int
    metadata: Mapping[str, Any]
    files: tuple[Mapping[str, Any], ...]


def newest_version(table: SharedTable) -> int:
    """Return the newest version of a table."""
    from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - an extra

    with table.client() as (client, address):
        response = client.get(ApiRequest(f"{address}/version"))
    return _version(response.headers, Place(table.uri))


def ask_again(table: SharedTable, planned: str, request: str, **options: int) -> SharedAnswer:
    """Return the answer to a request of one plan; it may be some minutes old."""
    return _answer(table, planned, request, tuple(sorted(options.items())), int(time.monotonic() // _FRESH_S))


@functools.lru_cache(maxsize=16)
def _answer(
    table: SharedTable, planned: str, request: str, options: tuple[tuple[str, int], ...], minutes: int
) -> SharedAnswer:
    del planned, minutes  # they say how long the answer is valid
    return ask(table, request, **dict(options))


def ask(table: SharedTable, request: str, **options: int) -> SharedAnswer:
    """Return the answer to `query` or `changes`.

    Raises `SourceError` if the server refuses it, and for a table that cannot be read.
    """
    from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - an extra

    with table.client() as (client, address):
        if request == "query":
            made = ApiRequest(f"{address}/query", method="POST", body=options)
        else:
            made = ApiRequest(f"{address}/changes", {name: str(value) for name, value in options.items()})
        response = client.get(made)
    place = Place(table.uri)
    try:
        lines = [json.loads(line) for line in response.body.splitlines() if line.strip()]
        protocol = next(line["protocol"] for line in lines if "protocol" in line)
        metadata = next(line["metaData"] for line in lines if "metaData" in line)
    except (ValueError, StopIteration, KeyError, TypeError) as error:
        raise SourceError("the answer of the server is not one of Delta Sharing", place=place) from error
    if int(protocol.get("minReaderVersion", 1)) > 1:
        raise SourceError(
            "the shared table has features that cannot be read",
            got=f"reader version {protocol['minReaderVersion']}",
            do="ask its provider for a table without deletion vectors and column mapping",
            place=place,
        )
    files = tuple({**each, "kind": kind} for line in lines for kind, each in line.items() if "url" in each)
    return SharedAnswer(_version(response.headers, place), metadata, files)


def _version(headers: Mapping[str, str], place: Place) -> int:
    try:
        return int(headers[_VERSION_HEADER])
    except (KeyError, ValueError) as error:
        raise SourceError("the server did not say which version the table has", place=place) from error


def download(table: SharedTable, url: str, folder: str) -> Path:
    """Return a data file in a folder; its address, which has a signature, is never shown."""
    from pipeline.connectors.http.client import ApiRequest  # noqa: PLC0415 - an extra

    hidden = tuple(name for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True))
    with table.client(hidden) as (client, _):
        response = client.get(ApiRequest(url, headers={"Accept": "*/*"}))
    path = Path(folder) / "file.parquet"
    path.write_bytes(response.body)
    return path
