"""The epoch protocol in thousands of simulated schedules, which also detect every mutant of the protocol."""

from __future__ import annotations

import time

import pytest

from tests.faults.schedules import MUTANTS, shrunk, simulate
from tests.faults.simulator import Wrong
from tests.rigs.proofs import PROOFS

SCHEDULES = 20_000 if PROOFS else 300


@pytest.mark.fault(1, 2, 3, 5, 7, 8, 24, 26, 28)
def test_schedules(record_property):
    begun = time.monotonic()
    for seed in range(SCHEDULES):
        try:
            simulate(seed)
        except Wrong as error:
            pytest.fail(f"{error}; the first {shrunk(seed)} choices of its schedule do")
    record_property("schedules a minute", round(SCHEDULES / (time.monotonic() - begun) * 60))


@pytest.mark.fault(1, 2, 3, 5, 7, 8)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_mutant_of_the_protocol_is_caught(mutant, record_property):
    for seed in range(2000):
        try:
            simulate(seed, mutant)
        except Wrong as error:
            record_property(f"mutant: {MUTANTS[mutant]}", str(error))
            return
    pytest.fail(f"2,000 schedules do not see it: {MUTANTS[mutant]}")
