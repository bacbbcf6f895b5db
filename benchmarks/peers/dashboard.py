"""Asks the queries of a dashboard, and writes sums over their rows, by which the answers are compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import pyarrow as pa

from benchmarks import star_schema
from benchmarks.peers.timings import Clock


def ask(clock: Clock, of: str, query: Callable[[str], pa.Table], to: str) -> None:
    """Ask each query of marts or of the star schema with all its values."""
    named = {name: [partial(query, text) for text in texts] for name, texts in star_schema.asked(of).items()}
    answers = [[name, *sums(tables)] for name, tables in clock.each(named).items()]
    Path(to, "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def sums(tables: list[pa.Table]) -> tuple[int, float]:
    """Return the number of rows of all results, and the sum of their numbers."""
    values = (value for table in tables for row in table.to_pylist() for value in row.values())
    numbers = (float(value) for value in values if isinstance(value, int | float | Decimal))
    return sum(table.num_rows for table in tables), math.fsum(numbers)
