"""The pages beside the report: features, monitors and experiments, with results, without any, and with faults."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from ml.experiments import Assignment
from ml.experiments.states import ExperimentStates
from ml.pages import write_pages
from pipeline.project import Workspace, load
from pipeline.report import write_report
from pipeline.report.words import ABSENT
from pipeline.runner.runner import Runner, RunOptions
from tests.rigs.html_pages import read, require_accessible, require_self_contained

NOW = datetime(2026, 3, 20, tzinfo=UTC)
DEFINITIONS = """
from ml import (LightGBM, alarms, experiment, feature_view, features, interleaving, outcome_metric, model, monitor, performance,
                trailing, training_set)
from pipeline import files, source

scored = source(files("scored.csv"), schema={
    "id": "bigint", "shop": "varchar", "at": "timestamp", "x": "double", "score": "double", "late": "boolean",
})
shop_facts = feature_view("select shop, at, x, score as unused from scored", entity="shop", event_time="at", ttl="3 days", owner="growth",
                          description="Facts of <b>shops</b>", online=True)
never_run = feature_view("select shop, at, x as y from scored", entity="shop", event_time="at")
examples = training_set("select id, shop, at, late from scored", key="id", event_time="at",
                        features=[features("shop_facts", "x as shop_x")])
lateness = model("examples", LightGBM(), label="late", holdout=0.2, at_least=0.6)

drift = monitor(of="scored", time="at", reference=trailing("2 days"), numerical=["x"], segment="shop", alarms=alarms(windows=(1, 1)))
quality = performance(of="scored", time="at", prediction="score", label="late", at_least=0.9, min_rows=50, alarms=alarms(windows=(1, 1)))
none = source(files("none/*.csv", required=False), schema={"at": "timestamp", "x": "double", "unit": "bigint", "variant": "varchar"})
waiting = monitor(of="none", time="at", reference=trailing("2 days"), numerical=["x"])
uncomputed = monitor(of="scored", time="at", reference=trailing("2 days"), numerical=["x"])

exposures = source(files("exposures.csv"), schema={"unit": "bigint", "variant": "varchar", "at": "timestamp"})
orders = source(files("orders.csv"), schema={"unit": "bigint", "amount": "double", "failed": "boolean", "at": "timestamp"})
checkout = experiment(variants={"control": 1, "new": 1}, exposures="exposures", unit="unit", time="at", metrics=[
    outcome_metric("revenue", of="orders", value="amount", unit="unit", time="at"),
    outcome_metric("failures", of="orders", value="failed::int", per_unit="mean", unit="unit", time="at", better="lower", guardrail=0.2),
])
unseen = experiment(variants={"a": 3, "b": 1}, exposures="none", unit="unit", time="at", metrics=[
    outcome_metric("revenue", of="orders", value="amount", unit="unit", time="at"),
])
clicks = source(files("clicks.csv", required=False), schema={"unit": "bigint", "ranking": "varchar"})
ranked = interleaving(rankings=("old", "new"), clicks="clicks", unit="unit", units=100)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project that has run, but for what the tests of empty states need; its experiment does harm."""
    folder, chance = tmp_path_factory.mktemp("pages"), Random(7)  # noqa: S311 - not for secrets
    scored = ["id,shop,at,x,score,late"]
    for day in range(5):
        for i in range(900):
            p = chance.random()
            at = f"{datetime(2026, 3, 10, tzinfo=UTC) + timedelta(days=day, seconds=i):%Y-%m-%d %H:%M:%S}"
            x = chance.gauss(60 if day == 4 else 0, 10)
            scored.append(f"{day * 900 + i},{chance.choice(['north', 'south'])},{at},{x},{p},{chance.random() < p}")
    exposures, orders = ["unit,variant,at"], ["unit,amount,failed,at"]
    assignment = Assignment("checkout", {"control": 1, "new": 1})
    for unit in range(3000):
        variant = assignment.variant(unit)
        exposures.append(f"{unit},{variant},2026-03-01")
        orders.append(
            f"{unit},{chance.gauss(100, 5)},{chance.random() < (0.6 if variant == 'new' else 0.2)},2026-03-02"
        )
    for name, lines in {"scored": scored, "exposures": exposures, "orders": orders}.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / "headwater.toml").write_text('[project]\nname = "corner <shop>"\ndefinitions = "shop.py"\n')
    (folder / "shop.py").write_text(DEFINITIONS)
    project = load(folder)
    workspace = Workspace(project)
    Runner(project, RunOptions(select=("+checkout", "+unseen"))).run()
    ExperimentStates(workspace.lake.storage).start("checkout", "the new page is ready")
    names = ("shop_facts", "drift", "quality", "waiting", "checkout", "checkout_stop", "unseen", "ranked")
    Runner(project, RunOptions(select=tuple(f"+{name}" for name in names))).run()
    return project


@pytest.fixture(scope="module")
def pages(project, tmp_path_factory):
    """The texts of the pages by name, and their folder."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    workspace = Workspace(project)
    links = write_pages(workspace, path, lambda: NOW)
    write_report(project, workspace.catalog, path, links)
    return {page.stem.removeprefix("report-"): page.read_text() for page in path.parent.iterdir()}


def test_each_page_is_well_formed_loads_nothing_and_names_the_others(pages):
    assert set(pages) == {"report", "features", "monitors", "experiments"}
    files = {"report.html", *(f"report-{name}.html" for name in ("features", "monitors", "experiments"))}
    for name, text in pages.items():
        require_self_contained(text, files)
        require_accessible(text)
        assert set(read(text).loads) >= files - {"report.html"}, name
        assert "<b>shops" not in text


def test_features_show_freshness_the_online_store_and_models(pages):
    text = read(pages["features"]).text
    assert "shop_facts up to date expired Facts of <b>shops</b>" in text
    assert (
        "Entity shop Owner growth Time to live 3 days Rows 4,500 Newest row 2026-03-14 00:14 UTC (5 days old)" in text
    )
    assert "Version online 0, in the lake 0" in text
    assert "x DOUBLE lateness examples" in text
    assert f"unused DOUBLE {ABSENT} {ABSENT}" in text
    assert (
        f"never_run not online Entity shop Owner {ABSENT} Time to live unlimited Rows not computed by this definition yet Newest row {ABSENT}"
        in text
    )
    assert "Expired 1 shop_facts" in text
    assert "not used by a model: never_run" in text


def test_features_are_shown_if_the_online_store_does_not_answer(project, tmp_path):
    gone = load(project.settings.root)
    object.__setattr__(gone.settings, "online", "redis://127.0.0.1:1/0")
    write_pages(Workspace(gone), tmp_path / "report.html")
    text = read((tmp_path / "report-features.html").read_text()).text
    assert "shop_facts unknown" in text
    assert "Rows 4,500" in text
    assert "127.0.0.1:1" in text


def test_monitors_show_drift_alarms_and_performance(pages):
    page = read(pages["monitors"])
    assert "Open alarms 2 drift, quality" in page.text
    assert "drift 1 open alarm" in page.text
    assert re.search(r"x 2026-03-14 00:00 [a-z, ]+ index [\d.]+ against the 2 days before", page.text)
    assert "auc 2026-03-10 00:00 all rows auc 0.8" in page.text
    assert "x, 2026-03-14: alarm" in page.text
    assert "x, 2026-03-13: quiet" in page.text
    assert "x, 2026-03-10: not judged" in page.text
    assert "The auc must be at least 0.9; a window is judged when 80% of its rows have labels." in page.text
    assert "limit: mean 0.9, last 0.9" in page.text
    assert "auc expected: mean" in page.text


def test_monitors_without_windows_say_why(pages):
    text = read(pages["monitors"]).text
    assert "waiting no windows yet" in text
    assert "the reference has fewer than 200 rows, or 'none' has none with a time." in text
    assert "It is not computed yet: headwater run --select uncomputed." in text
    assert "Without windows 2 waiting, uncomputed" in text


def test_experiments_show_arms_effects_and_why_they_stopped(pages):
    text = read(pages["experiments"]).text
    assert "checkout stopped harm or broken" in text
    assert re.search(
        r"Stopped since .* UTC: harm: failures: \+\d+\.\d %, more than the tolerated 20 %; all units get control", text
    )
    assert re.search(r"control 1 50.00 % 1,\d{3} \d\d\.\d\d % new 1 50.00 %", text)
    assert re.search(r"Sample-ratio check: safe p-value [\d.]+", text)
    assert re.search(r"failures: new: \+\d+\.\d % \(\+\d+\.\d to \+\d+\.\d\), harm", text)
    assert "guardrail, 20 % tolerated" in text
    assert "Harm or broken 1 checkout" in text


def test_experiments_without_exposures_claim_nothing(pages):
    text = read(pages["experiments"]).text
    assert "unseen not started Results of a, b by revenue. There are no exposures yet." in text
    assert f"a 3 75.00 % 0 {ABSENT} b 1 25.00 % 0 {ABSENT}" in text
    assert "Sample-ratio check: undecided without units" in text
    assert "ranked interleaving Whether new ranks better than old, by clicks. There are no clicks yet." in text


def test_results_of_another_definition_are_not_shown(project, tmp_path):
    """Their columns may be others: here, a metric, a column of windows and a time are renamed."""
    folder = shutil.copytree(project.settings.root, tmp_path / "shop")
    text = DEFINITIONS.replace('outcome_metric("revenue"', 'outcome_metric("sales"').replace(
        'entity="shop", event_time="at", ttl', 'entity="shop", event_time="then", ttl'
    )
    text = text.replace("select shop, at, x, score as unused", "select shop, at as then, x, score as unused")
    (folder / "shop.py").write_text(text.replace('segment="shop"', 'by="shop"'))
    write_pages(Workspace(load(folder)), folder / "report.html")
    features, monitors, experiments = (
        read((folder / f"report-{name}.html").read_text()).text for name in ("features", "monitors", "experiments")
    )
    assert "Rows not computed by this definition yet" in features
    assert "It was computed by another definition: headwater run --select drift." in monitors
    assert "It was computed by another definition: headwater run --select checkout." in experiments
    assert "sales: new" not in experiments


def test_a_project_without_such_definitions_has_no_pages(tmp_path):
    (tmp_path / "headwater.toml").write_text('[project]\ndefinitions = "shop.py"\n')
    (tmp_path / "shop.py").write_text(
        'from pipeline import files, source\n\nx = source(files("x.csv"), schema={"a": "bigint"})\n'
    )
    (tmp_path / "report-monitors.html").write_text("of an earlier project")
    assert write_pages(Workspace(load(tmp_path)), tmp_path / "report.html") == ()
    assert not (tmp_path / "report-monitors.html").exists()
