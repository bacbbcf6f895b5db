"""The log of served predictions: files that servers write, and the source that reads them into the lake."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from pipeline import files, source
from pipeline.core.definitions import Source

COLUMNS = {
    "request_id": "varchar",
    "client_request_id": "varchar",
    "row": "integer",
    "at": "timestamptz",
    "arm": "varchar",
    "model_version": "bigint",
    "unit": "varchar",
    "predicted": "varchar",
    "probability": "double",
    "score": "double",
    "features": "json",
    "latency_ms": "double",
    "looked_up": "json",
}
"""The columns of a log with their types.

Predictions of classes have a `probability`; those of rankings and anomalies have a `score`, which need not be between 0 and 1. `looked_up` is
null if the request had all features; see `headwater features verify`.
"""


@dataclass(frozen=True, kw_only=True)
class PredictionLog(Source):
    """A source of the predictions that servers made by one model."""

    model: str
    folder: str
    """Where the files are: a path, relative to the project, or a URI."""


def prediction_log(
    model: str, folder: str, *, streamed: bool = False, lateness: str | timedelta = "1 minute", description: str = ""
) -> PredictionLog:
    """Define a table of the predictions that `headwater serve` makes by a model; without it, predictions are not logged.

    Servers write files to `folder`, a path in the project or a URI, every few seconds. With `streamed`, a stream reads them,
    in the order of their times, of which rows may be `lateness` behind; otherwise runs read them.
    """
    pattern = f"{folder.rstrip('/')}/*.parquet"
    options: dict[str, Any] = {"event_time": "at", "lateness": lateness} if streamed else {}
    read = source(
        files(pattern, required=False),
        schema=COLUMNS,
        new_columns="evolve",  # earlier and later versions of Headwater write fewer and more
        key=["request_id", "row", "arm"],
        description=description or f"Predictions of {model} that were served.",
        **options,
    )
    known = {each.name: getattr(read, each.name) for each in fields(read)}
    return PredictionLog(**known, model=model, folder=folder)
