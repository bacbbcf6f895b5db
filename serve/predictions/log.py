"""Writes the predictions that are served to files, beside the requests: a log that cannot be written delays no response."""

from __future__ import annotations

import json
import logging
import queue
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet

from ml.models.prediction_log import COLUMNS
from pipeline.core.schema import Schema
from pipeline.kernel.types import arrow_schema
from serve.predictions.log_owner import FILE, LogOwner

_LOG = logging.getLogger(__name__)
MOST_WAITING = 100_000
"""How many rows wait to be written; further ones are dropped and counted."""
EVERY_S = 5.0
MOST_ROWS = 20_000
"""The most rows of a file."""


@dataclass(frozen=True)
class ServedPrediction:
    """A prediction of one row."""

    request_id: str
    client_request_id: str
    row: int
    at: datetime
    arm: str
    model_version: str
    unit: str | None
    prediction: Mapping[str, Any]
    features: Mapping[str, Any]
    latency_ms: float
    asked: Mapping[str, Any]
    """The columns of the request by which features were looked up."""
    looked_up: Mapping[str, Any]
    """The features that were looked up; see `CompletedRows`."""


class LogWriter:
    """Writes rows to new files in a folder, from a thread of its own."""

    def __init__(self, folder: str, root: Path, owner: LogOwner, *, every_s: float | None = None) -> None:
        """Create the writer. Nothing is written until there are rows; the folder is then the owner's.

        Raises `SettingsError` if the folder is the log of another owner.
        """
        self._folder = folder if "://" in folder else str(root / folder)
        self._every_s = EVERY_S if every_s is None else every_s
        self._waiting: queue.Queue[ServedPrediction] = queue.Queue(MOST_WAITING)
        self._end = threading.Event()
        self.dropped = 0
        """How many rows were dropped, because too many waited or their file could not be written."""
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._owner, self._is_claimed = owner, False
        try:
            self._is_claimed = owner.require(self._folder)
        except OSError as error:  # the store does not answer now: predictions are made all the same
            _LOG.warning("whose log %s is cannot be read: %s", self._folder, error)

    def add(self, rows: Sequence[ServedPrediction]) -> None:
        """Let rows be written soon. Never waits for that."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prediction log", daemon=True)
                self._thread.start()
        for number, row in enumerate(rows):
            try:
                self._waiting.put_nowait(row)
            except queue.Full:
                self.dropped += len(rows) - number
                return

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._end.wait(self._every_s)
            while rows := self._taken():
                self._write(rows)

    def _taken(self) -> list[ServedPrediction]:
        rows: list[ServedPrediction] = []
        while len(rows) < MOST_ROWS:
            try:
                rows.append(self._waiting.get_nowait())
            except queue.Empty:
                break
        return rows

    def _write(self, rows: Sequence[ServedPrediction]) -> None:
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.parquet"
        try:
            sink = pa.BufferOutputStream()
            pa.parquet.write_table(_table(rows), sink, compression="zstd")
            if not self._is_claimed and not self._owner.require(self._folder):
                self._put(FILE, self._owner.text().encode())
            self._is_claimed = True
            self._put(name, sink.getvalue().to_pybytes())
        except Exception as error:  # noqa: BLE001 - requests are answered whatever happens to the log
            self.dropped += len(rows)
            _LOG.warning("%s predictions could not be logged in %s: %s", len(rows), self._folder, error)

    def _put(self, name: str, content: bytes) -> None:
        """Write a file so that a reader sees it whole or not at all."""
        if "://" in self._folder:
            filesystem, folder = fsspec.core.url_to_fs(self._folder)
            filesystem.pipe_file(f"{folder.rstrip('/')}/{name}", content)
            return
        folder = Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{name}.part"
        part.write_bytes(content)
        part.replace(folder / name)


def _table(rows: Sequence[ServedPrediction]) -> pa.Table:
    def predicted(row: ServedPrediction) -> str:
        value = next((row.prediction[name] for name in ("label", "value", "score") if name in row.prediction), None)
        return json.dumps(value) if isinstance(value, bool) else str(value)

    def probability(row: ServedPrediction) -> float | None:
        if "probability" in row.prediction:
            return float(row.prediction["probability"])
        known = row.prediction.get("probabilities")
        return None if known is None else float(known[str(row.prediction["label"])])

    def score(row: ServedPrediction) -> float | None:
        return float(row.prediction["score"]) if "score" in row.prediction else None

    return pa.table(
        {
            "request_id": [row.request_id for row in rows],
            "client_request_id": [row.client_request_id or None for row in rows],
            "row": [row.row for row in rows],
            "at": [row.at for row in rows],
            "arm": [row.arm for row in rows],
            "model_version": [int(row.model_version) for row in rows],
            "unit": [row.unit for row in rows],
            "predicted": [predicted(row) for row in rows],
            "probability": [probability(row) for row in rows],
            "score": [score(row) for row in rows],
            "features": [json.dumps(dict(row.features), default=str) for row in rows],
            "latency_ms": [row.latency_ms for row in rows],
            "looked_up": [_looked_up(row) for row in rows],
        },
        schema=arrow_schema(Schema.of(COLUMNS)),
    )


def _looked_up(row: ServedPrediction) -> str | None:
    if not row.looked_up:
        return None
    return json.dumps({"request": dict(row.asked), "features": dict(row.looked_up)}, default=str)
