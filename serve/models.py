"""The champions that are served, and predictions for request bodies."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ml.models import Predictor, load_champion
from pipeline.core.definitions import Artifact
from pipeline.core.errors import ModelError, RequestError, StorageError, did_you_mean
from serve.features import FeatureLookup
from serve.http_errors import RowsError, TooLargeError, UnknownError
from serve.query import shown

if TYPE_CHECKING:
    from ml.models.registry import Origin

FRESH_S = 3.0
"""How long a champion is used before the store is checked for a new one."""
MOST_ROWS = 10_000


@dataclass(frozen=True)
class _Known:
    predictor: Predictor | ModelError
    """The champion, or the error that explains why there is none."""
    origin: Origin | None
    at: float


class Champions:
    """The champion of each model of a project. It is loaded once, and again when it has changed.

    While the store does not answer, the loaded champion stays in use. Thread-safe.
    """

    def __init__(self, store: str, artifacts: Iterable[Artifact], clock: Callable[[], float] = time.monotonic) -> None:
        """Create the collection without reading anything. `clock` returns seconds."""
        self._store = store
        self._models = {artifact.name: artifact for artifact in artifacts if artifact.kind == "model"}
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._locks = {name: threading.Lock() for name in self._models}

    @property
    def definitions(self) -> tuple[Artifact, ...]:
        """The models' definitions."""
        return tuple(self._models.values())

    def predictor(self, name: str) -> Predictor:
        """Return a champion.

        Raises `UnknownError` if no model has this name, `ModelError` if the model has no champion yet, and
        `StorageError` if the store cannot be used and no champion is loaded.
        """
        if name not in self._models:
            raise UnknownError(f"there is no model {shown(name)}", do=did_you_mean(name[:200], self._models))
        with self._locks[name]:
            known = self._known.get(name)
            if known is None or self._clock() - known.at > FRESH_S:
                known = self._known[name] = self._refreshed(name, known)
        if isinstance(known.predictor, ModelError):
            raise ModelError(known.predictor.problem, do=known.predictor.do)
        return known.predictor

    def trained_on(self, name: str) -> Mapping[str, str]:
        """Return the feature views that the loaded champion was trained on, with what determines their values."""
        known = self._known.get(name)
        return known.origin.views if known is not None and known.origin is not None else {}

    def predictor_or_none(self, name: str) -> Predictor | None:
        """Return a champion, or `None` if there is none yet."""
        try:
            return self.predictor(name)
        except ModelError:
            return None

    def warm(self) -> None:
        """Load all champions, which takes seconds. Failures are ignored here and reported by the first request."""
        for name in self._models:
            try:
                self.predictor(name)
            except (ModelError, StorageError):
                continue

    def _refreshed(self, name: str, known: _Known | None) -> _Known:
        from ml.models.registry import Registry  # noqa: PLC0415 - imports MLflow, which is slow

        now = self._clock()
        try:
            origin = Registry(self._store).origin(name)
            # equal origins mean equal models; a model without an origin was registered elsewhere and is reloaded
            if known is not None and origin is not None and origin == known.origin:
                return replace(known, at=now)
            return _Known(load_champion(self._store, name), origin, now)
        except ModelError as none:
            return _Known(none, None, now)
        except StorageError:
            if known is None or isinstance(known.predictor, ModelError):
                raise
            return replace(known, at=now)


@dataclass(frozen=True)
class PredictionRequest:
    """The rows to predict, and whether the features that were looked up are returned."""

    rows: list[dict[str, Any]]
    return_features: bool = False


def request_of(body: bytes) -> PredictionRequest:
    """Return a request from its body; raise `RowsError` unless it is `{"rows": [{…}, …]}`, with `return_features` if wanted."""
    example = 'send {"rows": [{"feature": 1}]}'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RowsError("the body is not JSON", got=shown(body[:100].decode(errors="replace")), do=example) from error
    known = isinstance(document, dict) and {"rows"} <= set(document) <= {"rows", "return_features"}
    if not known or not isinstance(document["rows"], list):
        problem = "the body is not an object with the key 'rows' and, if wanted, 'return_features'"
        raise RowsError(problem, got=shown(json.dumps(document)), do=example)
    rows, returns = document["rows"], document.get("return_features", False)
    if not isinstance(returns, bool):
        raise RowsError("'return_features' must be true or false", got=shown(json.dumps(returns)))
    if len(rows) > MOST_ROWS:
        raise TooLargeError(f"a request may have at most {MOST_ROWS} rows", got=str(len(rows)), do="send fewer")
    wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise RowsError(f"row {wrong} is not an object", got=shown(json.dumps(rows[wrong])), do=example)
    return PredictionRequest(rows, returns)


def predict(champions: Champions, lookup: FeatureLookup, name: str, request: PredictionRequest) -> Mapping[str, object]:
    """Return the predictions for rows, whose features are looked up if they lack them.

    Raises `RowsError` with the row and the feature that the model rejects, and the errors of `FeatureLookup.complete`.
    """
    predictor = champions.predictor(name)
    completed = lookup.complete(predictor, champions.trained_on(name), request.rows)
    try:
        predictions = predictor.predict(completed.rows)
    except RequestError as error:
        raise RowsError(error.problem, got=error.got, do=error.do) from error
    answer = {"model": predictor.name, "version": predictor.version, "predictions": predictions}
    return answer | ({"features": completed.looked_up} if request.return_features else {})
