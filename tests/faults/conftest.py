"""Prints the test outcomes of every fault in `docs/faults.md` at the end of a test run."""

from __future__ import annotations

from collections import defaultdict

import pytest

from tests.faults.rows import ROWS
from tests.faults.streams import Clicks, Orders, oracle, run
from tests.rigs.proofs import PROOFS

_MARK = "fault(*numbers): tests that nothing is lost or duplicated for these rows of docs/faults.md"
_properties: list[str] = []
_results: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """The tables of a run without faults."""
    clicks = Clicks(tmp_path_factory.mktemp("undisturbed") / "project").write()
    run(Orders(str(clicks.folder), shards=1))
    return oracle(clicks)


def pytest_configure(config):
    config.addinivalue_line("markers", _MARK)


def pytest_runtest_makereport(item, call):
    marks = [number for mark in item.iter_markers("fault") for number in mark.args]
    if not marks or (call.when != "call" and call.excinfo is None):
        return
    if call.excinfo is None:
        outcome = "passed"
    else:
        outcome = "skipped" if call.excinfo.errisinstance(pytest.skip.Exception) else "failed"
    for number in marks:
        _results[number][outcome] += 1


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        _properties.extend(f"{name}: {value}" for name, value in report.user_properties)


def pytest_terminal_summary(terminalreporter):
    if not _results or not PROOFS:
        return
    terminalreporter.section("faults")
    for row in ROWS:
        counts = _results.get(row.number, {})
        summary = (
            ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())) or row.instead or "not built"
        )
        terminalreporter.write_line(f"{row.number:>3}  {row.fault:<62} {summary}")
    for line in _properties:
        terminalreporter.write_line(line)
