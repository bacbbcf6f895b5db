"""The epoch protocol in thousands of simulated schedules, which also detect every mutant of the protocol."""

from __future__ import annotations

import time

import pytest

from tests.faults.schedules import MUTANTS, shrunk, simulate
from tests.faults.simulator import Wrong
from tests.rigs.proofs import PROOFS

SCHEDULES = 20_000 if PROOFS else 300


def violation(seed: int, mutant: str = "") -> str | None:
    """Return what a schedule violates of the protocol's promises, if it does."""
    try:
        simulate(seed, mutant)
    except Wrong as error:
        return str(error)
    return None


@pytest.mark.fault(1, 2, 3, 5, 7, 8, 24, 26, 28)
def test_schedules(record_property):
    begun = time.monotonic()
    failed = next((seed for seed in range(SCHEDULES) if violation(seed)), None)
    assert failed is None, f"{violation(failed)}; the first {shrunk(failed)} choices of its schedule suffice"
    record_property("schedules a minute", round(SCHEDULES / (time.monotonic() - begun) * 60))


@pytest.mark.fault(1, 2, 3, 5, 7, 8)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mutant_of_the_protocol_is_caught(mutant, record_property):
    caught = next(filter(None, (violation(seed, mutant) for seed in range(2000))), None)
    assert caught, f"2,000 schedules do not detect it: {MUTANTS[mutant]}"
    record_property(f"mutant: {MUTANTS[mutant]}", caught)
