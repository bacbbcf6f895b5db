"""Predictions of one row over HTTP, compared with MLflow's scoring server for the same trees.

A model of 100 trees of LightGBM with 10 numbers. `auto` answers on the direct port of a replica, `ray` behind Ray Serve's proxy.
Parts, for 1, 16 and 64 connections that ask again as soon as they have an answer: the median, the 99th percentile, and `each`, the
seconds between two answers. Compared are the sums of `each`. The client needs cores of the same machine.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran, UnableError
from benchmarks.served import HEADWATER, answered, command, loaded, server
from cluster.local.ports import unused_port

ROWS, FEATURES, ROUNDS = 100_000, 10, 100
CONNECTIONS = "1,16,64"
SECONDS = 5.0
NAMES = [f"f{number}" for number in range(FEATURES)]
DEFINITIONS = """
from ml import LightGBM, model, training_set
from pipeline import files, source

raw = source(files("{files}/*.parquet"))
examples = training_set("select id, \\"at\\", {columns}, late from raw", key="id", event_time="at")
late = model("examples", LightGBM(rounds={rounds}), label="late", holdout=0.2, at_least=0.5)
"""
ROW = {name: 0.25 + number / 100 for number, name in enumerate(NAMES)}
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
    key = command("keys", "create", "benchmark", "--scope", "predict", "--project", project)
    words = [HEADWATER, "serve", "--port", str(port), "--direct-port", str(direct_port), "--project", project]
    with server(words, folder, f"http://127.0.0.1:{port}/health") as process:
        asked = {
            "url": f"http://127.0.0.1:{direct_port if direct else port}",
            "paths": ["/v1/models/late/predict"],
            "body": {"rows": [ROW]},
            "headers": {"Authorization": f"Bearer {key}"},
        }
        return loaded(asked, CONNECTIONS, seconds, folder, process, _predicted(asked))


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
    with server(words, folder, f"http://127.0.0.1:{port}/health") as process:
        asked = {
            "url": f"http://127.0.0.1:{port}",
            "paths": ["/invocations"],
            "body": {"dataframe_records": [ROW]},
        }
        return loaded(asked, CONNECTIONS, seconds, folder, process, _predicted(asked))


def _project(files: Path, folder: Path) -> Path:
    """Train the model in a project, and return its folder."""
    project = folder / "project"
    project.mkdir()
    (project / "headwater.toml").write_text(TOML)
    (project / "served.py").write_text(DEFINITIONS.format(files=files, columns=", ".join(NAMES), rounds=ROUNDS))
    command("run", "--no-summary", "--project", project)
    return project


def _predicted(asked: Mapping[str, Any]) -> Answer:
    """Return whether a server predicts a probability."""
    [predicted] = answered(asked, asked["paths"][0])["predictions"]
    probability = predicted["probability"] if isinstance(predicted, dict) else predicted
    return [(0 < probability < 1,)]
