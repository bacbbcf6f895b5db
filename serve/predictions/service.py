"""Predictions for requests: which version predicts which rows, what the shadow would have said, and the log."""

from __future__ import annotations

import json
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ml.models import Predictor
from ml.models.prediction_log import PredictionLog
from ml.models.registry.roles import CHALLENGER, CHAMPION, SHADOW
from pipeline.core.errors import HeadwaterError, RequestError
from pipeline.project.project import Project
from serve.features.lookup import CompletedRows, FeatureLookup
from serve.http_errors import RowsError
from serve.predictions.log import LogWriter, ServedPrediction
from serve.predictions.log_owner import LogOwner
from serve.predictions.models import PredictionRequest, ServedModel, ServedModels

_LOG = logging.getLogger(__name__)
_MOST_SHADOWED = 1000
"""How many requests wait for the shadow; further ones are not mirrored, and counted."""


@dataclass(frozen=True)
class _Answer:
    """What one version predicts for some rows."""

    predictor: Predictor
    predictions: list[dict[str, object]]
    completed: CompletedRows
    explanations: list[dict[str, object]]
    """What makes the score of each row; empty if the request does not ask for it."""


class PredictionService:
    """Answers requests with the versions in use. Thread-safe."""

    def __init__(self, project: Project, models: ServedModels, lookup: FeatureLookup) -> None:
        """Create it; a log that the project declares is written from now on.

        Raises `SettingsError` if the folder of a log is that of another model or environment.
        """
        self._models, self._lookup = models, lookup
        logs, settings = project.graph.all_of(PredictionLog), project.settings
        self._logs = {
            each.model: LogWriter(each.folder, settings.root, LogOwner(settings.name, settings.env, each.model))
            for each in logs
        }
        self._shadowed: queue.Queue[
            tuple[str, tuple[str, str], ServedModel, list[dict[str, Any]], list[str | None]] | None
        ]
        self._shadowed = queue.Queue(_MOST_SHADOWED)
        self.not_mirrored = 0
        """How many requests the shadow did not see, because too many waited."""
        self._mirroring: threading.Thread | None = None
        self._starting = threading.Lock()

    def close(self) -> None:
        """Let the shadow finish, and write the logs."""
        if self._mirroring is not None:
            self._shadowed.put(None)
            self._mirroring.join()
        for log in self._logs.values():
            log.close()

    @property
    def dropped(self) -> int:
        """How many predictions are not in the logs."""
        return sum(log.dropped for log in self._logs.values())

    def answer(self, name: str, request: PredictionRequest, client_id: str = "") -> Mapping[str, object]:
        """Return the predictions for rows, whose features are looked up if they lack them.

        Each row is predicted by the champion, or by the challenger if its unit belongs to that; by the champion too if the challenger
        fails, or cannot explain a prediction that is to be explained.
        Raises `RowsError` with the row and the feature that the model rejects, and the errors of `FeatureLookup.complete`.
        """
        started = time.perf_counter()
        served = self._models.served(name)
        rows, units = self._units(name, served, request.rows)
        arms = [self._arm_of(served, *each) for each in zip(rows, units, strict=True)]
        answers: dict[int, tuple[str, _Answer, int]] = {}
        for arm in dict.fromkeys(arms or [CHAMPION]):
            chosen = [number for number, each in enumerate(arms) if each == arm]
            used, found = self._arm(served, arm, [rows[number] for number in chosen], explain=request.explain)
            answers |= {number: (used, found, place) for place, number in enumerate(chosen)}
        ids = (uuid.uuid4().hex, client_id)
        self._record(name, ids, answers, units, started)
        if served.shadow is not None:
            self._offer((name, ids, served, rows, units))
        result: dict[str, object] = {
            "model": name,
            "version": served.champion.version,
            "predictions": [answers[number][1].predictions[answers[number][2]] for number in range(len(rows))],
        }
        if served.challenger is not None and served.traffic:
            result["versions"] = [answers[number][1].predictor.version for number in range(len(rows))]
        if request.explain:
            result["explanations"] = [
                answers[number][1].explanations[answers[number][2]] for number in range(len(rows))
            ]
        if request.return_features:
            result["features"] = [
                answers[number][1].completed.looked_up[answers[number][2]] for number in range(len(rows))
            ]
        return result | ({"request_id": ids[0]} if name in self._logs else {})

    def _units(
        self, name: str, served: ServedModel, rows: Sequence[dict[str, Any]]
    ) -> tuple[list[dict[str, Any]], list[str | None]]:
        """Return the rows without a column that only names the unit, and the unit of each."""
        column = self._models.definition(name).unit
        if not column:
            return list(rows), [None] * len(rows)
        units = [_text(row.get(column), number, column) for number, row in enumerate(rows)]
        if column in served.champion.inputs or column in self._lookup.request_columns(name):
            return list(rows), units
        return [{key: value for key, value in row.items() if key != column} for row in rows], units

    @staticmethod
    def _arm_of(served: ServedModel, row: Mapping[str, Any], unit: str | None) -> str:
        """Return which version predicts a row: that of its unit, or without one, of the row itself."""
        if served.challenger is None or not served.traffic:
            return CHAMPION
        return served.arm(json.dumps(row, sort_keys=True, default=str) if unit is None else unit)

    def _arm(self, served: ServedModel, arm: str, rows: list[dict[str, Any]], *, explain: bool) -> tuple[str, _Answer]:
        if arm == CHALLENGER and served.challenger is not None:
            try:
                known = self._known(served, served.challenger, rows)
                return arm, self._predicted(served, served.challenger, known, explain=explain)
            except HeadwaterError as error:  # also rows that it refuses: the champion decides whether they are wrong
                _LOG.warning(
                    "the challenger of model %s failed, the champion predicts: %s", served.champion.name, error
                )
        return CHAMPION, self._predicted(served, served.champion, rows, explain=explain)

    @staticmethod
    def _known(served: ServedModel, predictor: Predictor, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return rows without features that the champion has, and another version has not."""
        others = served.champion.inputs.keys() - predictor.inputs.keys()
        return [{name: value for name, value in row.items() if name not in others} for row in rows]

    def _predicted(
        self, served: ServedModel, predictor: Predictor, rows: list[dict[str, Any]], *, explain: bool = False
    ) -> _Answer:
        trained_on = served.views.get(predictor.version, {})
        completed = self._lookup.complete(predictor, trained_on, rows)
        try:
            predicted = predictor.predict(completed.rows)
            explained = [asdict(each) for each in predictor.explain(completed.rows)] if explain else []
        except RequestError as error:
            raise RowsError(error.problem, got=error.got, do=error.do) from error
        return _Answer(predictor, predicted, completed, explained)

    def _record(
        self,
        name: str,
        ids: tuple[str, str],
        answers: Mapping[int, tuple[str, _Answer, int]],
        units: Sequence[str | None],
        started: float,
    ) -> None:
        log = self._logs.get(name)
        if log is None:
            return
        at, latency = datetime.now(UTC), (time.perf_counter() - started) * 1000
        log.add(
            [
                ServedPrediction(
                    *ids,
                    number,
                    at,
                    arm,
                    found.predictor.version,
                    units[number],
                    found.predictions[place],
                    found.completed.rows[place],
                    latency,
                    found.completed.asked[place],
                    found.completed.looked_up[place],
                )
                for number, (arm, found, place) in sorted(answers.items())
            ]
        )

    def _offer(self, request: tuple[str, tuple[str, str], ServedModel, list[dict[str, Any]], list[str | None]]) -> None:
        with self._starting:
            if self._mirroring is None:
                self._mirroring = threading.Thread(target=self._mirror, name="shadow", daemon=True)
                self._mirroring.start()
        try:
            self._shadowed.put_nowait(request)
        except queue.Full:
            self.not_mirrored += 1

    def _mirror(self) -> None:
        """Let shadows predict what champions have answered."""
        while (request := self._shadowed.get()) is not None:
            name, ids, served, rows, units = request
            if served.shadow is None:
                continue
            started = time.perf_counter()
            try:
                found = self._predicted(served, served.shadow, self._known(served, served.shadow, rows))
                self._record(name, ids, {n: (SHADOW, found, n) for n in range(len(rows))}, units, started)
            except Exception as error:  # noqa: BLE001 - a shadow must not end the thread
                _LOG.warning("the shadow of model %s failed: %s", name, error)


def _text(value: object, number: int, column: str) -> str | None:
    """Return a unit as text; `None` for null and NaN, which are none. Raise `RowsError` for other values than texts and numbers."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value in {math.inf, -math.inf}:
        raise RowsError(f"row {number}: {column!r} must be a text, a number or null", got=repr(value)[:80])
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowsError(f"row {number}: {column!r} is not valid text", got=ascii(text)[:80]) from error
    return text
