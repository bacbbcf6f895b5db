"""A Ctrl-C that a library swallows still ends the run, before its next action."""

from __future__ import annotations

import os
import signal

import pytest

from cluster.cli.interrupts import interrupts
from pipeline.commit.moments import Moment
from pipeline.runner.events import Event, no_observer


def test_swallowed_interrupt_is_raised_at_the_next_event():
    before = signal.getsignal(signal.SIGINT)
    seen = []
    with interrupts() as interrupt:
        observe = interrupt.before(seen.append)
        observe(Event(Moment.BEGUN, "r"))
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            observe(Event(Moment.STAGED, "r"))
    assert [event.moment for event in seen] == [Moment.BEGUN]
    assert signal.getsignal(signal.SIGINT) is before


def test_events_without_an_interrupt_raise_nothing():
    with interrupts() as interrupt:
        assert interrupt.before(no_observer)(Event(Moment.BEGUN, "r")) is None
