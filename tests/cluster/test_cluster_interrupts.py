"""A Ctrl-C that something on the way takes for its own still ends the run, before the next thing is done."""

from __future__ import annotations

import os
import signal

import pytest

from cluster.cli.interrupts import interrupts
from pipeline.commit.moments import Moment
from pipeline.runner.events import Event, no_observer


def test_an_interrupt_that_went_astray_is_raised_at_the_next_event():
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


def test_without_an_interrupt_events_pass():
    with interrupts() as interrupt:
        assert interrupt.before(no_observer)(Event(Moment.BEGUN, "r")) is None
