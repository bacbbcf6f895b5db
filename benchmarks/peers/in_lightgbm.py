"""LightGBM alone: `in_lightgbm.py JOB ROWS FOLDER`; fits, tunes or predicts, and writes how many rows and how good."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.peers.timings import Clock

ROUNDS, RATES, SHARE = 300, (0.05, 0.1, 0.15, 0.2), 0.2
PARAMS = {"objective": "binary", "num_leaves": 31, "deterministic": True, "force_row_wise": True, "verbosity": -1}


def read(rows: str) -> pd.DataFrame:
    """Return the rows by time, the text as a category."""
    frame = pd.read_parquet(rows).sort_values(["at", "id"])
    return frame.assign(city=frame["city"].astype("category"))


def fitted(frame: pd.DataFrame, rate: float, rounds: int = ROUNDS) -> Any:
    """Return trees for rows."""
    features = frame.drop(columns=["id", "at", "late"])
    dataset = lightgbm.Dataset(features, label=frame["late"].astype(int), free_raw_data=True)
    return lightgbm.train({**PARAMS, "learning_rate": rate}, dataset, rounds)


def auc_of(model: Any, frame: pd.DataFrame) -> float:
    """Return how good trees are for rows."""
    return float(roc_auc_score(frame["late"], model.predict(frame.drop(columns=["id", "at", "late"]))))


def parted(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the earlier rows, and the newest fifth."""
    cut = len(frame) - round(len(frame) * SHARE)
    return frame[:cut], frame[cut:]


def said(to: str, rows: int, auc: float) -> None:
    """Write the figures."""
    Path(to, "figures").write_text(f"{rows} {auc}")


def train(clock: Clock, rows: str, to: str) -> None:
    """Read, fit to the earlier rows, and measure on the others."""
    with clock.part("train"):
        frame = read(rows)
        earlier, newest = parted(frame)
        model = fitted(earlier, 0.1)
        auc = auc_of(model, newest)
        model.save_model(f"{to}/trees.txt")
    said(to, len(frame), auc)


def tune(clock: Clock, rows: str, to: str) -> None:
    """Fit with each rate to a part of the earlier rows, then with the best one to all of them."""
    with clock.part("tune"):
        frame = read(rows)
        earlier, newest = parted(frame)
        some, validation = parted(earlier)
        best = max(RATES, key=lambda rate: auc_of(fitted(some, rate), validation))
        auc = auc_of(fitted(earlier, best), newest)
    said(to, len(frame), auc)


def predict(clock: Clock, rows: str, to: str) -> None:
    """Predict all rows from a file into a file."""
    frame = read(rows)
    model = fitted(parted(frame)[0], 0.1)
    model.save_model(f"{to}/trees.txt")
    with clock.part("predict"):
        frame = read(rows)
        loaded = lightgbm.Booster(model_file=f"{to}/trees.txt")
        probability = np.asarray(loaded.predict(frame.drop(columns=["id", "at", "late"])))
        result = pd.DataFrame({"id": frame["id"], "predicted": probability > 0.5, "probability": probability})  # noqa: PLR2004 - half
        result.to_parquet(f"{to}/scores.parquet", compression="zstd")
    said(to, len(result), 1.0)


JOBS: dict[str, Callable[..., None]] = {"train": train, "tune": tune, "predict": predict}

if __name__ == "__main__":
    clock = Clock()
    JOBS[sys.argv[1]](clock, *sys.argv[2:])
    clock.say()
