"""Evidently's report of a window: HTML for people, JSON for programs, and its tests as a gate.

Evidently reads data frames and needs about a minute of CPU for 100,000 rows of 100 columns. So it gets samples, chosen by a hash
of the rows: the same rows give the same report. Alarms do not depend on it, but on the counts of all rows.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from ml.companions import ALIAS
from ml.monitoring.counts import RowSource
from ml.monitoring.definition import Monitor
from ml.monitoring.references import WEEK, Fixed, SameWeekday
from pipeline.core.definitions import Definition
from pipeline.core.errors import ModelError
from pipeline.kernel.sql_text import literal, quoted

if TYPE_CHECKING:
    import pyarrow as pa

FILES = ("report.html", "report.json")
_DRIFT = ("ValueDrift", "DriftedColumnsCount")
"""The metrics whose tests count. Those of the summary ask whether each figure is within a tenth of the reference's."""


@dataclass(frozen=True)
class EvidentlyTest:
    """The result of one of Evidently's tests."""

    name: str
    has_passed: bool
    description: str


def sample_query(monitor: Monitor, window: datetime, rows: int) -> str:
    """Return the SELECT of a sample of at most `rows` rows of the window that starts at `window` (UTC), with the features."""
    return _sample_within(monitor, rows, [(window, window + monitor.monitored.window)])


def reference_query(monitor: Monitor, window: datetime, rows: int, examples: Definition | None = None) -> str:
    """Return the SELECT of a sample of at most `rows` rows that a window is compared with, with the features.

    `examples` is the definition of the table of a fixed reference. Raises `DefinitionError` as `RowSource.source` does.
    """
    reference = monitor.monitored.reference
    if isinstance(reference, Fixed):
        return _sampled(monitor, reference.rows.source(examples), rows, "true")
    length = monitor.monitored.window
    if isinstance(reference, SameWeekday):
        spans = [(window - k * WEEK, window - k * WEEK + length) for k in range(1, reference.weeks + 1)]
    else:
        spans = [(window - reference.length, window)]
    return _sample_within(monitor, rows, spans)


def _sample_within(monitor: Monitor, rows: int, spans: list[tuple[datetime, datetime]]) -> str:
    time = f"({monitor.time})::timestamp"
    parts = [f"({time} >= {_timestamp(start)} and {time} < {_timestamp(end)})" for start, end in spans]
    return _sampled(monitor, RowSource(monitor.of).source(None), rows, " or ".join(parts))


def _timestamp(time: datetime) -> str:
    return f"timestamp {literal(f'{time:%Y-%m-%d %H:%M:%S}')}"


def _sampled(monitor: Monitor, source: str, rows: int, condition: str) -> str:
    kinds = {True: "double", False: "varchar"}
    columns = [f"({f.sql})::{kinds[f.is_numerical]} as {quoted(f.name)}" for f in monitor.monitored.binning.features]
    return f"select {', '.join(columns)} from {source} where {condition} order by hash({ALIAS}) limit {rows}"


def write_evidently_report(
    monitor: Monitor, current: pa.Table, reference: pa.Table, out: Path, timeout: timedelta = timedelta(minutes=10)
) -> list[EvidentlyTest]:
    """Write Evidently's report of two samples to a folder, and return the results of its tests of drift.

    Evidently runs in a process of its own. The report replaces that of another call as a whole. Raises `ModelError` if a sample
    is empty, Evidently is not installed or fails, or takes longer than `timeout`.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - not needed to define monitors

    for side, sample in {"window": current, "reference": reference}.items():
        if sample.num_rows == 0:
            raise ModelError(
                f"the {side} of monitor {monitor.name!r} has no rows", do="run the project, or choose another window"
            )
    features = monitor.monitored.binning.features
    request = {
        "numerical": [f.name for f in features if f.is_numerical],
        "categorical": [f.name for f in features if not f.is_numerical],
        "threshold": monitor.monitored.alarms.enter,
    }
    with tempfile.TemporaryDirectory(prefix="evidently-") as name:
        folder = Path(name)
        pq.write_table(current, folder / "current.parquet")
        pq.write_table(reference, folder / "reference.parquet")
        (folder / "request.json").write_text(json.dumps(request))
        _run(monitor, folder, timeout)
        tests = json.loads((folder / "report.json").read_text()).get("tests", [])
        out.mkdir(parents=True, exist_ok=True)
        for file in FILES:
            shutil.copyfile(folder / file, out / f".{file}.unfinished")
            (out / f".{file}.unfinished").replace(out / file)
    chosen = [test for test in tests if test["metric_config"]["params"]["type"].endswith(_DRIFT)]
    return [EvidentlyTest(test["name"], test["status"] == "SUCCESS", test["description"]) for test in chosen]


def _run(monitor: Monitor, folder: Path, timeout: timedelta) -> None:
    command = [sys.executable, "-m", "ml.monitoring.evidently_process", str(folder)]
    environ = {**os.environ, "DO_NOT_TRACK": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        ended = subprocess.run(  # noqa: S603 - our own module
            command, env=environ, capture_output=True, text=True, timeout=timeout.total_seconds(), check=False
        )
    except subprocess.TimeoutExpired as error:
        problem = f"Evidently did not finish the report of {monitor.name!r} within {timeout}"
        raise ModelError(problem, do="use fewer rows") from error
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        missing = "No module named 'evidently'" in ended.stderr
        do = "pip install 'headwater[monitoring]'" if missing else "use another version of Evidently"
        raise ModelError(
            f"Evidently could not write the report of {monitor.name!r}", got=lines[-1] if lines else None, do=do
        )
