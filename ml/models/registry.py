"""The model store: MLflow runs and registered models, in a database or on a server.

The origin of a model is stored as tags on its registered version, so one look-up shows whether the champion is
current. Models are stored with cloudpickle: loading one runs its code, so trust a model store like code. Every failure
of the store is a `StorageError`.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from ml.models.tasks import Task, task_of
from pipeline.core import scratch
from pipeline.core.definitions import Verdict
from pipeline.core.errors import HeadwaterError, ModelError, StorageError

ALIAS = "champion"
_INPUTS, _FINGERPRINT, _RUN = "headwater.inputs", "headwater.fingerprint", "headwater.run"
_VERDICT, _VIEWS = "headwater.verdict", "headwater.views"
REFUSED = "refused: "
"""The prefix of the verdict on a refused model."""
_FEATURES, _TASK, _CLASSES, _FOLDER = "features", "task", "classes", "model"
_TIMEOUT_S = 5


@dataclass(frozen=True)
class Origin:
    """What determines a model: equal origins produce equal models."""

    fingerprint: str
    inputs: Mapping[str, int]
    """The version of each input."""
    views: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The feature views that it was trained on, with what determines their values; see `FeatureView.online_fingerprint`."""

    def tags(self) -> dict[str, str]:
        """Return the origin as tags of a registered version."""
        tags = {_FINGERPRINT: self.fingerprint, _INPUTS: json.dumps(dict(self.inputs), sort_keys=True)}
        return tags | ({_VIEWS: json.dumps(dict(self.views), sort_keys=True)} if self.views else {})

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Origin | None:
        """Return the origin stored in tags, or `None` for a model that Headwater did not train."""
        if _FINGERPRINT not in tags or _INPUTS not in tags:
            return None
        return cls(tags[_FINGERPRINT], json.loads(tags[_INPUTS]), json.loads(tags.get(_VIEWS, "{}")))


@dataclass(frozen=True)
class Trained:
    """An evaluated model, ready to be logged."""

    name: str
    run_id: str
    origin: Origin
    estimator: Any
    task: Task
    features: Mapping[str, str]
    """The kind of each feature, in the order that the estimator expects."""
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    verdict: str


@dataclass(frozen=True)
class Champion:
    """A model in use: its registered version, its estimator, its task, and the kind of each feature."""

    version: str
    estimator: Any
    task: Task
    features: Mapping[str, str]


class Registry:
    """The model store at a URL: `sqlite:///…` or another database, or an MLflow server's `http(s)://…`."""

    def __init__(self, store: str) -> None:
        """Create the registry without opening the store."""
        self._store = store
        self._is_database = not store.startswith(("http://", "https://"))

    def require(self) -> None:
        """Raise `StorageError` unless the store can be reached. The folder of a SQLite database is created."""
        with self._translating():
            self._open()

    def origin(self, name: str) -> Origin | None:
        """Return the origin of the champion, or `None` if Headwater has trained none. Writes nothing."""
        with self._translating():
            if self._is_database:
                return Origin.of(self._tags(name))
            champion = _champion(self._client(), name)
            return None if champion is None else Origin.of(champion.tags)

    def champion_version(self, name: str) -> str:
        """Return the registered version of the champion; empty if there is none. Writes nothing."""
        with self._translating():
            if self._is_database:
                rows = self._rows("registered_model_aliases", _CHAMPION_VERSION, {"name": name, "alias": ALIAS})
                return str(rows[0][0]) if rows else ""
            champion = _champion(self._client(), name)
            return "" if champion is None else str(champion.version)

    def refused_verdict(self, name: str, origin: Origin) -> Verdict | None:
        """Return the verdict of the newest refused model of exactly this origin, or `None` if there is none. Writes nothing."""
        with self._translating():
            runs = self._finished_runs(name) if self._is_database else self._refused_runs_on_server(name)
            for run, tags in runs:
                if Origin.of(tags) == origin and tags.get(_VERDICT, "").startswith(REFUSED):
                    reason = tags[_VERDICT].removeprefix(REFUSED)
                    uri = f"runs:/{run}/{_FOLDER}"
                    return Verdict(accepted=False, reason=reason, metrics=self._metrics(run), uri=uri)
        return None

    def versions(self, name: str) -> frozenset[str]:
        """Return the registered versions of a model; none for a model that is not registered. Writes nothing."""
        with self._translating():
            if self._is_database:
                return frozenset(str(number) for (number,) in self._rows("model_versions", _VERSIONS, {"name": name}))
            every = self._client().search_model_versions(f"name='{name}'")
            return frozenset(str(each.version) for each in every)

    def log(self, trained: Trained, *, register: bool) -> tuple[str, str]:
        """Log a model in its own run; with `register`, also as a new version that becomes the champion.

        Returns its URI and its version, which is empty for a model that is not registered. The champion changes in
        the last step; if an earlier step fails, the previous champion stays. Raises `ModelError` if the estimator
        cannot be pickled.
        """
        with self._translating(), scratch.folder("model") as folder:
            client = self._client()
            _save(trained, Path(folder) / _FOLDER)
            run = client.create_run(self._experiment(client, trained.name), run_name=trained.run_id).info
            _describe(client, run.run_id, trained)
            client.log_artifacts(run.run_id, folder)
            client.set_terminated(run.run_id)
            if not register:
                return f"runs:/{run.run_id}/{_FOLDER}", ""
            number = _registered(client, trained, f"{run.artifact_uri}/{_FOLDER}", run.run_id)
            client.set_registered_model_alias(trained.name, ALIAS, number)
            return f"models:/{trained.name}/{number}", number

    def champion(self, name: str) -> Champion | None:
        """Load and return the champion, or `None` if Headwater has trained none."""
        if self.origin(name) is None:
            return None
        with self._translating(), scratch.folder("model") as folder:
            client, mlflow = self._client(), _quiet()
            number = str(client.get_model_version_by_alias(name, ALIAS).version)
            uri = client.get_model_version_download_uri(name, number)
            path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self._store)
            return Champion(number, mlflow.sklearn.load_model(path), *_described(path))

    def _tags(self, name: str) -> dict[str, str]:
        """Return the champion's tags directly from MLflow's tables, because its client takes four seconds to start."""
        rows = self._rows("registered_model_aliases", _CHAMPION_TAGS, {"name": name, "alias": ALIAS})
        return {str(key): str(value) for key, value in rows}

    def _rows(self, table: str, query: sa.TextClause, values: Mapping[str, str]) -> list[tuple[Any, ...]]:
        """Return the rows of a query of MLflow's tables; none if the tables do not exist."""
        url = sa.make_url(self._store)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
            return []
        engine = sa.create_engine(url)
        try:
            with engine.connect() as connection:
                if not sa.inspect(connection).has_table(table):
                    return []
                return [tuple(row) for row in connection.execute(query, values)]
        finally:
            engine.dispose()

    def _finished_runs(self, name: str) -> list[tuple[str, dict[str, str]]]:
        """Return the finished runs of a model with their tags, newest first, directly from MLflow's tables."""
        rows = self._rows("tags", _RUN_TAGS, {"name": name})
        runs: dict[str, dict[str, str]] = {}
        for run, key, value in rows:
            runs.setdefault(run, {})[key] = value
        return list(runs.items())

    def _metrics(self, run: str) -> dict[str, float]:
        if not self._is_database:
            return dict(self._client().get_run(run).data.metrics)
        return {str(key): float(value) for key, value in self._rows("latest_metrics", _RUN_METRICS, {"run": run})}

    def _refused_runs_on_server(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        client = self._client()
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return
        condition = f"attributes.status = 'FINISHED' and tags.`{_VERDICT}` LIKE '{REFUSED}%'"
        for run in client.search_runs([experiment.experiment_id], condition, order_by=["attributes.start_time DESC"]):
            yield run.info.run_id, dict(run.data.tags)

    def _client(self) -> Any:
        """Return MLflow's client after a quick check of the store, because MLflow retries for minutes."""
        self._open()
        mlflow = _quiet()
        return mlflow.MlflowClient(tracking_uri=self._store, registry_uri=self._store)

    def _open(self) -> None:
        if not self._is_database:
            _answers(self._store)
            return
        url = sa.make_url(self._store)
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url)
        try:
            engine.connect().close()
        finally:
            engine.dispose()

    def _experiment(self, client: Any, name: str) -> str:
        experiment = client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        url = sa.make_url(self._store) if self._is_database else None
        if url is None or url.get_backend_name() != "sqlite" or not url.database:
            return str(client.create_experiment(name))
        folder = Path(url.database).resolve().with_suffix("")  # next to mlflow.db, in mlflow/
        return str(client.create_experiment(name, artifact_location=(folder / name).as_uri()))

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Translate errors of MLflow or its database to `StorageError`."""
        try:
            yield
        except HeadwaterError:
            raise
        except Exception as error:
            raise StorageError(
                f"the model store {_shown(self._store)} cannot be used",
                got=str(error).strip().partition("\n")[0] or type(error).__name__,
                do="check `models` in headwater.toml and that the store is available, and run again",
            ) from error


_CHAMPION_TAGS = sa.text(
    "select t.key, t.value from registered_model_aliases a "
    "join model_version_tags t on t.name = a.name and t.version = a.version "
    "where a.name = :name and a.alias = :alias"
)

_CHAMPION_VERSION = sa.text("select version from registered_model_aliases where name = :name and alias = :alias")

_VERSIONS = sa.text("select version from model_versions where name = :name and current_stage <> 'Deleted_Internal'")

_RUN_TAGS = sa.text(
    "select r.run_uuid, t.key, t.value from experiments e join runs r on r.experiment_id = e.experiment_id "
    "join tags t on t.run_uuid = r.run_uuid where e.name = :name and r.status = 'FINISHED' "
    "and r.lifecycle_stage = 'active' order by r.start_time desc, r.run_uuid"
)

_RUN_METRICS = sa.text("select key, value from latest_metrics where run_uuid = :run order by key")


def _quiet() -> Any:
    """Import and return MLflow, with telemetry, warnings and info logs disabled."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # caused by MLflow's own table options and type hints; users cannot act on them
    warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated", DeprecationWarning)
    warnings.filterwarnings("ignore", ".*Any type hint is inferred as AnyType", UserWarning)
    import mlflow  # noqa: PLC0415 - takes two seconds

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # after the import, which sets it
    return mlflow


def _champion(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - takes two seconds

    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        # the first code means an unknown model, the second a model without this alias
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def _describe(client: Any, run: str, trained: Trained) -> None:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415 - takes two seconds

    tags = {**trained.origin.tags(), _RUN: trained.run_id, _VERDICT: trained.verdict}
    client.log_batch(
        run,
        metrics=[Metric(name, value, 0, 0) for name, value in trained.metrics.items()],
        params=[Param(name, str(value)) for name, value in trained.params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def _registered(client: Any, trained: Trained, source: str, run: str) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - takes two seconds

    try:
        client.create_registered_model(trained.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {**trained.origin.tags(), _RUN: trained.run_id}
    return str(client.create_model_version(trained.name, source, run_id=run, tags=tags).version)


def _save(trained: Trained, folder: Path) -> None:
    import mlflow  # noqa: PLC0415 - takes two seconds
    from mlflow.models import ModelSignature  # noqa: PLC0415 - see above
    from mlflow.types import ColSpec, Schema, TensorSpec  # noqa: PLC0415 - see above

    columns: list[ColSpec | TensorSpec] = [
        ColSpec(_MLFLOW.get(kind, "double"), name) for name, kind in trained.features.items()
    ]
    try:
        mlflow.sklearn.save_model(
            trained.estimator,
            folder,
            signature=ModelSignature(inputs=Schema(columns), outputs=Schema([ColSpec("double")])),
            serialization_format="cloudpickle",
            pyfunc_predict_fn=trained.task.method,
            pip_requirements=_requirements(trained.estimator),  # otherwise MLflow starts a process to determine them
            metadata={
                _FEATURES: dict(trained.features),
                _TASK: trained.task.name,
                _CLASSES: list(trained.task.classes),
            },
        )
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the estimator of model {trained.name!r} cannot be stored",
            got=f"{type(trained.estimator).__name__}: {error}",
            do="return an estimator that can be pickled",
        ) from error


def _described(folder: str) -> tuple[Task, dict[str, str]]:
    """Return a model's task, and the kinds of its features in the order of the signature, which the metadata lacks."""
    from mlflow.models import Model  # noqa: PLC0415 - takes two seconds

    model = Model.load(folder)
    kinds, signature = model.metadata or {}, model.signature
    task = task_of(kinds.get(_TASK, "binary"), kinds.get(_CLASSES, (0, 1)))  # earlier models have neither
    return task, {name: kinds[_FEATURES][name] for name in signature.inputs.input_names()}


_MLFLOW = {"text": "string", "timestamp": "datetime"}


def _requirements(estimator: object) -> list[str]:
    requirements = {}
    package = type(estimator).__module__.partition(".")[0]
    for name in ("cloudpickle", "pandas", "scikit-learn", package):
        try:
            requirements[name] = f"{name}=={version(name)}"
        except PackageNotFoundError:  # a class of the project, which is pickled with the model
            continue
    return list(requirements.values())


def _answers(store: str) -> None:
    """Raise unless the server answers. A wrong or missing password is reported later by MLflow."""
    try:
        urllib.request.urlopen(f"{_shown(store).rstrip('/')}/health", timeout=_TIMEOUT_S).close()  # noqa: S310 - HTTP here
    except urllib.error.HTTPError:
        return


def _shown(store: str) -> str:
    """Return the URL without user and password."""
    parts = urlsplit(store)
    return store.replace(parts.netloc, parts.netloc.rpartition("@")[2]) if "@" in parts.netloc else store
