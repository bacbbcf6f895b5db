"""The example with a database, an API, a bucket and a topic."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.project.project import load

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "examples" / "shop"


def test_it_loads_without_its_systems():
    graph = load(SHOP).graph
    assert graph.upstream("revenue_by_country") >= {
        *("raw_customers", "order_changes", "raw_rates", "raw_shipments", "raw_payments")
    }


@pytest.mark.proof
def test_two_runs_on_real_servers():
    done = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=SHOP,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if "cannot be started" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = done.stdout.split("== after changes in every system ==")
    assert "raw_shipments: 299 rows, 1 quarantined" in first
    assert "order_changes: 56 rows" in second
    assert "'weight_kg' (DOUBLE) is new" in second
    assert "payments: 479 rows" in second
