"""The versions of models that are served, and the bodies of requests."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ml.experiments.assignment import share_of
from ml.models import Model, Predictor
from ml.models.registry.roles import CHALLENGER, CHAMPION, SHADOW, Roles
from pipeline.core.definitions import Artifact
from pipeline.core.errors import ModelError, StorageError, did_you_mean
from serve.http_errors import RowsError, TooLargeError, UnknownError
from serve.queries.values import shown

if TYPE_CHECKING:
    from ml.models.registry.registry import Registry

_LOG = logging.getLogger(__name__)
FRESH_S = 3.0
"""How long a champion is used before the store is checked for a new one."""
MOST_ROWS = 10_000
_FLAGS = ("return_features", "explain")


@dataclass(frozen=True)
class ServedModel:
    """The versions of a model that are in use."""

    champion: Predictor
    views: Mapping[str, Mapping[str, str]]
    """By version: the feature views that it was trained on, with what determines their values."""
    challenger: Predictor | None = None
    traffic: float = 0.0
    """The share of units that the challenger predicts."""
    shadow: Predictor | None = None

    def arm(self, unit: str) -> str:
        """Return which of them predicts the rows of a unit: it stays the same when the traffic of a challenger grows."""
        if self.challenger is None or not self.traffic:
            return CHAMPION
        key = f"model:{self.champion.name}:{self.challenger.version}"
        return CHALLENGER if share_of(key, "arm", unit) < self.traffic else CHAMPION


@dataclass(frozen=True)
class _Known:
    served: ServedModel | ModelError
    """The versions in use, or the error that explains why there is no champion."""
    roles: Roles | None
    at: float


class ServedModels:
    """The versions of each model of a project that are in use. They are loaded once, and again when others are in use.

    While the store does not answer, the loaded ones stay in use. Thread-safe.
    """

    def __init__(self, store: str, artifacts: Iterable[Artifact], clock: Callable[[], float] = time.monotonic) -> None:
        """Create the collection without reading anything. `clock` returns seconds."""
        self._store = store
        self._models = {artifact.name: artifact for artifact in artifacts if isinstance(artifact, Model)}
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._locks = {name: threading.Lock() for name in self._models}

    @property
    def definitions(self) -> tuple[Model, ...]:
        """The models' definitions."""
        return tuple(self._models.values())

    def definition(self, name: str) -> Model:
        """Return a model's definition; raise `UnknownError` if no model has this name."""
        if name not in self._models:
            raise UnknownError(f"there is no model {shown(name)}", do=did_you_mean(name[:200], self._models))
        return self._models[name]

    def served(self, name: str) -> ServedModel:
        """Return the versions of a model that are in use.

        Raises `UnknownError` if no model has this name, `ModelError` if the model has no champion yet, and
        `StorageError` if the store cannot be used and no champion is loaded.
        """
        self.definition(name)
        with self._locks[name]:
            known = self._known.get(name)
            if known is None or self._clock() - known.at > FRESH_S:
                known = self._known[name] = self._refreshed(name, known)
        if isinstance(known.served, ModelError):
            raise ModelError(known.served.problem, do=known.served.do)
        return known.served

    def predictor(self, name: str) -> Predictor:
        """Return a champion; see `served`."""
        return self.served(name).champion

    def predictor_or_none(self, name: str) -> Predictor | None:
        """Return a champion, or `None` if there is none yet."""
        try:
            return self.predictor(name)
        except ModelError:
            return None

    def warm(self) -> None:
        """Load all versions in use, which takes seconds. Failures are ignored here and reported by the first request."""
        for name in self._models:
            try:
                self.predictor(name)
            except (ModelError, StorageError):
                continue

    def _refreshed(self, name: str, known: _Known | None) -> _Known:
        from ml.models.registry.registry import Registry  # noqa: PLC0415 - imports MLflow, which is slow

        now, registry = self._clock(), Registry(self._store)
        try:
            roles = registry.roles(name)
            if known is not None and roles == known.roles:
                return replace(known, at=now)
            before = None if known is None or isinstance(known.served, ModelError) else known.served
            served = self._loading(registry, name, roles, before)
            missing = (CHALLENGER in roles.versions and served.challenger is None) or (
                SHADOW in roles.versions and served.shadow is None
            )
            return _Known(served, None if missing else roles, now)  # what could not be loaded is tried again
        except ModelError as none:
            return _Known(none, roles, now)
        except StorageError:
            if known is None or isinstance(known.served, ModelError):
                raise
            return replace(known, at=now)

    def _loading(self, registry: Registry, name: str, roles: Roles, known: ServedModel | None) -> ServedModel:
        loaded = {} if known is None else _loaded(known)

        def predictor(role: str) -> Predictor | None:
            number = roles.versions.get(role)
            if number is None:
                return None
            if number in loaded:
                return loaded[number]
            version = registry.load(name, number)
            views[number] = {} if version.origin is None else version.origin.views
            return Predictor(name, number, version.fitted)

        views: dict[str, Mapping[str, str]] = {} if known is None else dict(known.views)
        champion = predictor(CHAMPION)
        if champion is None:
            raise ModelError(f"model {name!r} has no champion yet", do=f"train one: headwater run --select +{name}")
        others = {role: _or_none(predictor, role, name) for role in (CHALLENGER, SHADOW)}
        return ServedModel(champion, views, others[CHALLENGER], roles.traffic, others[SHADOW])


def _or_none(predictor: Callable[[str], Predictor | None], role: str, name: str) -> Predictor | None:
    """Return the version of a role, or `None` if it cannot be loaded: the champion is served all the same."""
    try:
        return predictor(role)
    except (ModelError, StorageError) as error:
        _LOG.warning("the %s of model %s cannot be loaded: %s", role, name, error)
        return None


def _loaded(served: ServedModel) -> dict[str, Predictor]:
    every = (served.champion, served.challenger, served.shadow)
    return {each.version: each for each in every if each is not None}


@dataclass(frozen=True)
class PredictionRequest:
    """The rows to predict, and whether the features that were looked up, and what each adds, are returned."""

    rows: list[dict[str, Any]]
    return_features: bool = False
    explain: bool = False


def request_of(body: bytes) -> PredictionRequest:
    """Return a request from its body; raise `RowsError` unless it is `{"rows": [{…}, …]}`, with its flags if wanted."""
    example = 'send {"rows": [{"feature": 1}]}'
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RowsError("the body is not JSON", got=shown(body[:100].decode(errors="replace")), do=example) from error
    known = isinstance(document, dict) and {"rows"} <= set(document) <= {"rows", *_FLAGS}
    if not known or not isinstance(document["rows"], list):
        problem = "the body is not an object with the key 'rows' and, if wanted, 'return_features' and 'explain'"
        raise RowsError(problem, got=shown(json.dumps(document)), do=example)
    rows, flags = document["rows"], {name: document.get(name, False) for name in _FLAGS}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise RowsError(f"{name!r} must be true or false", got=shown(json.dumps(value)))
    if len(rows) > MOST_ROWS:
        raise TooLargeError(f"a request may have at most {MOST_ROWS} rows", got=str(len(rows)), do="send fewer")
    wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise RowsError(f"row {wrong} is not an object", got=shown(json.dumps(rows[wrong])), do=example)
    return PredictionRequest(rows, **flags)
