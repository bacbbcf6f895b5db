"""The report of a small project: after a run, a run with nothing to do, a failed run, and without a run."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pipeline.core.errors import ExpectationError, StorageError
from pipeline.governance import Catalog
from pipeline.project.project import load
from pipeline.report import write_report
from pipeline.report.verdicts import paired
from pipeline.runner.runner import Runner, RunOptions
from tests.rigs.html_pages import read, require_accessible, require_self_contained


def test_report_shows_every_part_of_a_run(corner, report):
    run = Runner(load(corner)).run()
    page = read(report(corner))
    assert "corner <shop> done" in page.text
    assert run.run_id in page.text
    assert "Environment dev" in page.text
    for name in ("raw_orders", "orders", "sales_by_day", "sales_by_product", "refunds", "guess"):
        assert name in page.words
    assert "Tables 6 6 computed" in page.text
    assert "Rows read 7 " in page.text
    assert "Rows in quarantine 2 of 2 tables, 2 by this run" in page.text
    assert "Model auc 0.8125 guess: accepted, baseline 0.6100" in page.text
    assert "Every row is accounted for" in page.text
    assert "1 quarantined, 1 dropped" in page.text
    assert "sold_something quantity > 0 quarantine 6 1 83.33 %" in page.text
    assert "key_is_unique one row for each key quarantine 6 0 100 %" in page.text
    assert "orders.csv:6" in page.text
    assert "five,2026-01-06,cup,1,4.0" in page.text


def test_model_is_shown_with_its_baseline_and_threshold(corner, report):
    Runner(load(corner)).run()
    text = read(report(corner)).text
    assert "auc (decides) 0.8125 0.6100 +0.2025 0.7000" in text
    assert "brier 0.2100 0.2400 -0.0300" in text
    assert "holdout rows 1,200" in text


def test_rejected_model_is_shown_with_the_reason(corner, report):
    (corner / "data" / "good").write_text("0.65")
    assert Runner(load(corner)).run().status == "refused"
    text = read(report(corner)).text
    assert "guess refused auc 0.65 against <0.7>" in text


def test_report_loads_no_other_file_and_runs_no_script(corner, report):
    Runner(load(corner)).run()
    require_self_contained(report(corner))


def test_html_in_rows_conditions_and_names_is_escaped(corner, report):
    Runner(load(corner)).run()
    text = report(corner)
    page = read(text)
    assert "<script" not in text
    assert "<img" not in text
    assert "<img src=x onerror=alert(2)>" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "price < 20 and '<i>' <> '</i>'" in page.text
    assert "Sales by day & <product>" in page.text


def test_row_with_an_unpaired_surrogate_is_shown(corner, report):
    (corner / "corner.py").write_text(
        'from pipeline import files, source\n\nnotes = source(files("data/notes*.json"))\n'
    )
    (corner / "data" / "notes.json").write_text('{"id":1,"v":"a"}\n{"id":1,"v":"\\ud800"}\n')

    Runner(load(corner)).run()

    assert r"\ud800" in report(corner)


def test_the_report_is_accessible(corner, report):
    Runner(load(corner)).run()
    require_accessible(report(corner))


def test_charts_are_drawn_or_show_the_reason(corner, report):
    Runner(load(corner)).run()
    text = read(report(corner)).text
    assert "amount (euros)" in text
    assert "Refunds The table has no rows to draw." in text
    assert "The chart uses a column 'days' that the table does not have; did you mean 'day'?" in text


def test_rows_that_a_chart_cannot_draw_are_counted(corner, report):
    path = corner / "data" / "orders.csv"
    path.write_text(path.read_text() + "8,2026-01-08,,1,9.0\n9,2026-01-08,saucer,1,\n")
    definitions = corner / "corner.py"
    text = definitions.read_text().replace("product, sum(amount) as amount from", "product, max(amount) as amount from")
    definitions.write_text(text.replace("product <> 'test'", "product is null or product <> 'test'"))
    Runner(load(corner)).run()
    assert "Not drawn: 2 rows without product or amount." in read(report(corner)).text


def test_chart_with_several_rows_at_one_point_notes_which_is_drawn(corner, report):
    definitions = corner / "corner.py"
    text = definitions.read_text()
    definitions.write_text(
        text.replace(
            "select day, count(*) as orders from orders group by day",
            "select 1 as days, order_id as orders from orders",
        )
    )
    Runner(load(corner)).run()
    assert "Several rows have the same days: the highest orders is drawn." in read(report(corner)).text


def test_run_with_nothing_to_do_shows_the_previous_run(corner, report):
    project = load(corner)
    Runner(project).run()
    first = read(report(corner)).text
    again = Runner(project).run()
    assert {step.decision for step in again.steps} == {"skip"}
    text = read(report(corner)).text
    assert again.run_id in text
    assert "Tables 6 6 up to date" in text
    assert re.search(r"Rows read 7 \d+ bytes from 1 source, none in this run", text)
    assert "Rows in quarantine 2 of 2 tables, 0 by this run" in text
    assert len(re.findall(r"computed \d{4}-\d\d-\d\d \d\d:\d\d UTC", text)) == 6
    assert text.count("figures of an earlier run") == 1  # the model; the catalog stores no versions of models
    assert "sold_something quantity > 0 quarantine 6 1 83.33 %" in text
    assert "auc (decides) 0.8125 0.6100 +0.2025 0.7000" in text
    score = re.search(r"Quality score ([\d.]+ %)", first)[1]
    assert f"Quality score {score}" in text


def test_expectations_without_rows_are_not_counted_as_satisfied(tmp_path, report):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(
        "from pipeline import files, source, warn\n"
        "columns = {'id': 'bigint'}\n"
        "one = source(files('one.csv'), schema=columns, expect=[warn('positive', 'id > 0')])\n"
        "none = source(files('none.csv'), schema=columns, expect=[warn('positive', 'id > 0')])\n"
    )
    (tmp_path / "one.csv").write_text("id\n1\n")
    (tmp_path / "none.csv").write_text("id\n")
    Runner(load(tmp_path)).run()

    text = read(report(tmp_path)).text

    assert "Quality score 100 % 1 of 1 expectation satisfied by every row, 1 expectation without rows" in text


def test_failed_run_is_shown_with_its_error_and_completed_steps(corner, report):
    path = corner / "data" / "orders.csv"
    path.write_text(path.read_text() + "9,,cup,1,1.0\n")
    with pytest.raises(ExpectationError, match="has_day"):
        Runner(load(corner)).run()
    text = read(report(corner)).text
    assert "corner <shop> failed" in text
    assert "The run ended with an error." in text
    assert "has_day" in text
    assert "does not exist yet" in text
    assert "Tables 6 1 computed, 1 failed, 4 skipped" in text
    assert "skipped: reads 'orders', which failed" in text
    assert "not run" not in text


def test_run_of_one_table_shows_the_others_unchanged(corner, report):
    Runner(load(corner)).run()
    Runner(load(corner), RunOptions(select=("orders",), full=True)).run()
    assert "Tables 6 1 computed, 5 not in this run" in read(report(corner)).text


def test_killed_run_is_shown_as_not_ended(corner, report):
    project = load(corner)
    Runner(project).run()
    catalog = Catalog(project.settings.catalog)
    run = catalog.run()
    catalog.begin(
        replace(run, run_id="killed", started_at="2999-01-01T00:00:00+00:00", ended_at=None, status="running")
    )
    text = read(report(corner)).text
    assert "Duration not finished" in text
    assert "The run has not finished, or was killed." in text


def test_without_a_run_there_is_no_report(corner, tmp_path):
    project = load(corner)
    with pytest.raises(StorageError, match="there is no run of 'corner <shop>' to report"):
        write_report(project, Catalog(project.settings.catalog), tmp_path / "report.html")


def test_previous_report_is_kept_if_the_file_cannot_be_written(corner, tmp_path):
    project = load(corner)
    Runner(project).run()
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot write the report to .*choose a file that can be written"):
        write_report(project, Catalog(project.settings.catalog), tmp_path / "file" / "report.html")


def test_new_report_replaces_the_previous_one_and_leaves_no_other_file(corner, report, tmp_path):
    Runner(load(corner)).run()
    assert report(corner) == report(corner)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_metrics_are_paired_with_their_baselines():
    pairs = paired(
        {"brier": 0.2, "baseline_brier": 0.3, "auc": 0.7, "baseline_auc": 0.6, "baseline_kind": 1.0}, "auc", 0.65
    )
    assert [(m.name, m.value, m.baseline, m.threshold) for m in pairs] == [
        ("auc", 0.7, 0.6, 0.65),
        ("brier", 0.2, 0.3, None),
        ("baseline_kind", 1.0, None, None),
    ]
