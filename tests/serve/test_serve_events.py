"""New versions of tables: as events, and for clients that wait."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from pipeline.governance.api_keys import ApiKeys
from pipeline.project.workspace import Workspace
from serve import version_events
from serve.access import authentication
from tests.rigs.in_process_server import served
from tests.serve.conftest import problem_of


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(version_events, "EVERY_S", 0.02)
    monkeypatch.setattr("serve.tables.FRESH_S", 0.0)


@pytest.fixture
def url(cafe):
    with served(cafe.project()) as url:
        yield url


def changed(cafe):
    cafe.add(f"more{time.time_ns()}", f"{time.time_ns()},2026-01-05,2026-01-05T08:00:00Z,Ann,1,2.50,4.5,true\n")
    cafe.run()


def ask(client, path="/v1/tables/cafe_orders/events", **parameters):
    return client.get(path, params=parameters)


def test_a_client_that_waits_gets_the_next_version(cafe):
    changed(cafe)
    with cafe.client() as client:
        now = ask(client).json()["version"]
        assert ask(client, since=now).status_code == 204
        begun = time.monotonic()
        assert ask(client, since=now, wait=1).status_code == 204
        assert time.monotonic() - begun > 0.9
        assert ask(client, since=now - 1, wait=60).json() == {"table": "cafe_orders", "version": now}
        writer = threading.Thread(target=changed, args=(cafe,))
        writer.start()
        found = ask(client, since=now, wait=60)
        writer.join()
        assert found.json() == {"table": "cafe_orders", "version": now + 1}
        assert found.headers["cache-control"] == "no-store"


def events_of(response):
    """The events of a stream, each as its fields."""
    event: dict[str, str] = {}
    for line in response.iter_lines():
        if not line and event:
            yield event
            event = {}
        elif line and not line.startswith(":"):
            name, _, value = line.partition(": ")
            event[name] = value


def test_events_are_sent_once_also_after_another_connection(cafe, url):
    headers = {"Authorization": f"Bearer {cafe.key()}", "Accept": "text/event-stream"}
    path = f"{url}/v1/tables/cafe_orders/events"
    with httpx.Client(headers=headers, timeout=60) as client:
        with client.stream("GET", path) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = events_of(response)
            first = next(events)
            changed(cafe)
            second = next(events)
        number = int(first["id"])
        assert first == {
            "id": str(number),
            "event": "version",
            "data": f'{{"table": "cafe_orders", "version": {number}}}',
        }
        assert second["id"] == str(number + 1)
        with client.stream("GET", path, headers={"Last-Event-ID": str(number + 1)}) as response:
            events = events_of(response)
            changed(cafe)
            assert next(events)["id"] == str(number + 2)


def test_events_end_when_the_key_does(cafe, url, monkeypatch):
    monkeypatch.setattr(authentication, "EVERY_S", 0.0)
    keys = ApiKeys(Workspace(cafe.project()).catalog, "dev")
    text, key = keys.create("ends")
    headers = {"Authorization": f"Bearer {text}", "Accept": "text/event-stream"}
    with (
        httpx.Client(headers=headers, timeout=60) as client,
        client.stream("GET", f"{url}/v1/tables/guests/events") as response,
    ):
        events = events_of(response)
        assert next(events)["event"] == "version"
        keys.revoke(key.id)
        assert next(events) == {"event": "error", "data": '{"detail": "the key is not valid"}'}
        assert list(events) == []


def test_equal_requests_wait_at_the_same_time(cafe, url):
    path = f"{url}/v1/tables/guests/events"
    with httpx.Client(headers={"Authorization": f"Bearer {cafe.key()}"}, timeout=60) as client:
        known = client.get(path).json()["version"]
        begin = time.monotonic()
        with ThreadPoolExecutor(3) as threads:
            asked = [threads.submit(client.get, path, params={"since": known, "wait": 2}) for _ in range(3)]
            assert [each.result().status_code for each in asked] == [204] * 3
        assert time.monotonic() - begin < 4, "none waits for another one first"


def test_a_caller_may_wait_for_so_many_only(cafe, url, monkeypatch):
    monkeypatch.setattr(version_events, "MOST_OF_A_CALLER", 2)
    headers = {"Authorization": f"Bearer {cafe.key()}", "Accept": "text/event-stream"}
    path = f"{url}/v1/tables/cafe_orders/events"
    with httpx.Client(headers=headers, timeout=60) as client:
        with client.stream("GET", path) as one, client.stream("GET", path) as two:
            first, second = events_of(one), events_of(two)  # as long as they are kept, the connections are open
            assert next(first) == next(second)
            refused = client.get(path, params={"wait": 1}, headers={"Accept": "application/json"})
            assert refused.status_code == 429
            assert refused.json()["detail"] == "there are too many subscriptions"
            with client.stream("GET", path) as three:
                assert next(events_of(three))["event"] == "error"
        del first, second
        give_up = time.monotonic() + 20
        while client.get(path, headers={"Accept": "application/json"}).status_code == 429:
            assert time.monotonic() < give_up, "what was closed counts no more"
            time.sleep(0.02)


def test_tables_that_a_caller_may_not_read_have_no_events(cafe):
    with cafe.client(key="") as client:
        unknown, hidden = ask(client, "/v1/tables/none/events"), ask(client)
        assert (unknown.status_code, hidden.status_code) == (404, 404)
        assert problem_of(hidden)["problem"] == "there is no table 'cafe_orders'"


@pytest.mark.parametrize(
    "parameters",
    [{"since": "x"}, {"since": "-1"}, {"wait": "61"}, {"wait": "-1"}, {"until": "1"}, {"wait": ["1", "2"]}],
)
def test_wrong_parameters_are_errors(cafe, parameters):
    with cafe.client() as client:
        assert ask(client, **parameters).status_code == 400
        assert client.get("/v1/tables/cups/events", headers={"Accept": "text/csv"}).status_code == 406
