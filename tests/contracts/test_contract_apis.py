"""Connectors of APIs under the exported contract, against a server on loopback."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import airbyte_messages, dlt_resource, graphql, odata, rest, server_sent_events, singer, webhook
from pipeline.connectors.rest import BodyCursor, LinkHeader, Offset
from pipeline.testing import ReaderContract, World
from tests.rigs.graphql_api import NODES, GraphqlServer
from tests.rigs.http_faults import HttpServer, Received, Reply, http_server
from tests.rigs.odata_service import OdataServer
from tests.rigs.sse_server import EventServer

SCHEMA = {"id": "bigint", "name": "varchar"}


@pytest.fixture(scope="module")
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        yield running


class ApiWorld:
    """An API whose rows have ids; every third row is invalid, and pages have two rows."""

    schema = SCHEMA

    def __init__(self, server: HttpServer) -> None:
        self.server, self.rows, self._numbers = server, [], itertools.count(1)
        server.routes = {"/items": self.answer}

    def produce(self) -> int:
        for _ in range(5):
            number = next(self._numbers)
            name: Any = {"wrong": True} if number % 3 == 0 else f"n{number}"
            self.rows.append({"id": number, "name": name, "extra": [number]})
        return 5

    def answer(self, received: Received) -> Reply:
        after = int(received.params.get("after", 0))
        rows = [row for row in self.rows if row["id"] >= after]
        at = int(received.params.get("cursor", received.params.get("offset", 0)))
        page, following = rows[at : at + 2], str(at + 2) if at + 2 < len(rows) else None
        link = f"/items?after={after}&cursor={following}"
        headers = {} if following is None else {"Link": f'<{link}>; rel="next"'}
        return Reply({"items": page, "next_cursor": following}, headers=headers)


class RestWorld(ApiWorld):
    """The rows since the highest id."""

    def __init__(self, server: HttpServer, folder: Path, **options: Any) -> None:
        super().__init__(server)
        self.reader = rest(f"{server.url}/items", cursor="id", since="after", spool=str(folder / "spool"), **options)


class TestRestByLink(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return RestWorld(server, tmp_path, pages=LinkHeader())


class TestRestByCursorWithLag(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return RestWorld(server, tmp_path, pages=BodyCursor(), lag=3)


class TestRestByOffset(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return RestWorld(server, tmp_path, pages=Offset(limit=2))


class GraphqlWorld:
    """The connection of a GraphQL API, whose items have names."""

    schema = SCHEMA

    def __init__(self, server: HttpServer, folder: Path) -> None:
        self.api = GraphqlServer()
        server.routes = {"/graphql": self.api.answer}
        self.reader = graphql(f"{server.url}/graphql", NODES, cursor="id", since="since", spool=str(folder / "spool"))

    def produce(self) -> int:
        begin = len(self.api.items) + 1
        self.api.items += [{"id": n, "name": f"n{n}", "tags": []} for n in range(begin, begin + 5)]
        return 5


class TestGraphql(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return GraphqlWorld(server, tmp_path)


class OdataWorld:
    """An entity set; every third entity is invalid."""

    schema = SCHEMA

    def __init__(self, server: HttpServer, folder: Path, **options: Any) -> None:
        self.service = OdataServer(server.url)
        server.routes = {"/odata/items": self.service.answer}
        self.reader = odata(self.service.url, "items", spool=str(folder / "spool"), **options)

    def produce(self) -> int:
        begin = len(self.service.changes) + 1
        names: list[Any] = ["a", {"wrong": True}, "b", "c", 5]
        self.service.changes += [{"id": begin + n, "name": name} for n, name in enumerate(names)]
        return 5


class TestOdataByProperty(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return OdataWorld(server, tmp_path, cursor="id")


class TestOdataByDeltaLink(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return OdataWorld(server, tmp_path, delta=True)


class WebhookWorld:
    """Messages that are posted to an endpoint; some are not JSON objects."""

    schema = SCHEMA

    def __init__(self, folder: Path) -> None:
        self.reader = webhook("items", unsigned=True, spool=str(folder / "spool"))
        self._receiver, self._numbers = self.reader.receiver(), itertools.count()

    def produce(self) -> int:
        for _ in range(5):
            number = next(self._numbers)
            body = b"[]" if number % 4 == 3 else b'{"id": %d, "name": "n"}' % number
            assert self._receiver.receive({}, body).status == 200
        return 5


class TestWebhook(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return WebhookWorld(tmp_path)


class EventsWorld:
    """A stream of events, whose connections are closed after two; some are not JSON objects."""

    schema = SCHEMA

    def __init__(self, server: HttpServer, folder: Path) -> None:
        self.events = EventServer(stays_s=2)
        self.events.cut_after = 2
        server.routes = {"/events": self.events.answer}
        self.reader = server_sent_events(
            f"{server.url}/events", idle="100 milliseconds", listen="30 seconds", spool=str(folder / "spool")
        )

    def produce(self) -> int:
        for number in range(3):
            self.events.add("text" if number == 1 else f'{{"id": {number}, "name": "n"}}')
        return 3


class TestServerSentEvents(ReaderContract):
    @pytest.fixture
    def world(self, server: HttpServer, tmp_path: Path) -> World:
        return EventsWorld(server, tmp_path)


class TapWorld:
    """A tap that writes its last record again; every third record is invalid."""

    schema = SCHEMA

    def __init__(self, folder: Path, kind: Any) -> None:
        self._file, self._numbers = folder / "items.jsonl", itertools.count(1)
        self._file.touch()
        program = [sys.executable, str(Path(__file__).parents[1] / "rigs" / "tap_program.py")]
        self.reader = kind(program, "items", config={"file": str(self._file)}, cursor="id", spool=str(folder / "spool"))

    def produce(self) -> int:
        with self._file.open("a") as file:
            for _ in range(3):
                number = next(self._numbers)
                file.write(f'{{"id": {number}, "name": {"[1]" if number % 3 == 0 else chr(34) + "n" + chr(34)}}}\n')
        return 3


class TestSinger(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return TapWorld(tmp_path, singer)


class TestAirbyte(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return TapWorld(tmp_path, airbyte_messages)


class DltWorld:
    """A resource with a state; the second of three items is invalid."""

    schema = SCHEMA

    def __init__(self, folder: Path) -> None:
        dlt = pytest.importorskip("dlt")
        self._items: list[dict[str, Any]] = []

        def items() -> Any:
            def yield_items(id: Any = dlt.sources.incremental("id", initial_value=0)) -> Any:  # noqa: A002, B008 - dlt's way
                yield [item for item in self._items if item["id"] >= id.last_value]

            return dlt.resource(yield_items, name="items")()

        self.reader = dlt_resource(items, spool=str(folder / "spool"))

    def produce(self) -> int:
        begin = len(self._items) + 1
        self._items += [{"id": begin + n, "name": "n" if n != 1 else {"wrong": True}} for n in range(3)]
        return 3


class TestDlt(ReaderContract):
    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return DltWorld(tmp_path)
