"""The share of the exhaustive tests that runs: selected by a seed in `make test`, all of them in `make proofs`."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterable
from typing import TypeVar

import pytest

PROOFS = os.environ.get("HEADWATER_PROOFS") == "1"
"""Whether all cases run, as in `make proofs`."""
SEED = int(os.environ.get("HEADWATER_SEED", "1"))
"""The seed that selects the share and random inputs; printed when the tests begin."""
T = TypeVar("T")
MARKERS = (
    "proof: only `make proofs` runs it",
    "share(count): `make test` runs this number of its cases, selected by the seed; `make proofs` runs all",
)


_SHARES = {
    "test_bounded_plans_one_after_the_other_read_everything": 1,
    "test_a_run_that_dies_loses_and_doubles_nothing": 1,
}
"""The shares of tests in `pipeline.testing`, which has no marks of this project."""
_CONTRACTS = "pipeline.testing"
"""Where the tests are that each connector inherits: `make test` runs half of them for each connector."""


def examples(quick: int, proofs: int) -> int:
    """Return the number of examples of a property test."""
    return proofs if PROOFS else quick


def some(cases: Iterable[T], count: int) -> list[T]:
    """Return a number of cases, selected by the seed, in order; all of them in `make proofs`."""
    every = list(cases)
    if PROOFS or count >= len(every):
        return every
    drawn = random.Random(SEED).sample(range(len(every)), count)  # noqa: S311 - a reproducible seed
    return [every[number] for number in sorted(drawn)]


def chosen(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items that run, and those that only `make proofs` runs."""
    if PROOFS:
        return items, []
    left: set[str] = set()
    cases: dict[tuple[str, int], list[str]] = {}
    inherited: dict[str, list[str]] = {}
    for item in items:
        share, name = item.get_closest_marker("share"), item.nodeid.partition("[")[0]
        count = _SHARES.get(name.rpartition("::")[2]) if share is None else share.args[0]
        if item.get_closest_marker("proof") is not None:
            left.add(item.nodeid)
        elif count is not None:
            cases.setdefault((name, count), []).append(item.nodeid)
        elif getattr(getattr(item, "function", None), "__module__", "") == _CONTRACTS:
            inherited.setdefault(name.rpartition("::")[0], []).append(item.nodeid)
    groups = [*((name, nodeids, count) for (name, count), nodeids in cases.items())]
    groups += [(name, nodeids, (len(nodeids) + 1) // 2) for name, nodeids in inherited.items()]
    for name, nodeids, count in groups:
        drawn = random.Random(zlib.crc32(f"{SEED} {name}".encode()))  # noqa: S311 - a reproducible seed
        left |= set(nodeids) - set(drawn.sample(sorted(nodeids), min(count, len(nodeids))))
    return [i for i in items if i.nodeid not in left], [i for i in items if i.nodeid in left]
