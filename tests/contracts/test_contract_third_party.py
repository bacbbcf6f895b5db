"""The connector of docs/connectors.md: under the contract, against a server, and loaded by its entry point."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pipeline import connector
from pipeline.core.errors import DefinitionError
from pipeline.testing import ReaderContract, World
from tests.rigs.http_listener import HttpListener

PAGE = Path(__file__).parents[2] / "docs" / "connectors.md"
EXAMPLE = re.search(r"```python\n(# file: tickets\.py\n.*?)```", PAGE.read_text(), re.DOTALL)[1]


class Desk(HttpListener):
    tickets = 0


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/newest":
            answer: object = {"id": self.server.tickets}
        else:
            query = parse_qs(url.query)
            ids = range(int(query["after"][0]) + 1, int(query["upto"][0]) + 1)
            answer = [{"id": number, "subject": f"ticket {number}"} for number in ids]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        del args


class DeskWorld:
    schema = {"id": "bigint", "subject": "varchar"}  # noqa: RUF012 - not modified

    def __init__(self, tickets: type, desk: Desk) -> None:
        self.reader = tickets(f"http://127.0.0.1:{desk.server_port}")
        self._desk = desk

    def produce(self) -> int:
        self._desk.tickets += 7
        return 7


@pytest.fixture
def tickets(tmp_path, monkeypatch) -> Iterator[type]:
    """The class of the example, in a separate module."""
    (tmp_path / "headwater_tickets.py").write_text(EXAMPLE)
    monkeypatch.syspath_prepend(tmp_path)
    import headwater_tickets  # noqa: PLC0415 - the module was just written

    yield headwater_tickets.Tickets
    sys.modules.pop("headwater_tickets")


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Desk(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestTickets(ReaderContract):
    @pytest.fixture
    def world(self, tickets, desk) -> World:
        return DeskWorld(tickets, desk)


def test_example_is_short():
    assert len(EXAMPLE.splitlines()) < 80


def test_connector_is_loaded_by_its_entry_point(tickets, tmp_path):
    info = tmp_path / "headwater_tickets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: headwater-tickets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[headwater.connectors]\ntickets = headwater_tickets:Tickets\n")

    assert connector("tickets", url="http://desk") == tickets("http://desk")
    with pytest.raises(DefinitionError, match="no installed package registers the connector 'tiket'; did you mean 'ti"):
        connector("tiket")
    with pytest.raises(DefinitionError, match=r"'tickets' cannot be created: got .*unexpected keyword argument 'uri'"):
        connector("tickets", uri="http://desk")


def test_error_without_installed_connectors():
    with pytest.raises(
        DefinitionError, match=r"no installed package registers .*; install the package that provides it"
    ):
        connector("tickets")
