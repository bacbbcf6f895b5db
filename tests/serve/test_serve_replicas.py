"""Replicas that are killed, end and are replaced under load: no request that can be sent again fails."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import pytest

from pipeline.project.workspace import Workspace
from pipeline.runner.runner import Runner
from serve.client import ApiClient
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

    def start(self) -> list[threading.Thread]:
        """Begin to send."""
        threads = [
            threading.Thread(target=each, args=(n,)) for n, each in enumerate([self.retrying] * 3 + [self.once] * 2)
        ]
        for each in threads:
            each.start()
        return threads


@pytest.mark.proof
@pytest.mark.ray
def test_a_replica_that_is_killed_or_ends_fails_no_request(cafe):
    key = cafe.key()
    with served_project(cafe.root, "2") as served:
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
