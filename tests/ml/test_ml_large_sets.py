"""Training sets that exceed the memory: refused before they are read where all rows are needed, or read by workers."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from ml.models.memory import require_memory
from pipeline.core.errors import ModelError, Place
from pipeline.core.schema import Column, Schema
from pipeline.kernel.budget import free_bytes
from pipeline.kernel.scan import DataFile, Scan
from tests.ml.large_training import PROJECT, SETTINGS

ROWS, COLUMNS = 20_000_000, 18
BUILD_BYTES, TRAIN_BYTES = 4 << 30, 2 << 30
"""What the process of the run may take: to build the training set, whose key the warehouse indexes in memory, and to train."""


def scan(rows: int) -> Scan:
    columns = (Column("id", "BIGINT"), Column("city", "VARCHAR"), *(Column(f"x{n}", "DOUBLE") for n in range(8)))
    return Scan(Schema(columns), (DataFile("nowhere.parquet", rows, 1),))


def test_rows_that_do_not_fit_the_memory_are_refused_before_they_are_read():
    require_memory(scan(1000), "m", Place("here.py", 1))
    problem = (
        r"the training set of model 'm' does not fit the memory of the process that fits it: "
        r"got 2,000,000,000 rows x 10 columns need about 1320\.0 GB, and [\d.]+ GB are free; "
        r"let workers read the rows, for example LightGBM\(workers=2\) or Torch.*, or select fewer rows.*here\.py:1"
    )
    with pytest.raises(ModelError, match=problem):
        require_memory(scan(2_000_000_000), "m", Place("here.py", 1))


def test_the_limit_of_the_process_counts():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a file of the system
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_bytes() < 1 << 50
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), before[1]))
        assert 200 << 20 < free_bytes() <= 300 << 20
        with pytest.raises(ModelError, match="does not fit the memory"):
            require_memory(scan(1_000_000), "m", Place("here.py", 1))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.proof
def test_the_memory_of_a_run_does_not_grow_with_the_rows_that_workers_fit(tmp_path):
    """20 million rows of 20 columns, which in memory would be 3.2 GB for each copy; the model is reproduced with equal metrics."""
    (tmp_path / "large.py").write_text(PROJECT.format(columns=COLUMNS, rows=ROWS, rounds=10))
    (tmp_path / "headwater.toml").write_text(SETTINGS)
    built, told = (_ran(step, tmp_path) for step in ("build", "train"))
    assert told["rows"] == ROWS
    assert told["training_rows"] + told["holdout_rows"] == ROWS
    assert told["equal"], "trained again, it is the same model"
    assert told["auc"] > 0.8
    assert built["peak"] < BUILD_BYTES
    assert told["peak"] < TRAIN_BYTES


def _ran(step: str, folder: Path) -> dict[str, float]:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.ml.large_training", step, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])
