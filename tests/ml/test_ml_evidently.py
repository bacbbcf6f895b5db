"""Evidently's reports of samples."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from ml import monitor, rows_of, same_weekday, trailing
from ml.monitoring import evidently_report
from ml.monitoring.evidently_report import reference_query, sample_query, write_evidently_report
from pipeline.core.errors import ModelError

START = datetime(2026, 1, 5, tzinfo=UTC)


def monitored(reference):
    return monitor(of="rows", time="at", reference=reference, numerical={"x": "x * 2"}, categorical=["c"]).named("m")


@pytest.fixture
def con():
    rng = np.random.default_rng(1)
    at = [START.replace(tzinfo=None) + timedelta(hours=i // 20) for i in range(20 * 24 * 30)]
    c = rng.choice(["a", "b"], len(at))
    rows = pa.table({"at": pa.array(at, pa.timestamp("us")), "x": rng.normal(0, 1, len(at)), "c": pa.array(c)})
    with duckdb.connect() as con:
        con.register("rows", rows)
        con.register("base", rows.slice(0, 1000))
        yield con


def test_samples_are_of_the_window_and_what_it_is_compared_with(con):
    window = START + timedelta(days=28)

    def count(sql, most=100_000):
        assert "hash" in sql
        assert con.sql(sql).columns == ["x", "c"]
        return len(con.sql(sql.replace("limit 50", f"limit {most}")).fetchall())

    assert count(sample_query(monitored(trailing("7 days")), window, 50)) == 480
    assert count(reference_query(monitored(trailing("7 days")), window, 50)) == 7 * 480
    assert count(reference_query(monitored(same_weekday(3)), window, 50)) == 3 * 480
    assert count(reference_query(monitored(rows_of("base")), window, 50)) == 1000
    sampled = sample_query(monitored(trailing("7 days")), window, 50)
    assert con.sql(sampled).fetchall() == con.sql(sampled).fetchall()
    assert count(sampled, 50) == 50


def test_an_empty_sample_is_an_error(tmp_path):
    empty = pa.table({"x": pa.array([], pa.float64()), "c": pa.array([], pa.string())})
    with pytest.raises(ModelError, match="the window of monitor 'm' has no rows"):
        write_evidently_report(monitored(trailing("7 days")), empty, empty, tmp_path)


def test_a_process_that_fails_or_takes_too_long_leaves_the_older_report(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("older")
    rows = pa.table({"x": [1.0], "c": ["a"]})
    monkeypatch.setattr(evidently_report.sys, "executable", "false")
    with pytest.raises(ModelError, match="Evidently could not write the report of 'm'"):
        write_evidently_report(monitored(trailing("7 days")), rows, rows, tmp_path)
    slow = tmp_path.parent / "slow.sh"
    slow.write_text("#!/bin/sh\nexec sleep 20\n")
    slow.chmod(0o700)
    monkeypatch.setattr(evidently_report.sys, "executable", str(slow))
    with pytest.raises(ModelError, match="did not finish"):
        write_evidently_report(monitored(trailing("7 days")), rows, rows, tmp_path, timedelta(seconds=0.2))
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text() == "older"


@pytest.mark.proof
def test_evidently_writes_its_report_and_its_tests_find_what_moved(con, tmp_path):
    window = START + timedelta(days=28)
    chosen = monitored(trailing("7 days"))
    current, reference = (con.sql(q(chosen, window, 2000)).to_arrow_table() for q in (sample_query, reference_query))
    moved = current.set_column(0, "x", pa.array(np.asarray(current["x"]) + 5))
    same = write_evidently_report(chosen, current, reference, tmp_path / "same")
    assert {test.name: test.has_passed for test in same}["Value Drift for column x"]
    tests = {test.name: test for test in write_evidently_report(chosen, moved, reference, tmp_path / "moved")}
    assert not tests["Value Drift for column x"].has_passed
    assert tests["Value Drift for column c"].has_passed
    assert "PSI" in tests["Value Drift for column x"].description
    assert (tmp_path / "moved" / "report.html").stat().st_size > 100_000
    assert json.loads((tmp_path / "moved" / "report.json").read_text())["metrics"]
