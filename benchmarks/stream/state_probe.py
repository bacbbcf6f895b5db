"""Runs a stream in this process and polls its state: `python -m benchmarks.stream.state_probe PROJECT`.

Whenever the state contains more events than before, it prints a line with the clock, the event time of the latest
event, and the number of events; the first two are in microseconds since 1970. Stop it with Ctrl-C.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow.compute as pc

from pipeline.project import Workspace, load
from pipeline.streaming.runtime.driver import StreamJobOptions
from pipeline.streaming.runtime.job import StreamJob

NAME = "latest"
STATEMENT = """select tumble(happened_at, interval '1 day') as day, count(*) as events,
max(epoch_us(happened_at)) as last from events group by all"""
LOOK_EVERY_S = 0.005


def look(folder: Path) -> None:
    """Run the stream of a project and print the changes of its state."""
    running = StreamJob(Workspace(load(folder)), StreamJobOptions((NAME,)))
    seen = 0

    def watch(job: StreamJob) -> None:
        nonlocal seen
        stream = job.streams.get(NAME)
        if stream is None:
            return
        states = stream.state_tables("states").get("states")
        if states is None or not states.num_rows:
            return
        count = int(pc.sum(states.column("_a0")).as_py())
        if count > seen:
            seen = count
            last = int(pc.max(states.column("_a1")).as_py())
            print(int(time.time() * 1e6), last, count, flush=True)

    try:
        running.run(watch, every_s=LOOK_EVERY_S)
    except KeyboardInterrupt:
        running.stop()


if __name__ == "__main__":
    look(Path(sys.argv[1]))
