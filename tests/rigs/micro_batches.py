"""Steps of a stream that runs within a test."""

from __future__ import annotations

from pipeline.streaming.runtime.stream import Stream


def commit_micro_batches(stream: Stream, count: int) -> None:
    """Commit each of the next micro-batches that have rows; fail if the source ends before there are so many."""
    for _ in range(count):
        while not stream.run_micro_batch():
            assert not stream.last.has_ended, "the source has too few rows for this test"
        stream.commit()
    stream.wait()
