"""More predictions than a server can make: the others are refused at once, and those that are answered do not wait long."""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from ml.models.serving import Predictor
from pipeline.project import load
from pipeline.runner import Runner
from serve.rest import models
from tests.rigs.in_process_server import served
from tests.serve.conftest import problem_of
from tests.serve.test_serve_explanations import BAR
from tests.serve.test_serve_models import PATH, TOML, drinks

ROWS = {"rows": [{"glasses": 1, "strength": 0.5, "kind": "beer"}]}
BUSY = {
    "problem": "the server has as many predictions to make as it may",
    "got": "2 requests",
    "do": "try again after a second",
}


@pytest.fixture(scope="module")
def bar(tmp_path_factory, at):
    root = tmp_path_factory.mktemp("bar")
    (root / "headwater.toml").write_text(TOML)
    (root / "drinks.csv").write_text(drinks())
    (root / "bar.py").write_text(BAR)
    Runner(load(root)).run()
    return at(root)


def test_requests_beyond_the_limit_are_refused_at_once(bar, monkeypatch):
    monkeypatch.setattr(models, "MOST_PREDICTIONS", 2)
    inside, goes_on, real = threading.Semaphore(0), threading.Event(), Predictor.predict

    def predict(self, rows):
        inside.release()
        assert goes_on.wait(30)
        return real(self, rows)

    monkeypatch.setattr(Predictor, "predict", predict)
    with bar.client() as client, ThreadPoolExecutor(2) as threads:
        first = [threads.submit(client.post, PATH, json=ROWS) for _ in range(2)]
        try:
            for _ in first:
                assert inside.acquire(timeout=30)
            refused = client.post(PATH, json=ROWS)
            read = client.get("/v1/tables")
        finally:
            goes_on.set()
        assert [each.result().status_code for each in first] == [200, 200]
        assert client.post(PATH, json=ROWS).status_code == 200, "there is room again"
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert problem_of(refused) == BUSY
    assert read.status_code == 200, "tables are read all the same"


@pytest.mark.proof
def test_at_twice_the_rate_answers_stay_fast(bar, monkeypatch):
    """40 threads that need a second each answer 40 requests in a second. Without a limit, those of the 8th second wait for 4."""
    monkeypatch.setattr(models, "MOST_PREDICTIONS", 60)
    real = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda self, rows: [time.sleep(1), real(self, rows)][1])
    with served(bar.project()) as address:
        url = address + PATH
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        headers = {"Authorization": f"Bearer {bar.key()}"}
        with httpx.Client(timeout=60, limits=limits, headers=headers) as client, ThreadPoolExecutor(640) as threads:
            assert client.post(url, json=ROWS).status_code == 200

            def sent():
                begin = time.monotonic()
                answer = client.post(url, json=ROWS)
                return answer.status_code, time.monotonic() - begin, answer.headers.get("Retry-After")

            answers = []
            for number in range(640):  # open loop: a slow answer delays no request
                answers.append((time.monotonic(), threads.submit(sent)))
                time.sleep(max(0.0, answers[0][0] + (number + 1) / 80 - time.monotonic()))
            found = [each.result() for _, each in answers]
    answered = [seconds for status, seconds, _ in found if status == 200]
    refused = [retry for status, _, retry in found if status == 503]
    assert len(answered) + len(refused) == 640
    assert set(refused) == {"1"}
    assert len(refused) > 150
    assert len(answered) > 200
    assert statistics.quantiles(answered, n=100)[98] < 3.5
