"""Labelled rows for tests of models, drawn from a seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml.models.rows import LabelledRows

KINDS = {"x": "number", "city": "text", "at": "timestamp", "noise": "number"}


def labelled(rows: int = 600, seed: int = 0, task: str = "binary") -> LabelledRows:
    """Return rows whose label depends on a number with nulls and on a text; one row a minute."""
    draw = np.random.default_rng(seed)
    features = pd.DataFrame(
        {
            "x": draw.normal(size=rows),
            "city": draw.choice(["Köln", "Ulm", "a:b,c"], rows),
            "at": pd.to_datetime(draw.integers(0, 10**15, rows), unit="us", utc=True),
            "noise": draw.normal(size=rows),
        }
    )
    features.loc[::7, "x"] = np.nan
    score = features["x"].fillna(0) + 2 * (features["city"] == "Ulm") + draw.normal(scale=0.5, size=rows)
    labels = {
        "binary": (score > 0.5).astype(int),
        "multiclass": pd.Series(np.where(score > 1.5, "high", np.where(score > 0, "middle", "low"))),
        "regression": score,
    }
    time = pd.Series(pd.date_range("2026-01-01", periods=rows, freq="min", tz="UTC"))
    group = pd.Series([f"{number % 50}" for number in range(rows)])
    return LabelledRows(features, labels[task], time, group, pd.DataFrame(index=range(rows)))


CLASSES = {"binary": (0, 1), "multiclass": ("high", "low", "middle"), "regression": ()}
