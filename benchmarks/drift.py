"""Time and memory to find drift: rows of ten days with 100 columns, of which ten change on the ninth day.

Headwater runs a monitor over a table of its lake: the bins, the counts of all days, and the results (entire process). Evidently
alone reads Parquet files of the same rows and compares the last day with five others, in one process; from a million rows
on it does not take part, because it takes more than an hour or the memory of the machine. The answer is the columns that drift.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from benchmarks import data
from benchmarks.interleaved_runs import Answer, Case, Contestant, Ran
from benchmarks.nodes import Nodes
from benchmarks.peer import Script
from benchmarks.project import Project, ours, seconds, source_text, written

SIZES = {"100k": 100_000, "1M": 1_000_000, "10M": 10_000_000}
"""Rows of each case at scale 1."""
NUMBERS, TEXTS, CHANGED = 80, 20, 10
DAYS, FIRST_CHANGED = 10, 8
ANSWER = """
select feature from drift where state = 'alarm' and window_start = (select max(window_start) from drift) order by feature
"""


def cases(scale: float, only: Sequence[str] = ()) -> Iterator[Case]:
    """Yield each size, or only the given ones."""
    names = [*(f"x{k}" for k in range(NUMBERS)), *(f"c{k}" for k in range(TEXTS))]
    expected = [(name,) for name in sorted(name for name in names if int(name[1:]) % CHANGED == 0)]
    for name, size in SIZES.items():
        if name in only or not only:
            rows = max(20_000, round(size * scale))
            files = _rows(rows)
            evidently = Script("evidently", "drift", [files, str(NUMBERS), str(TEXTS)], _answer)
            peers = (
                [Contestant("evidently", partial(evidently.run, python=Path(sys.executable)))]
                if rows < SIZES["1M"]
                else []
            )
            facts = {"rows": rows, "columns": len(names), "bytes_in": data.size_bytes(files)}
            with _loaded(files) as base:
                yield Case(name, expected, [*ours(partial(_job, base)), *peers], facts)


def _rows(rows: int) -> Path:
    day = f"(i * {DAYS} // {rows})"
    shifted = f"case when {day} >= {FIRST_CHANGED} then {{}} else 0 end"
    columns = [f"timestamp '2026-01-01' + interval 1 day * {day}::int as at"]
    for k in range(NUMBERS):
        moved = f" + {shifted.format(30)}" if k % CHANGED == 0 else ""
        columns.append(f"((hash(i, {k}) % 10000)::double / 100{moved}) as x{k}")
    for k in range(TEXTS):
        kept = f"case when {day} >= {FIRST_CHANGED} then 5 else 20 end" if k % CHANGED == 0 else "20"
        columns.append(f"'c' || (hash(i, {1000 + k}) % ({kept})) as c{k}")
    return data.made(f"drift-of-{NUMBERS}-{TEXTS}", f"select {', '.join(columns)}", rows)


@contextmanager
def _loaded(files: Path) -> Iterator[Path]:
    base = data.home() / f"drift-lake-{files.name}"
    shutil.rmtree(base, ignore_errors=True)
    schema = {
        "at": "timestamp",
        **{f"x{k}": "double" for k in range(NUMBERS)},
        **{f"c{k}": "varchar" for k in range(TEXTS)},
    }
    text = source_text("rows", files / "*.parquet", schema)
    numbers, texts = [f"x{k}" for k in range(NUMBERS)], [f"c{k}" for k in range(TEXTS)]
    text = f"from ml import monitor, trailing\n{text}"
    text += f'drift = monitor(of="rows", time="at", reference=trailing("5 days"), numerical={numbers}, categorical={texts})\n'
    written(base, text)
    Project(base).run("rows")
    yield base
    shutil.rmtree(base)


def _job(base: Path, nodes: Nodes | None, folder: Path) -> Ran:
    del folder  # all runs use the rows that are already loaded
    project = Project(base, nodes)
    result, steps = project.run("drift", full=True)
    return Ran(result.seconds, result.seconds, result.peak_bytes, project.rows(ANSWER), seconds(steps))


def _answer(folder: Path) -> Answer:
    return [(name,) for name in json.loads((folder / "drifted.json").read_text())]
