"""`headwater monitor`."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from cluster.cli.monitor_reports import update_monitor_reports
from pipeline.governance.catalog import FAILED, UNCHANGED, RunRecord, StepRecord
from pipeline.project import Workspace, load
from tests.rigs.command import environment

PROJECT = """
from ml import alarms, monitor, trailing
from pipeline import files, source

values = source(files("values.csv"), schema={"at": "timestamp", "x": "double"})
drift = monitor(of="values", time="at", reference=trailing("1 day"), numerical=["x"], alarms=alarms(windows=(1, 1)))
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(PROJECT)
    rows = "".join(f"2026-01-0{day} 10:00,{i + 900 * (day - 1)}\n" for day in (1, 2) for i in range(1500))
    (tmp_path / "values.csv").write_text(f"at,x\n{rows}")
    return tmp_path


def test_monitors_and_their_open_alarms(folder, headwater_command):
    def run(*words):
        return headwater_command.run(*words, cwd=folder, env=environment(), timeout=60)

    before = run("monitor", "ls", "--check")
    assert before.returncode == 0
    assert run("run").returncode == 0
    (row,) = json.loads(run("monitor", "ls", "--json").stdout)
    assert row == {"name": "drift", "of": "values", "newest_window": "2026-01-02 00:00:00", "open_alarms": 1}
    assert run("monitor", "ls", "--check").returncode == 1
    shown = run("monitor", "show", "drift")
    assert "1 open alarm" in shown.stdout
    assert "mean 749.5 -> 1,650" in shown.stdout
    unknown = run("monitor", "show", "drft")
    assert unknown.returncode == 1
    assert "'drft' is not a monitor; did you mean 'drift'?" in unknown.stderr


def test_a_reference_of_few_rows_is_said(folder, headwater_command):
    (folder / "values.csv").write_text("at,x\n2026-01-01 10:00,1\n")
    assert headwater_command.run("run", cwd=folder, env=environment(), timeout=60).returncode == 0
    shown = headwater_command.run("monitor", "show", "drift", cwd=folder, env=environment(), timeout=60)
    assert "0 open alarms; newest window none" in shown.stdout
    assert "The reference has fewer than 200 rows" in shown.stdout


def test_a_report_that_cannot_be_written_does_not_fail_the_run(folder, headwater_command):
    project = (folder / "shop.py").read_text()
    (folder / "shop.py").write_text(project.replace('numerical=["x"]', 'numerical=["x"], report=True'))
    (folder / "evidently.py").write_text("raise ImportError(\"No module named 'evidently'\")\n")
    ended = headwater_command.run("run", cwd=folder, env=environment(), timeout=60)
    assert ended.returncode == 0
    assert "no report of monitor drift: Evidently could not write the report" in ended.stderr
    assert "pip install 'headwater[monitoring]'" in ended.stderr


@pytest.mark.parametrize("decision", [*UNCHANGED, *FAILED])
def test_a_step_that_computed_nothing_writes_no_report(folder, capsys, decision):
    (folder / "shop.py").write_text(PROJECT.replace('numerical=["x"]', 'numerical=["x"], report=True'))
    record = RunRecord(
        "r", "shop", "dev", "", None, "done", None, [StepRecord("drift", 0, "table", "gold", decision, "")]
    )
    assert update_monitor_reports(Workspace(load(folder)), record) == []
    assert capsys.readouterr().err == ""
    update_monitor_reports(
        Workspace(load(folder)), replace(record, steps=[replace(record.steps[0], decision="create")])
    )
    assert "no report of monitor drift: monitor 'drift' has no windows yet" in capsys.readouterr().err


@pytest.mark.proof
def test_the_report_is_beside_that_of_the_run(folder, headwater_command):
    project = (folder / "shop.py").read_text()
    (folder / "shop.py").write_text(project.replace('numerical=["x"]', 'numerical=["x"], report=True'))
    assert headwater_command.run("run", cwd=folder, env=environment(), timeout=120).returncode == 0
    report = folder / ".headwater" / "monitors" / "drift" / "report.json"
    written = report.stat().st_mtime_ns
    again = headwater_command.run("run", cwd=folder, env=environment(), timeout=120)
    assert again.returncode == 0
    assert report.stat().st_mtime_ns == written  # nothing was computed

    words = ("monitor", "report", "drift", "--out", str(folder / "out"), "--check", "--json")
    checked = headwater_command.run(*words, cwd=folder, env=environment(), timeout=120)
    assert checked.returncode == 1
    shown = json.loads(checked.stdout)
    assert (shown["rows"], shown["reference_rows"]) == (1500, 1500)
    assert not next(t for t in shown["tests"] if t["name"] == "Value Drift for column x")["has_passed"]
