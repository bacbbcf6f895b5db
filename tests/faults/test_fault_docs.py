"""docs/faults.md lists, for each fault, the tests that cover it."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.faults.rows import ROWS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "faults.md"


def shown() -> dict[int, list[str]]:
    """Return the test modules that cover each row."""
    faults: dict[int, set[str]] = defaultdict(set)
    for file in sorted(HERE.glob("test_fault_*.py")):
        for numbers in re.findall(r"mark\.fault\(([\d, ]+)\)", file.read_text()):
            for number in numbers.split(","):
                faults[int(number)].add(file.stem.removeprefix("test_fault_"))
    return {number: sorted(names) for number, names in faults.items()}


def lines() -> list[str]:
    """Return the rows of the table in docs/faults.md."""
    tests = shown()
    return [
        f"| {row.number} | {row.fault} | {row.by} | {row.holds} | "
        f"{', '.join(f'`{name}`' for name in tests.get(row.number, ())) or row.instead or 'not yet'} |"
        for row in ROWS
    ]


def test_docs_list_the_faults_and_their_tests():
    there = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert there == lines(), "docs/faults.md must contain the lines that `lines()` returns"
