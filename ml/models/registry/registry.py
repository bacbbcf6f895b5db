"""The model store: MLflow runs and registered models, in a database or on a server.

The origin of a model is stored as tags on its registered version, so one look-up shows whether the champion is
current. Every failure of the store is a `StorageError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ml.models.fitted import FittedModel
from ml.models.registry.model_store import ModelStore
from ml.models.registry.promotions import record_promotion
from ml.models.registry.roles import CHAMPION, Roles
from ml.models.registry.stored_models import digest, load, quiet_mlflow, save
from ml.models.retraining import LastTraining
from pipeline.core import scratch
from pipeline.core.definitions import Verdict
from pipeline.core.errors import StorageError

if TYPE_CHECKING:
    from ml.models.tuning.search import Trial

_INPUTS, _FINGERPRINT, _RUN = "headwater.inputs", "headwater.fingerprint", "headwater.run"
VERDICT, _VIEWS = "headwater.verdict", "headwater.views"
PREDICTIONS, VALUES = "headwater.predictions", "headwater.values"
COMPARED = "headwater.compared"
FROZEN, TRAFFIC = "headwater.frozen", "headwater.traffic"
STATE = "headwater.state"
"""The tag of a version that is not the champion although it is the newest: it waits for approval, or was withdrawn."""
ROW_METRICS = ("training_rows", "holdout_rows", "unlabelled_rows", "undated_rows")
"""The metrics that together count the rows of a training set."""
REFUSED = "refused: "
"""The prefix of the verdict on a refused model."""
FORMAT, _DIGEST, _ERROR = "headwater.format", "headwater.digest", "headwater.error"
_FOLDER = "model"
AWAITS_APPROVAL, AWAITS_ROLLOUT = "waits for approval", "waits for its rollout"
"""The states of versions that were accepted and have no role yet."""
ROLLOUT = "headwater.rollout"
"""The tag of a model with the rollout that is under way."""


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
    fitted: FittedModel
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    verdict: str
    documents: Mapping[str, str] = field(default_factory=dict)
    """Texts beside the model, by file name."""
    trials: Sequence[Trial] = ()
    """The trials of the search for its hyperparameters."""
    values: Mapping[str, object] = field(default_factory=dict)
    """The values that the search found."""
    compared: str = ""
    """What must be equal for two models to be compared."""
    predictions: str = ""
    """The digest of the predictions on the holdout, which show whether another training gives the same model."""


@dataclass(frozen=True)
class Champion:
    """A model in use, and its registered version."""

    version: str
    fitted: FittedModel
    origin: Origin | None = None


class Registry:
    """The model store at a URL: `sqlite:///…` or another database, or an MLflow server's `http(s)://…`."""

    def __init__(self, store: str) -> None:
        """Create the registry without opening the store."""
        self._store = ModelStore(store)

    def require(self) -> None:
        """Raise `StorageError` unless the store can be reached. The folder of a SQLite database is created."""
        with self._store.translating():
            self._store.open()

    def origin(self, name: str) -> Origin | None:
        """Return the origin of the champion, or `None` if Headwater has trained none. Writes nothing."""
        return Origin.of(self.champion_tags(name))

    def champion_tags(self, name: str) -> Mapping[str, str]:
        """Return the tags of the champion, none if there is none. Writes nothing."""
        with self._store.translating():
            if self._store.is_database:
                values = {"name": name, "alias": CHAMPION}
                return dict(self._store.rows("registered_model_aliases", _CHAMPION_TAGS, values))
            champion = _champion(self._store.client(), name)
            return {} if champion is None else champion.tags

    def champion_version(self, name: str) -> str:
        """Return the registered version of the champion; empty if there is none. Writes nothing."""
        with self._store.translating():
            if self._store.is_database:
                rows = self._store.rows(
                    "registered_model_aliases", _CHAMPION_VERSION, {"name": name, "alias": CHAMPION}
                )
                return str(rows[0][0]) if rows else ""
            champion = _champion(self._store.client(), name)
            return "" if champion is None else str(champion.version)

    def refused_verdict(self, name: str, origin: Origin) -> Verdict | None:
        """Return the verdict of the newest refused model of exactly this origin, or `None` if there is none. Writes nothing."""
        with self._store.translating():
            runs = self._finished_runs(name) if self._store.is_database else self._refused_runs_on_server(name)
            for run, tags in runs:
                if Origin.of(tags) == origin and tags.get(VERDICT, "").startswith(REFUSED):
                    reason = tags[VERDICT].removeprefix(REFUSED)
                    uri = f"runs:/{run}/{_FOLDER}"
                    return Verdict(accepted=False, reason=reason, metrics=self._metrics(run), uri=uri)
        return None

    def frozen(self, name: str) -> str:
        """Return why a model is frozen, empty if it is not. Writes nothing."""
        with self._store.translating():
            return self._used(name)[1].get(FROZEN, "")

    def last_training(self, name: str, fingerprint: str) -> LastTraining | None:
        """Return the newest training of a definition, whether it was accepted or not. Writes nothing."""
        with self._store.translating():
            if self._store.is_database:
                for run, tags in self._finished_runs(name):
                    if tags.get(_FINGERPRINT) == fingerprint:
                        ((ended,),) = self._store.rows("runs", _RUN_END, {"run": run})
                        return _last_training(float(ended), self._metrics(run))
                return None
            client = self._store.client()
            experiment = client.get_experiment_by_name(name)
            condition = f"attributes.status = 'FINISHED' and tags.`{_FINGERPRINT}` = '{fingerprint}'"
            order = ["attributes.start_time DESC"]
            known = (
                () if experiment is None else client.search_runs([experiment.experiment_id], condition, order_by=order)
            )
            return _last_training(float(known[0].info.end_time), dict(known[0].data.metrics)) if known else None

    def kept_back(self, name: str, origin: Origin) -> tuple[str, str] | None:
        """Return the newest version of exactly this origin that waits for approval or was withdrawn, and why. Writes nothing."""
        with self._store.translating():
            tags = self._version_tags(name)
        for number in sorted(tags, reverse=True):
            if STATE in tags[number] and Origin.of(tags[number]) == origin:
                return str(number), tags[number][STATE]
        return None

    def is_rolling_out(self, name: str) -> bool:
        """Return whether a rollout of a model is under way, or a version newer than the champion waits for one. Writes nothing."""
        with self._store.translating():
            versions, tags = self._used(name)
            champion = int(versions.get(CHAMPION, 0))
            states = (
                (number, each.get(STATE)) for number, each in self._version_tags(name).items() if number > champion
            )
            return bool(tags.get(ROLLOUT)) or any(state == AWAITS_ROLLOUT for _, state in states)

    def versions(self, name: str) -> frozenset[str]:
        """Return the registered versions of a model; none for a model that is not registered. Writes nothing."""
        with self._store.translating():
            if self._store.is_database:
                return frozenset(
                    str(number) for (number,) in self._store.rows("model_versions", _VERSIONS, {"name": name})
                )
            every = self._store.client().search_model_versions(f"name='{name}'")
            return frozenset(str(each.version) for each in every)

    def log(self, trained: Trained, *, register: bool, awaits: str = "") -> tuple[str, str]:
        """Log a model in its own run; with `register`, also as a new version that becomes the champion.

        With `awaits`, the state of the version, it has no role yet.

        Returns its URI and its version, which is empty for a model that is not registered. The champion changes in
        the last step; if an earlier step fails, the previous champion stays. Raises `ModelError` if the estimator
        cannot be stored.
        """
        with self._store.translating(), scratch.folder("model") as folder:
            client = self._store.client()
            path = Path(folder) / _FOLDER
            stored = {
                FORMAT: save(trained.fitted, path, trained.name),
                _DIGEST: digest(path),
                PREDICTIONS: trained.predictions,
                COMPARED: trained.compared,
                VALUES: json.dumps(dict(trained.values)),
            }
            for name, text in trained.documents.items():
                (Path(folder) / name).write_text(text, encoding="utf-8")
            experiment = self._store.experiment(client, trained.name)
            run = client.create_run(experiment, run_name=trained.run_id).info
            _describe(client, run.run_id, trained, stored)
            _log_trials(client, experiment, run.run_id, trained)
            client.log_artifacts(run.run_id, folder)
            client.set_terminated(run.run_id)
            if not register:
                return f"runs:/{run.run_id}/{_FOLDER}", ""
            number = _registered(client, trained, f"{run.artifact_uri}/{_FOLDER}", run.run_id, stored)
            if awaits == AWAITS_ROLLOUT:
                self._forget_waiting(client, trained.name)
            if awaits:
                client.set_model_version_tag(trained.name, number, STATE, awaits)
            else:
                record_promotion(client, trained.name, int(number), trained.verdict)
                client.set_registered_model_alias(trained.name, CHAMPION, number)
            return f"models:/{trained.name}/{number}", number

    def roles(self, name: str) -> Roles:
        """Return the versions that have a role, and the share of the traffic that the challenger gets. Writes nothing."""
        with self._store.translating():
            versions, tags = self._used(name)
        return Roles(versions, float(tags.get(TRAFFIC, 0)))

    def champion(self, name: str) -> Champion | None:
        """Load and return the champion, or `None` if Headwater has trained none."""
        if self.origin(name) is None:
            return None
        return self.load(name, self.champion_version(name))

    def load(self, name: str, number: str) -> Champion:
        """Load and return a registered version."""
        with self._store.translating(), scratch.folder("model") as folder:
            client, mlflow = self._store.client(), quiet_mlflow()
            uri = client.get_model_version_download_uri(name, number)
            path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder, tracking_uri=self._store.url)
            tags = client.get_model_version(name, number).tags
            _require_digest(tags.get(_DIGEST), Path(path), f"{name} {number}")
            return Champion(number, load(Path(path), tags.get(FORMAT)), Origin.of(tags))

    def _used(self, name: str) -> tuple[dict[str, str], dict[str, str]]:
        """Return the version of each alias of a model, and the tags of the model."""
        if not self._store.is_database:
            models = self._store.client().search_registered_models(f"name='{name}'")
            versions, tags = (models[0].aliases, models[0].tags) if models else ({}, {})
            return {alias: str(number) for alias, number in versions.items()}, dict(tags)
        rows = self._store.rows("registered_model_aliases", _ALIASES_AND_TAGS, {"name": name})
        versions, tags = ({str(k): str(v).strip() for part, k, v in rows if part == kind} for kind in ("alias", "tag"))
        return versions, tags

    def _forget_waiting(self, client: Any, name: str) -> None:
        """Let versions not wait for a rollout any more, because a newer one does; the one that is under way stays."""
        under_way = json.loads(self._used(name)[1].get(ROLLOUT) or "{}").get("version")
        for number, tags in self._version_tags(name).items():
            if tags.get(STATE) == AWAITS_ROLLOUT and number != under_way:
                client.delete_model_version_tag(name, str(number), STATE)

    def _version_tags(self, name: str) -> dict[int, dict[str, str]]:
        """Return the tags of each registered version of a model."""
        if not self._store.is_database:
            found = self._store.client().search_model_versions(f"name='{name}'")
            return {int(each.version): dict(each.tags) for each in found}
        tags: dict[int, dict[str, str]] = {}
        for number, key, value in self._store.rows("model_version_tags", _VERSION_TAGS, {"name": name}):
            tags.setdefault(int(number), {})[str(key)] = str(value)
        return tags

    def _finished_runs(self, name: str) -> list[tuple[str, dict[str, str]]]:
        """Return the finished runs of a model with their tags, newest first, directly from MLflow's tables."""
        rows = self._store.rows("tags", _RUN_TAGS, {"name": name})
        runs: dict[str, dict[str, str]] = {}
        for run, key, value in rows:
            runs.setdefault(run, {})[key] = value
        return list(runs.items())

    def _metrics(self, run: str) -> dict[str, float]:
        if not self._store.is_database:
            return dict(self._store.client().get_run(run).data.metrics)
        return {str(key): float(value) for key, value in self._store.rows("latest_metrics", _RUN_METRICS, {"run": run})}

    def _refused_runs_on_server(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        client = self._store.client()
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return
        condition = f"attributes.status = 'FINISHED' and tags.`{VERDICT}` LIKE '{REFUSED}%'"
        for run in client.search_runs([experiment.experiment_id], condition, order_by=["attributes.start_time DESC"]):
            yield run.info.run_id, dict(run.data.tags)


_CHAMPION_TAGS = sa.text(
    "select t.key, t.value from registered_model_aliases a "
    "join model_version_tags t on t.name = a.name and t.version = a.version "
    "where a.name = :name and a.alias = :alias"
)

_CHAMPION_VERSION = sa.text("select version from registered_model_aliases where name = :name and alias = :alias")

_VERSIONS = sa.text("select version from model_versions where name = :name and current_stage <> 'Deleted_Internal'")

_VERSION_TAGS = sa.text(
    "select t.version, t.key, t.value from model_version_tags t "
    "join model_versions v on v.name = t.name and v.version = t.version "
    "where t.name = :name and v.current_stage <> 'Deleted_Internal'"
)

_RUN_TAGS = sa.text(
    "select r.run_uuid, t.key, t.value from experiments e join runs r on r.experiment_id = e.experiment_id "
    "join tags t on t.run_uuid = r.run_uuid where e.name = :name and r.status = 'FINISHED' "
    "and r.lifecycle_stage = 'active' order by r.start_time desc, r.run_uuid"
)

_RUN_END = sa.text("select end_time from runs where run_uuid = :run")

_ALIASES_AND_TAGS = sa.text(
    "select 'alias', a.alias, cast(a.version as char(20)) from registered_model_aliases a where a.name = :name "
    "union all select 'tag', t.key, t.value from registered_model_tags t where t.name = :name"
)

_RUN_METRICS = sa.text("select m.key, m.value from latest_metrics m where m.run_uuid = :run order by m.key")


def _champion(client: Any, name: str) -> Any:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - takes two seconds

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # the first code means an unknown model, the second a model without this alias
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def _last_training(ended_ms: float, metrics: Mapping[str, float]) -> LastTraining:
    rows = sum(int(metrics.get(name, 0)) for name in ROW_METRICS)
    return LastTraining(datetime.fromtimestamp(ended_ms / 1000, UTC), rows)


def _describe(client: Any, run: str, trained: Trained, stored: Mapping[str, str]) -> None:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415 - takes two seconds

    tags = {**trained.origin.tags(), **stored, _RUN: trained.run_id, VERDICT: trained.verdict}
    client.log_batch(
        run,
        metrics=[Metric(name, value, 0, 0) for name, value in trained.metrics.items()],
        params=[Param(name, str(value)) for name, value in trained.params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def _log_trials(client: Any, experiment: str, parent: str, trained: Trained) -> None:
    """Log each trial as a run inside the run of the model."""
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415 - takes two seconds

    for number, trial in enumerate(trained.trials):
        tags = {"mlflow.parentRunId": parent, _RUN: trained.run_id, **({_ERROR: trial.error} if trial.error else {})}
        run = client.create_run(experiment, run_name=f"trial {number}").info.run_id
        figures = {"steps": float(trial.steps), "seconds": trial.seconds}
        if trial.metric is not None:
            figures["validation"] = trial.metric
        client.log_batch(
            run,
            metrics=[Metric(name, value, 0, 0) for name, value in figures.items()],
            params=[Param(name, str(value)) for name, value in trial.values.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )
        client.set_terminated(run, "FAILED" if trial.error else "FINISHED")


def _require_digest(expected: str | None, folder: Path, model: str) -> None:
    """Raise `StorageError` if the files of a model are not those that were registered; earlier models have no digest."""
    if expected is not None and digest(folder) != expected:
        problem = f"the files of model {model} are not those that were registered"
        raise StorageError(problem, do="find out who changed the model store; train the model again with --full")


def _registered(client: Any, trained: Trained, source: str, run: str, stored: Mapping[str, str]) -> str:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415 - takes two seconds

    try:
        client.create_registered_model(trained.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {**trained.origin.tags(), **stored, _RUN: trained.run_id}
    return str(client.create_model_version(trained.name, source, run_id=run, tags=tags).version)
