"""`headwater backfill`: output, exit codes and usage errors."""

from __future__ import annotations

import json

import pytest

from tests.runner.test_runner_backfill import change
from tests.runner.test_runner_backfill import web as web  # noqa: PLC0414 - the fixture


def test_partitions_are_listed_computed_and_skipped(headwater, web):
    listed = headwater("backfill", "visits", "--partitions", "2026-01-02..", "--dry-run", cwd=web, check=0).stdout
    assert listed.split("\n")[:4] == ["2026-01-02", "2026-01-03", "2026-01-10", "visits: 3 to do"]
    process = headwater("backfill", "visits", "-p", "2026-01-02..2026-01-03", cwd=web, check=0)
    assert "✓ 2026-01-02: 1 row" in process.stderr
    assert "(2 of 2)" in process.stderr
    assert "visits: 2 done" in process.stdout
    again = headwater("backfill", "visits", "-p", "2026-01-02..2026-01-03", cwd=web, check=0).stdout
    assert "visits: 2 done earlier" in again
    assert "--restart recomputes them" in again
    plan = json.loads(headwater("backfill", "visits", "--dry-run", "--json", cwd=web, check=0).stdout)
    assert plan["partitions"] == ["2026-01-01", "2026-01-10", None]
    assert "one after the other" in headwater("backfill", "visits", "--parallel", "2", cwd=web, check=0).stderr


@pytest.mark.proof
def test_failed_partitions_are_reported_and_can_be_retried_alone(headwater, web):
    change(web, "expect=[quarantine", "expect=[fail('short', 'seconds <> 9'), quarantine")
    process = headwater("backfill", "visits", cwd=web, check=3)
    assert "✗ 2026-01-03: table 'visits' violates 'short'" in process.stderr
    assert "visits: 4 done, 1 failed" in process.stdout
    assert "headwater backfill visits --failed" in process.stdout
    report = json.loads(headwater("backfill", "visits", "--failed", "--json", cwd=web, check=3).stdout)
    [failed] = report["partitions"]
    assert (failed["partition"], failed["rows"]) == ("2026-01-03", 0)
    assert "violates 'short'" in failed["error"]
    change(web, "seconds <> 9", "seconds <> 99")
    assert "visits: 1 done" in headwater("backfill", "visits", "--failed", cwd=web, check=0).stdout


def test_usage_error_is_a_single_message(headwater, web):
    for words, message in (
        (["raw"], "error: table 'raw' is not partitioned: it cannot be backfilled"),
        (["visits", "-p", "x"], "error: 'x' is not a value of the partition column 'day'"),
        (["visits", "--failed", "-p", "2026-01-01"], "error: --failed and --partitions cannot be combined"),
    ):
        assert message in headwater("backfill", *words, cwd=web, check=1).stderr
