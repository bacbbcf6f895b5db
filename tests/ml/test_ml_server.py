"""Training and serving with an MLflow server over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from cluster.local.ports import unused_port
from ml.models import load_champion


@pytest.fixture
def server(tmp_path):
    port = unused_port()
    home = tmp_path / "server"
    home.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    quick = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=home, env=quick) as process,
    ):
        try:
            yield wait_for(f"http://127.0.0.1:{port}", process)
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen) -> str:
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1).close()  # noqa: S310 - the server of this test
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
        else:
            return url
    pytest.fail("the MLflow server did not come up")


@pytest.mark.proof
def test_model_is_stored_and_served_by_a_server(project, server, monkeypatch):
    monkeypatch.setenv("HEADWATER_MODELS", server)

    first, second = project.run(), project.run()

    assert (first.decision, first.verdict.version, second.decision) == ("accepted", "1", "skip")
    row = {"carrier": "B6", "hour": 8, "load": 0.9, "is_weekend": False, "seen_at": None}
    predictor = load_champion(server, "lateness")
    assert predictor.version == "1"
    assert predictor.predict([row])[0]["label"]
