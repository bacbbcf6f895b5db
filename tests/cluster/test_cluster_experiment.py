"""`headwater experiment`."""

from __future__ import annotations

import json

import pytest

from tests.rigs.command import environment

PROJECT = """
from ml import experiment, outcome_metric
from pipeline import files, source

seen = source(files("seen.csv"), schema={"user": "bigint", "variant": "varchar", "at": "timestamp"})
sales = source(files("sales.csv"), schema={"user": "bigint", "amount": "double", "at": "timestamp"})
checkout = experiment(
    variants={"old": 1, "new": 1}, exposures="seen", unit="user", time="at",
    metrics=[outcome_metric("revenue", of="sales", value="amount", unit="user", time="at", guardrail=0.01)],
)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(PROJECT)
    users = range(1000)
    at = "2026-01-01 10:00"
    seen = "".join(f"{u},{'old' if u % 2 else 'new'},{at}\n" for u in users)
    sales = "".join(f"{u},{(10 if u % 2 else 5) + u % 3},{at}\n" for u in users)
    (tmp_path / "seen.csv").write_text(f"user,variant,at\n{seen}")
    (tmp_path / "sales.csv").write_text(f"user,amount,at\n{sales}")
    return tmp_path


def test_the_status_of_an_experiment(folder, headwater_command):
    def run(*words):
        return headwater_command.run(*words, cwd=folder, env=environment(), timeout=60)

    early = run("experiment", "status", "checkout")
    assert "has no results yet" in early.stderr
    assert run("run").returncode == 0
    assert [row["name"] for row in json.loads(run("experiment", "ls", "--json").stdout)] == ["checkout"]
    shown = run("experiment", "status", "checkout", "--check")
    assert shown.returncode == 1
    assert "1,000 units: old 500; new 500" in shown.stdout
    assert "stop: revenue" in shown.stdout
    status = json.loads(run("experiment", "status", "checkout", "--json").stdout)
    assert status["must_stop"]
    assert [row["decision"] for row in status["results"] if row["metric"]] == ["harm"]
    assert run("experiment", "variant", "checkout", "7").stdout.strip() == "old (not started)"
    unknown = run("experiment", "status", "chekout")
    assert "'chekout' is not an experiment; did you mean 'checkout'?" in unknown.stderr
