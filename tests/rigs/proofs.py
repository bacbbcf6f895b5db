"""How much of the proofs runs: a seeded share in `make test`, all of them in `make proofs`."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterable
from typing import TypeVar

import pytest

PROOFS = os.environ.get("HEADWATER_PROOFS") == "1"
"""Whether everything runs, as `make proofs` asks for."""
SEED = int(os.environ.get("HEADWATER_SEED", "1"))
"""Which share runs, and the seed of what is drawn at random; printed when the tests begin."""
T = TypeVar("T")
MARKERS = (
    "proof: only `make proofs` runs it",
    "share(count): `make test` runs so many of its cases, chosen by the seed; `make proofs` runs all",
)


def examples(quick: int, proofs: int) -> int:
    """Return how many examples a property is tried on."""
    return proofs if PROOFS else quick


def some(cases: Iterable[T], count: int) -> list[T]:
    """Return so many cases, chosen by the seed and in their order; all of them for the proofs."""
    every = list(cases)
    if PROOFS or count >= len(every):
        return every
    drawn = random.Random(SEED).sample(range(len(every)), count)  # noqa: S311 - a seed that can be given again
    return [every[number] for number in sorted(drawn)]


def chosen(items: list[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the items that run, and those that are left to `make proofs`."""
    if PROOFS:
        return items, []
    left: set[str] = set()
    cases: dict[tuple[str, int], list[str]] = {}
    for item in items:
        share = item.get_closest_marker("share")
        if item.get_closest_marker("proof") is not None:
            left.add(item.nodeid)
        elif share is not None:
            cases.setdefault((item.nodeid.partition("[")[0], share.args[0]), []).append(item.nodeid)
    for (name, count), nodeids in cases.items():
        drawn = random.Random(zlib.crc32(f"{SEED} {name}".encode()))  # noqa: S311 - a seed that can be given again
        left |= set(nodeids) - set(drawn.sample(sorted(nodeids), min(count, len(nodeids))))
    return [i for i in items if i.nodeid not in left], [i for i in items if i.nodeid in left]
