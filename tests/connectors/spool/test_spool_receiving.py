"""The thread that receives messages: whatever ends it is raised where the messages are read."""

from __future__ import annotations

import threading
import time

import pytest

from pipeline.connectors.spool.receiving import ReceiverThread
from pipeline.core.errors import SourceError, SourceUnavailableError


class Receiver:
    """Raises one error after the other, and then waits."""

    def __init__(self, *errors):
        self.errors, self.waits = list(errors), threading.Event()
        self._stopped = threading.Event()

    def receive(self, *_):
        if self.errors:
            raise self.errors.pop(0)
        self.waits.set()
        self._stopped.wait()

    def stop(self):
        self._stopped.set()

    def stop_wait(self, seconds):
        pass


@pytest.mark.parametrize("error", [ValueError("no number"), KeyError("id"), SourceError("no access")])
def test_an_error_that_waiting_cannot_mend_ends_the_source(error):
    thread = ReceiverThread(Receiver(error), "mqtt://here/t", 1)
    while thread.error is None:
        time.sleep(0.01)
    assert isinstance(thread.error, SourceError)
    assert (thread.error is error) or str(thread.error).startswith(
        f"messages cannot be received: {type(error).__name__}"
    )


def test_an_unavailable_source_is_asked_again():
    receiver = Receiver(SourceUnavailableError("away"), SourceUnavailableError("away"))
    thread = ReceiverThread(receiver, "mqtt://here/t", 1)
    assert receiver.waits.wait(timeout=30)
    assert thread.error is None
    thread.close()
