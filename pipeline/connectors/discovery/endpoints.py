"""An endpoint of a REST API, or a file over HTTP, and some of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from pipeline.connectors.discovery.system import SystemAddress
from pipeline.connectors.rest.source import RestApi, rest
from pipeline.connectors.spool.progress import FetchedPage, Progress
from pipeline.core import scratch
from pipeline.core.discovery import Discoverable, DiscoveredObject, DiscoveryLimits, ReaderCall
from pipeline.core.errors import Place, SourceError
from pipeline.kernel.engine import arrow, connect
from pipeline.kernel.sql_text import literal


@dataclass(frozen=True)
class EndpointDiscovery:
    """See `Discoverable`."""

    reader: RestApi
    call: ReaderCall

    @property
    def uri(self) -> str:
        """The address without parameters."""
        return self.reader.url

    def objects(self, limits: DiscoveryLimits) -> Sequence[DiscoveredObject]:
        """Return the endpoint."""
        del limits
        page = self._first_page()
        notes = ("the first response has all rows",) if page.next is None else ("the rows are in several pages",)
        return [DiscoveredObject(_name(self.uri), "endpoint", self.call, notes=notes)]

    def sample(self, discovered: DiscoveredObject, limits: DiscoveryLimits) -> pa.Table:
        """Return the rows of the first response."""
        del discovered
        lines = self._first_page().lines[: limits.rows]
        if not lines:
            return pa.table({})
        with scratch.folder("sample") as folder, connect() as con:
            path = f"{folder}/rows.ndjson"
            with open(path, "wb") as file:  # noqa: PTH123 - a plain path
                file.write(b"\n".join(lines))
            return arrow(con, f"select * from read_json({literal(path)}, format = 'newline_delimited')")

    def _first_page(self) -> FetchedPage:
        page = next(iter(self.reader.fetch(Progress())), None)
        if page is None:
            raise SourceError("the endpoint returned no response", place=Place(self.uri))
        return page


def discoverable(address: SystemAddress) -> Discoverable:
    """Return what looks at an endpoint; a URL whose path ends like the name of a data file is a file."""
    from pipeline.connectors.discovery.files import format_of, one_file  # noqa: PLC0415 - only here

    parts = urlsplit(address.uri)
    if format_of(parts.path) is not None:
        return one_file(address)
    params = dict(parse_qsl(parts.query, keep_blank_values=True))
    url = parts._replace(query="").geturl()
    options: dict[str, object] = {"params": params} if params else {}
    return EndpointDiscovery(rest(url, params=params or None), ReaderCall("rest", (url,), tuple(options.items())))


def _name(url: str) -> str:
    return urlsplit(url).path.strip("/").rpartition("/")[2] or urlsplit(url).netloc
