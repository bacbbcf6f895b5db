"""A monitor of the log of served predictions: features in JSON, and windows cut at versions and arms."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner

PROJECT = """
from ml import monitor, prediction_log, trailing

served = prediction_log("stays", "served/stays")
drift = monitor(
    of="served", time="at", reference=trailing("2 days"), by=("model_version", "arm"), prediction="probability",
    numerical={"nights": "(features->>'nights')::double", "probability": "probability"},
    categorical={"city": "features->>'city'"},
)
"""
ROWS = 1500


def log(folder, day, arm, nights):
    """Write what was served on a day; the champion's version changes on the fourth."""
    rng = np.random.default_rng(day)
    start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
    cities = rng.choice(["Bremen", "Ulm"], ROWS)
    features = [
        json.dumps({"nights": float(n), "city": c}) for n, c in zip(rng.normal(nights, 1, ROWS), cities, strict=True)
    ]
    table = pa.table(
        {
            "request_id": [f"{day}-{i}" for i in range(ROWS)],
            "client_request_id": pa.nulls(ROWS, pa.string()),
            "row": pa.array([0] * ROWS, pa.int32()),
            "at": pa.array([start + timedelta(seconds=i) for i in range(ROWS)], pa.timestamp("us", tz="UTC")),
            "arm": [arm] * ROWS,
            "model_version": pa.array([2 if day >= 3 else 1] * ROWS, pa.int64()),
            "unit": [str(i) for i in range(ROWS)],
            "predicted": ["true"] * ROWS,
            "probability": rng.random(ROWS),
            "features": features,
            "latency_ms": [1.0] * ROWS,
        }
    )
    (folder / "served" / "stays").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, folder / "served" / "stays" / f"{day}-{arm}.parquet")


def test_features_of_served_predictions_by_version_and_arm(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(PROJECT)
    for day in range(5):
        log(tmp_path, day, "champion", nights=2 if day != 2 else 6)
        log(tmp_path, day, "shadow", nights=2)
    Runner(load(tmp_path), RunOptions()).run()
    rows = Workspace(load(tmp_path)).query("select * from drift order by window_start").to_pylist()

    def states(arm, version, feature):
        chosen = [r for r in rows if (r["arm"], r["model_version"], r["feature"]) == (arm, version, feature)]
        return [(r["window_start"].day, r["state"]) for r in chosen]

    assert states("champion", 1, "nights") == [(1, "not judged"), (2, "quiet"), (3, "suspected")]
    assert states("shadow", 1, "nights") == [(1, "not judged"), (2, "quiet"), (3, "quiet")]
    assert states("champion", 2, "nights") == [(4, "not judged"), (5, "quiet")]
    assert {r["state"] for r in rows if r["feature"] in {"city", "probability"}} == {"quiet", "not judged"}
