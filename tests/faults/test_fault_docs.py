"""docs/faults.md says of each fault where it is shown, and says so of those that are not shown yet."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.faults.rows import ROWS

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "faults.md"


def shown() -> dict[int, list[str]]:
    """Return the modules of tests that name a row."""
    faults: dict[int, set[str]] = defaultdict(set)
    for file in sorted(HERE.glob("test_fault_*.py")):
        for numbers in re.findall(r"mark\.fault\(([\d, ]+)\)", file.read_text()):
            for number in numbers.split(","):
                faults[int(number)].add(file.stem.removeprefix("test_fault_"))
    return {number: sorted(names) for number, names in faults.items()}


def lines() -> list[str]:
    """Return the rows of the page's table."""
    tests = shown()
    return [
        f"| {row.number} | {row.fault} | {row.by} | {row.holds} | "
        f"{', '.join(f'`{name}`' for name in tests.get(row.number, ())) or row.instead or 'not yet'} |"
        for row in ROWS
    ]


def test_the_page_says_what_is_shown():
    there = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    assert there == lines(), "docs/faults.md is to have the lines that `lines()` returns"
