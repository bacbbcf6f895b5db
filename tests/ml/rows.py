"""Labelled rows for tests of models, drawn from a seed."""

from __future__ import annotations

import uuid
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ml import training_set
from ml.models.evaluation import Evaluation
from ml.models.holdout import Holdout
from ml.models.rows import LabelledRows
from ml.models.stored_rows import StoredRows
from ml.models.tasks import task_of
from pipeline.core.errors import Place
from pipeline.core.schema import Column, Schema
from pipeline.kernel.frames import arrow_of_pandas
from pipeline.kernel.scan import DataFile, Scan

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


def stored_scan(table: pa.Table, folder: Path, files: int = 1) -> Scan:
    """Write a table to some files, and return a scan of them."""
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'")
        con.register("rows", table)
        columns = con.sql("select * from rows limit 0")
        schema = Schema(tuple(Column(n, str(t)) for n, t in zip(columns.columns, columns.types, strict=True)))
    size, found = -(-table.num_rows // files), []
    for number in range(files):
        part, file = table.slice(number * size, size), folder / f"{uuid.uuid4().hex}.parquet"
        pq.write_table(part, file)
        found.append(DataFile(str(file), part.num_rows, file.stat().st_size))
    return Scan(schema, tuple(found))


def stored(rows: LabelledRows, folder: Path, task: str = "binary") -> StoredRows:
    """Return rows that are written to a file, in the way a worker reads them."""
    table = arrow_of_pandas(rows.features.assign(y=rows.label.to_numpy(), time=rows.time, id=range(len(rows))))
    examples = training_set("select id, time, x, city, at, noise, y from raw", key="id", event_time="time")
    evaluation = Evaluation("y", Holdout(), next(iter(task_of(task).metrics)), 0.5, task=task)
    scan = stored_scan(table, folder)
    whole = StoredRows(scan, examples.named("rows"), evaluation, dict(KINDS), Place("here.py", 1))
    with whole.open() as con:
        return whole.only("true", con)
