"""Predictions of one row over HTTP, compared with MLflow's scoring server for the same trees.

A model of 100 trees of LightGBM with 10 numbers. `auto` answers on the direct port of a replica, `ray` behind Ray Serve's proxy.
Parts, for 1, 16 and 64 connections that ask again as soon as they have an answer: the median, the 99th percentile, and `each`, the
seconds between two answers. Compared are the sums of `each`. The client needs cores of the same machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran, UnableError
from benchmarks.measure import measure
from benchmarks.peer import ROOT
from cluster.local.ports import unused_port

ROWS, FEATURES, ROUNDS = 100_000, 10, 100
CONNECTIONS = "1,16,64"
SECONDS = 5.0
NAMES = [f"f{number}" for number in range(FEATURES)]
HEADWATER = Path(sys.executable).with_name("headwater")
DEFINITIONS = """
from ml import LightGBM, model, training_set
from pipeline import files, source

raw = source(files("{files}/*.parquet"))
examples = training_set("select id, \\"at\\", {columns}, late from raw", key="id", event_time="at")
late = model("examples", LightGBM(rounds={rounds}), label="late", holdout=0.2, at_least=0.5)
"""
ROW = {name: 0.25 + number / 100 for number, name in enumerate(NAMES)}
_PATIENCE_S = 90.0
TOML = """\
[project]
name = "served"
definitions = "served.py"

[env.dev.serve]
requests_per_second = 100_000
burst = 100_000
"""


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield the one case, unless another is named."""
    if only and "predict" not in only:
        return
    numbers = ", ".join(f"((hash(i, {n}) % 1000000) / 1e6)::double as {name}" for n, name in enumerate(NAMES))
    late = "f0 + f1 * f2 + (hash(i, 99) % 1000000) / 1e6 > 1.2 as late"
    made = f"select i as id, timestamp '2026-01-01' + to_seconds(i) as \"at\", {numbers}, {late}"
    files = data.made("served", made, max(5_000, round(ROWS * min(scale, 1.0))))
    seconds = max(0.5, SECONDS * scale)
    contestants = [
        Contestant("auto", partial(_ours, files, seconds, True), is_ours=True),  # noqa: FBT003 - a parameter of a job
        Contestant("ray", partial(_ours, files, seconds, False), is_ours=True),  # noqa: FBT003 - likewise
        Contestant("mlflow", partial(_mlflow, files, seconds)),
    ]
    yield Case("predict", [(True,)], contestants, {"trees": ROUNDS, "features": FEATURES, "seconds": seconds})


def _ours(files: Path, seconds: float, direct: bool, folder: Path) -> Ran:  # noqa: FBT001 - a parameter of a job
    project = _project(files, folder)
    port, direct_port = unused_port(), unused_port()
    words = [HEADWATER, "serve", "--port", str(port), "--direct-port", str(direct_port), "--project", project]
    with _server(words, folder, port) as pid:
        url = f"http://127.0.0.1:{direct_port if direct else port}/v1/models/late/predict"
        return _loaded(url, {"rows": [ROW]}, seconds, folder, pid, _key(project))


def _mlflow(files: Path, seconds: float, folder: Path) -> Ran:
    code = f"""
import duckdb, lightgbm, mlflow.lightgbm
rows = duckdb.sql("select {", ".join(NAMES)}, late::int as late from '{files}/*.parquet' order by id limit {ROWS * 4 // 5}").df()
data = lightgbm.Dataset(rows[{NAMES!r}], rows.late)
booster = lightgbm.train({{"objective": "binary", "verbosity": -1}}, data, {ROUNDS})
mlflow.lightgbm.save_model(booster, "{folder}/model")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnableError(done.stderr.strip().splitlines()[-1][:300])
    port = unused_port()
    words = [
        HEADWATER.with_name("mlflow"),
        "models",
        "serve",
        "-m",
        folder / "model",
        "--port",
        str(port),
        "--env-manager",
        "local",
    ]
    with _server(words, folder, port) as pid:
        return _loaded(f"http://127.0.0.1:{port}/invocations", {"dataframe_records": [ROW]}, seconds, folder, pid)


def _project(files: Path, folder: Path) -> Path:
    """Train the model in a project, and return its folder."""
    project = folder / "project"
    project.mkdir()
    (project / "headwater.toml").write_text(TOML)
    (project / "served.py").write_text(DEFINITIONS.format(files=files, columns=", ".join(NAMES), rounds=ROUNDS))
    done = subprocess.run(
        [HEADWATER, "run", "--no-summary", "--project", project], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnableError(done.stderr.strip().splitlines()[-1][:300])
    return project


@contextmanager
def _server(words: Sequence[object], folder: Path, port: int) -> Iterator[int]:
    """Start a server, wait until it answers, and give its process; it is stopped afterwards."""
    with (folder / "server.log").open("wb") as log:
        path = f"{HEADWATER.parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn by name
        server = subprocess.Popen(
            list(map(str, words)), stdout=log, stderr=log, cwd=folder, env={**os.environ, "PATH": path}
        )
        try:
            until = time.monotonic() + _PATIENCE_S
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if server.poll() is not None or time.monotonic() > until:
                    raise UnableError(f"the server does not start: {(folder / 'server.log').read_text()[-300:]}")
                time.sleep(0.2)
            yield server.pid
        finally:
            server.terminate()
            server.wait(60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own server
            return bool(response.status == 200)  # noqa: PLR2004 - OK
    except OSError:
        return False


def _key(project: Path) -> str:
    """Create a key for the endpoints of a project."""
    words = [str(HEADWATER), "keys", "create", "benchmark", "--scope", "predict", "--project", str(project)]
    created: str = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return created.strip()


def _loaded(url: str, body: object, seconds: float, folder: Path, server: int, key: str = "") -> Ran:  # noqa: PLR0913 - a call
    """Load a server, and return the figures; the answer is whether it predicts a probability."""
    (folder / "body.json").write_text(json.dumps(body))
    command = [sys.executable, "-m", "benchmarks.http_load", url, str(folder / "body.json"), CONNECTIONS, str(seconds)]
    result = measure(command, folder, environ={"PYTHONPATH": str(ROOT), "HEADWATER_API_KEY": key}, beside=[server])
    if result.code:
        raise UnableError(result.errors.strip().splitlines()[-1][:300])
    parts: dict[str, float] = json.loads(result.output.strip().splitlines()[-1])["parts"]
    each = sum(value for name, value in parts.items() if name.endswith("each"))
    return Ran(each, result.seconds, result.peak_bytes, _predicted(url, body, key), parts)


def _predicted(url: str, body: object, key: str) -> Answer:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310 - likewise
        [predicted] = json.loads(response.read())["predictions"]
    probability = predicted["probability"] if isinstance(predicted, dict) else predicted
    return [(0 < probability < 1,)]
