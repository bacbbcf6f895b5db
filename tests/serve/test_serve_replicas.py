"""Replicas that are killed, end and are replaced under load: no request that can be sent again fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace

import httpx
import pytest

from pipeline.core.errors import RequestError
from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner
from serve.client import ApiClient
from serve.deployment.replicas import Replicas, replicas_for_requests
from tests.rigs.served_project import served_project
from tests.serve.conftest import CAFE, open_cafe

SOURCE = """
from pipeline import webhook

sent = source(webhook("sent", keyed=True), schema={"id": "bigint"})
"""


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
    (cafe.root / "cafe.py").write_text(CAFE + SOURCE, encoding="utf-8")
    return cafe


@dataclass
class Load:
    """Requests from several threads, and what became of them."""

    url: str
    key: str
    end: threading.Event = field(default_factory=threading.Event)
    failures: list[str] = field(default_factory=list)
    plain: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    sent: list[int] = field(default_factory=list)

    def retrying(self, number: int) -> None:
        """With the client of the project: rows, Arrow, SQL, and rows for a source."""
        with ApiClient(self.url, self.key) as client:
            turn = 0
            while not self.end.is_set():
                turn += 1
                try:
                    assert len(list(client.rows("cafe_orders", limit=2))) == 5
                    assert client.arrow("cafe_orders", cups=f"neq.{turn}").num_rows >= 2
                    assert client.query(f"select {turn} as x from cups").num_rows == 5
                    client.write("sent", [{"id": number * 1_000_000 + turn}])
                    self.sent.append(number * 1_000_000 + turn)
                except Exception as error:  # noqa: BLE001 - every one is a failure
                    self.failures.append(repr(error))
                self.answered += 1

    def once(self, _: int) -> None:
        """With a client that sends each request once."""
        with httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=60) as client:
            turn = 0
            while not self.end.is_set():
                turn += 1
                try:
                    answer = client.get("/v1/tables/cafe_orders", params={"cups": f"neq.{turn}"})
                    self.plain[str(answer.status_code)] += 1
                except httpx.TransportError as error:
                    self.plain[type(error).__name__] += 1

    def start(self, retrying: int = 3, once: int = 2) -> list[threading.Thread]:
        """Begin to send from some threads."""
        kinds = [self.retrying] * retrying + [self.once] * once
        threads = [threading.Thread(target=each, args=(n,)) for n, each in enumerate(kinds)]
        for each in threads:
            each.start()
        return threads


@pytest.mark.proof
@pytest.mark.ray
def test_a_replica_that_is_killed_or_ends_fails_no_request(cafe):
    key = cafe.key()
    with served_project(cafe.root, least=2, most=2) as served:
        loads = [Load(served.url, key), Load(served.direct_url, key)]
        served.wait_for_replicas(2)
        threads = [thread for load in loads for thread in load.start()]
        stages, begun = [], time.monotonic()
        try:
            time.sleep(3)
            stages.append((time.monotonic() - begun, "before", [dict(load.plain) for load in loads]))
            (first, *_) = before = sorted(served.replicas())
            os.kill(first, signal.SIGKILL)
            after = served.wait_for_replicas(2, but=[first])
            assert after - set(before), "another one has started"
            time.sleep(2)
            stages.append((time.monotonic() - begun, "killed", [dict(load.plain) for load in loads]))
            served.deploy(1)
            served.wait_for_replicas(1)
            time.sleep(2)
            stages.append((time.monotonic() - begun, "scaled down", [dict(load.plain) for load in loads]))
        finally:
            for load in loads:
                load.end.set()
            for thread in threads:
                thread.join()
        print(stages)  # noqa: T201 - what clients without retries see
        for load in loads:
            assert load.failures == []
            assert load.answered > 20
            assert load.plain["200"] > 100
        (through_proxy, direct) = (load.plain for load in loads)
        assert set(through_proxy) == {"200"}, "the proxy sends what only reads again"
        assert sum(direct.values()) - direct["200"] <= 5, "those under way when the process was killed"
    project = cafe.project()
    Runner(project).run()
    stored = Workspace(project).query("select id from sent order by all").to_pylist()
    assert [row["id"] for row in stored] == sorted(loads[0].sent + loads[1].sent), "each once"


@pytest.mark.proof
@pytest.mark.ray
def test_a_server_that_stops_ends_subscriptions_and_answers_the_rest(cafe):
    headers = {"Authorization": f"Bearer {cafe.key()}", "Accept": "text/event-stream"}
    with served_project(cafe.root) as served, ExitStack() as streams:
        for url in (served.url, served.direct_url):
            address = f"{url}/v1/tables/guests/events"
            answer = streams.enter_context(httpx.stream("GET", address, headers=headers, timeout=60))
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ")
            streams.callback(list, lines)  # raises unless the response is complete
        begun = time.monotonic()
        served.process.communicate(timeout=120)
        assert time.monotonic() - begun < 25, "less than a request may take"
        assert served.process.returncode == 0


@pytest.mark.proof
@pytest.mark.ray
@pytest.mark.parametrize("door", ["proxy", "direct"])
def test_replicas_follow_the_requests_of_each_door(cafe, door):
    """Load brings a second replica, which goes when it ends, while some requests are still sent."""
    toml = cafe.root / "headwater.toml"
    toml.write_text(toml.read_text().partition("requests_per_replica")[0] + "requests_per_replica = 2\n")
    scaling = {"least": 1, "most": 2, "looks_back_s": 11, "up_after_s": 1, "down_after_s": 5}
    with served_project(cafe.root, **scaling) as served:
        url = served.url if door == "proxy" else served.direct_url
        load, key = Load(url, cafe.key()), cafe.key()
        served.wait_for_replicas(1)
        threads = load.start(retrying=10, once=0)
        try:
            served.wait_for_replicas(2)
        finally:
            load.end.set()
            for thread in threads:
                thread.join()
        calm = Load(url, key)
        threads = calm.start(retrying=0, once=1)
        try:
            served.wait_for_replicas(1)
            time.sleep(1)
        finally:
            calm.end.set()
            for thread in threads:
                thread.join()
        assert load.failures == []
        assert load.answered > 10
        assert set(calm.plain) == {"200"}


@pytest.mark.parametrize(("text", "least", "most"), [("1", 1, 1), ("3", 3, 3), ("1-4", 1, 4), ("2-2", 2, 2)])
def test_numbers_of_replicas(text, least, most):
    assert Replicas.of(text) == Replicas(least, most)


@pytest.mark.parametrize("text", ["", "x", "-1", "1-", "1-2-3", "1.5", " 1", "99999", "0", "0-3", "3-2", "٣"])
def test_what_is_no_number_of_replicas(text):
    with pytest.raises(RequestError):
        Replicas.of(text)


def test_replicas_for_requests():
    """Requests at the proxy, and those that each replica reports."""
    config = SimpleNamespace(**Replicas(1, 4).options(8)["autoscaling_config"])
    context = SimpleNamespace(total_num_requests=10.0, aggregated_metrics={}, config=config)
    assert replicas_for_requests(context) == (10 / 8, {})
    context.aggregated_metrics = {"direct_requests": {"a": 20.0, "b": 2.0}, "other": {"a": 99.0}}
    assert replicas_for_requests(context) == (4.0, {})
    context.aggregated_metrics = None
    assert replicas_for_requests(context) == (10 / 8, {})
    assert Replicas(3, 3).options(8) == {"num_replicas": 3}
