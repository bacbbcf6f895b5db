"""Some months of a model: its predictions get worse in June, it is trained again, and the new version takes over in steps."""

from __future__ import annotations

import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ml.models import rolling_out
from ml.models.registry.rollouts import Rollouts
from ml.models.registry.versions import ModelVersions
from pipeline.project import Workspace, load

EXAMPLE = Path(__file__).parents[2] / "examples" / "flight_model"


@pytest.fixture(scope="module")
def live():
    spec = importlib.util.spec_from_file_location("live", EXAMPLE / "live.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_june_is_noticed_and_a_better_version_takes_over(live, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(live, "SETTLES_S", 0)
    monkeypatch.setattr(rolling_out, "_SETTLES", timedelta())
    live.main(tmp_path)
    printed = capsys.readouterr().out
    assert "trained again because of alarm of late_performance: brier 0.2" in printed
    workspace = Workspace(load(tmp_path))
    versions, store = ModelVersions(workspace.settings.models), Rollouts(workspace.settings.models)
    assert versions.require("late_risk").number == 2
    assert [each.decision for each in store.decisions("late_risk")] == [
        "is the champion",
        "predicts 50%",
        "predicts 20%",
    ]
    first, second = (
        workspace.query(
            f"select avg(squared_error) as e from judged where model_version = {n} and scheduled_at >= '2013-08-01'"
        )
        for n in (1, 2)
    )
    assert second["e"][0].as_py() < first["e"][0].as_py()
    [since] = workspace.query("select min(since) as since from late_performance where model_version = 1").to_pylist()
    assert since["since"] == datetime(2013, 6, 3, tzinfo=UTC)
    [row] = workspace.query("select decision, difference from message_test where metric is not null").to_pylist()
    assert row["decision"] == "better"
    assert row["difference"] == pytest.approx(-0.03, abs=0.01)
