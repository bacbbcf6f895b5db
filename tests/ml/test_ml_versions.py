"""Registered versions: roles and their history, the way back, approval, tampering, and training a version again."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from typer.testing import CliRunner

from cluster.cli.commands import load as command
from cluster.cli.models import app
from ml.models import load_champion
from ml.models.fitted import FittedModel
from ml.models.registry.model_store import ModelStore
from ml.models.registry.promotions import record_promotion
from ml.models.registry.registry import AWAITS_ROLLOUT, STATE, Registry
from ml.models.registry.roles import Roles
from ml.models.registry.stored_models import digest, save, skops_types
from ml.models.registry.stored_models import load as load_stored
from ml.models.registry.versions import ModelVersion, ModelVersions
from ml.models.reproduction import reproduce
from ml.models.tasks import task_of
from pipeline.core.errors import HeadwaterError, ModelError, RequestError, SettingsError, StorageError
from pipeline.lake.holds import holds
from pipeline.project import Workspace, load
from pipeline.project.holds import release_holds
from tests.ml.conftest import MODEL

OTHER = {"LogisticRegression(max_iter=1000)": "LogisticRegression(max_iter=1000, C=0.1)"}
MANUAL = {"min_rows=100": 'min_rows=100, approval="manual"'}


def two_versions(project):
    project.run()
    project.define(**OTHER)
    project.run()
    return ModelVersions(project.store)


def numbers(store):
    return {each.number: (*each.roles, each.state) for each in store.of("lateness")}


def cli(project, *arguments):
    return CliRunner().invoke(command("model") and app, [*arguments, "--project", str(project.root)])


def test_the_champion_can_be_taken_back_and_a_run_respects_that(project):
    store = two_versions(project)
    assert numbers(store) == {1: ("",), 2: ("champion", "")}
    champion, withdrawn = store.rollback("lateness", "worse on Mondays")
    assert (champion.number, withdrawn.number) == (1, 2)
    assert numbers(store) == {1: ("champion", ""), 2: ("withdrawn: worse on Mondays",)}
    assert load_champion(project.store, "lateness").version == "1"

    step = project.run()  # rows and definition are those of version 2, which is not trained again
    assert (step.decision, step.reason) == ("skip", "version 2 withdrawn: worse on Mondays")
    assert numbers(store)[1] == ("champion", "")

    store.promote("lateness", 2, reason="Mondays are fine")
    assert numbers(store) == {1: ("",), 2: ("champion", "")}
    assert project.run().reason == "up to date"
    history = [(each.version, each.replaced, each.reason.partition(":")[0]) for each in store.promotions("lateness")]
    assert history == [
        (2, 1, "Mondays are fine"),
        (1, 2, "rollback of version 2"),
        (2, 1, "accepted"),
        (1, None, "accepted"),
    ]


def test_a_model_waits_for_approval(project):
    project.define(**MANUAL)
    step = project.run()
    assert step.decision == "accepted"
    assert step.verdict.reason.endswith("; it waits for approval: headwater model promote lateness 1")
    store = ModelVersions(project.store)
    assert numbers(store) == {1: ("waits for approval",)}
    with pytest.raises(HeadwaterError, match="model 'lateness' has no champion yet"):
        load_champion(project.store, "lateness")
    assert project.run().reason == "version 1 waits for approval"
    store.promote("lateness", 1)
    assert numbers(store) == {1: ("champion", "")}
    assert project.run().reason == "up to date"


def test_a_version_in_use_is_not_deleted_and_a_deleted_one_holds_no_rows(project):
    store = two_versions(project)
    store.promote("lateness", 1, "shadow")
    for number, role in ((1, "shadow"), (2, "champion")):
        with pytest.raises(RequestError, match=f"version {number} of model 'lateness' is in use as {role}; promote"):
            store.retire("lateness", number)
    store.promote("lateness", 1)
    project.define(**{"LogisticRegression(max_iter=1000)": "LogisticRegression(max_iter=1000, C=0.5)"})
    project.run()
    store.retire("lateness", 2)  # a run would train another definition
    store.retire("lateness", 1)
    assert numbers(store) == {3: ("champion", "")}
    workspace = Workspace(load(project.root))
    release_holds(workspace, "trips")
    assert [hold.id for hold in holds(workspace.table("trips").storage)] == ["model-lateness-3"]
    with pytest.raises(RequestError, match="before version 3 of model 'lateness', no version was champion"):
        store.rollback("lateness")


def test_a_version_is_trained_again_from_its_own_rows(project):
    project.run()
    project.add("february", first=1400)
    project.run()  # a second version, of more rows
    workspace = Workspace(load(project.root))
    store, model = ModelVersions(project.store), workspace.definition("lateness")
    for number in (1, 2):
        found = reproduce(workspace, model, store.require("lateness", number))
        assert found.is_equal, number
    first, second = (store.require("lateness", number).metrics["training_rows"] for number in (1, 2))
    assert first == second  # the split is by a date: the holdout has the new rows
    project.define(**OTHER)
    changed = Workspace(load(project.root)).definition("lateness")
    with pytest.raises(
        RequestError, match="the definition of model 'lateness' has changed since version 2 was trained"
    ):
        reproduce(workspace, changed, store.require("lateness", 2))


def test_each_rollback_goes_further_back(project):
    store = two_versions(project)
    project.define(**{"LogisticRegression(max_iter=1000)": "LogisticRegression(max_iter=1000, C=0.5)"})
    project.run()
    assert [store.rollback("lateness")[0].number for _ in range(2)] == [2, 1]
    with pytest.raises(RequestError, match="no version was champion that could be used again"):
        store.rollback("lateness")
    store.promote("lateness", 3)
    assert store.rollback("lateness", "again")[1].number == 3


def test_going_back_by_hand_lasts(project):
    store = two_versions(project)
    store.promote("lateness", 1, reason="2 is odd")
    step = project.run()
    assert (step.decision, step.reason) == ("skip", "version 2 replaced by version 1: 2 is odd")
    with pytest.raises(RequestError, match="version 2 of model 'lateness' is kept back"):
        store.retire("lateness", 2)  # a run would train it again
    assert store.require("lateness").number == 1


def test_a_version_that_waits_takes_no_traffic(project):
    store = two_versions(project)
    store.promote("lateness", 1, "challenger", traffic=0.5)
    project.define(
        MODEL.replace("min_rows=100", 'min_rows=100, approval="manual", leaks=()').replace(
            "max_iter=1000", "max_iter=900"
        )
    )
    assert "waits for approval" in project.run().verdict.reason
    assert Registry(project.store).roles("lateness") == Roles({"champion": "2", "challenger": "1"}, 0.5)
    store.promote("lateness", 1)
    assert Registry(project.store).roles("lateness") == Roles({"champion": "1"}, 0.0)


@pytest.mark.parametrize("file", ["model.skops", "MLmodel"])
def test_files_that_somebody_changed_are_not_loaded(project, file):
    project.run()
    (path,) = (project.root / ".headwater" / "mlflow").rglob(file)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(StorageError, match="the files of model lateness 1 are not those that were registered"):
        load_champion(project.store, "lateness")


def test_a_file_of_another_format_than_registered_is_not_loaded(project):
    """`headwater model show` says skops, which runs no code; the file would be unpickled."""
    project.run()
    store, (folder,) = ModelStore(project.store), (project.root / ".headwater" / "mlflow").rglob("model")
    path = folder / "MLmodel"
    path.write_text(path.read_text().replace("format: skops", "format: cloudpickle"))
    store.client().set_model_version_tag("lateness", "1", "headwater.digest", digest(folder))
    problem = "a stored model has another format than the one that is registered: got cloudpickle instead of skops"
    with pytest.raises(StorageError, match=problem):
        load_champion(project.store, "lateness")


def test_models_that_run_code_can_be_refused(project, monkeypatch, tmp_path):
    project.run()
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert load_champion(project.store, "lateness").version == "1", "skops runs no code"
    with_code = make_pipeline(FunctionTransformer(abs), LogisticRegression())
    fitted = FittedModel(with_code, task_of("binary", (0, 1)), {"load": "number"})
    with pytest.raises(ModelError, match=r"could only be stored by cloudpickle, which is refused here: got Pipeline"):
        save(fitted, tmp_path / "refused", "late")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    assert save(fitted, tmp_path / "stored", "late") == "cloudpickle"
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    with pytest.raises(StorageError, match="stored by cloudpickle, which is refused here: loading it runs its code"):
        load_stored(tmp_path / "stored")
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "perhaps")
    with pytest.raises(SettingsError, match="is neither true nor false: got 'perhaps'"):
        load_stored(tmp_path / "stored")


def test_the_commands(project):
    two_versions(project)
    listed = cli(project, "ls")
    assert listed.exit_code == 0
    assert listed.stdout.split()[:6] == ["model", "task", "champion", "metric", "trained", "others"]
    assert "lateness  binary         2  auc 0." in listed.stdout
    assert [each["version"] for each in json.loads(cli(project, "ls", "lateness", "--json").stdout)] == [2, 1]
    shown = cli(project, "show", "lateness@1").stdout
    assert "skops" in shown
    assert "runs code" not in shown
    assert "2 champion" in cli(project, "compare", "lateness").stdout
    assert (
        cli(project, "retire", "lateness", "1").stdout
        == "nothing was changed; delete version 1 of 'lateness' with --yes\n"
    )
    assert (
        cli(project, "rollback", "lateness").stdout == "version 1 of 'lateness' is the champion again, instead of 2\n"
    )
    assert cli(project, "promote", "lateness", "2", "--to", "challenger").exit_code == 0
    listed = cli(project, "ls").stdout
    assert "2 challenger, withdrawn" in listed
    assert "by hand" not in listed
    reproduced = cli(project, "reproduce", "lateness@2")
    assert (reproduced.exit_code, reproduced.stdout.splitlines()[-1]) == (0, "the same model")


def test_a_list_of_models_shows_few_withdrawn_versions_and_no_reasons(monkeypatch, project):
    at = datetime(2026, 1, 1, tzinfo=UTC)
    states = {9: "", 3: AWAITS_ROLLOUT} | dict.fromkeys((1, 2, 4, 5, 6, 7, 8), "withdrawn: complaints: +31.0 %, more")
    roles = {9: ("champion",), 2: ("shadow",)}
    many = [
        ModelVersion("lateness", number, roles.get(number, ()), at, {}, {}, {STATE: states[number]}, "r")
        for number in range(9, 0, -1)
    ]
    monkeypatch.setattr(ModelVersions, "names", lambda _: ["lateness"])
    monkeypatch.setattr(ModelVersions, "of", lambda *_: many)
    (line,) = [line for line in cli(project, "ls").stdout.splitlines() if "lateness" in line]
    assert line.split("01-01 00:00")[1].strip() == f"3 {AWAITS_ROLLOUT}, 2 shadow, withdrawn, 8 withdrawn, 5 more"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("show", "nope"), "no model 'nope' is registered; known: 'lateness'"),
        (("ls", "latenes"), "no model 'latenes' is registered; did you mean 'lateness'?"),
        (("show", "lateness@7"), "model 'lateness' has no version 7; its versions are 1"),
        (("ls", "a'b"), "no model \"a'b\" is registered; known: 'lateness'"),
        (("show", "@"), "this is not the name of a version: got '@'; write NAME or NAME@VERSION"),
        (("promote", "lateness", "1", "--to", "king"), "there is no role 'king'"),
        (("rollback", "lateness"), "before version 1 of model 'lateness', no version was champion that could be used"),
        (("freeze", "lateness", "--reason", " "), "a model is frozen for a reason: got an empty one"),
        (("promote", "lateness", "1", "--to", "shadow"), "version 1 of model 'lateness' is the champion"),
        (("promote", "lateness", "1", "--traffic", "0.5"), "only a challenger gets a share of the traffic: got 0.5"),
        (
            ("promote", "lateness", "1", "--to", "challenger", "--traffic", "7"),
            "this is no share of the traffic: got 7",
        ),
        (("compare", "lateness"), "model 'lateness' has only version 1; train another one"),
        (("reproduce", "trips"), "no model 'trips' is registered"),
    ],
)
def test_wrong_arguments(trained, arguments, problem):
    with pytest.raises(RequestError) as raised:
        CliRunner().invoke(app, [*arguments, "--project", str(trained.root)], catch_exceptions=False)
    assert problem in str(raised.value)


@pytest.mark.parametrize(("function", "is_safe"), [(abs, False), (np.load, False), (None, True)])
def test_functions_of_python_are_no_part_of_a_model_that_runs_no_code(function, is_safe):
    model = make_pipeline(FunctionTransformer(function), LogisticRegression())
    assert (skops_types(model) is not None) is is_safe


class _Client:
    """The parts of MLflow's client that a history needs."""

    def __init__(self):
        self.tags, self.aliases = {}, {}

    def search_registered_models(self, _):
        return [self]

    def set_registered_model_tag(self, _, key, value):
        assert len(value) <= 5000
        self.tags[key] = value


def test_a_long_history_loses_its_oldest_entries():
    client = _Client()
    for number in range(1, 200):
        record_promotion(client, "m", number, "x" * 300)
        client.aliases["champion"] = str(number)
    (text,) = client.tags.values()
    kept = json.loads(text)
    assert 10 < len(kept) < 199
    assert [each["version"] for each in kept] == list(range(199, 199 - len(kept), -1))
