"""Polls the online store of a project: `python -m benchmarks.stream.online_probe PROJECT`, until Ctrl-C.

Whenever the features of more events can be read than before, it prints a line with the clock, the event time of the latest
event, and the number of events; the first two are in microseconds since 1970. The entities are the ids of the events.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC
from pathlib import Path

import pyarrow as pa

from ml.features.online_features import OnlineFeatures
from pipeline.core.errors import StorageError
from pipeline.project import load

NAME = "seen"
VIEW = "select id, happened_at, key, value from events"
DEFINITION = f"from ml import feature_view\n{NAME} = feature_view({VIEW!r}, entity='id', event_time='happened_at', online=True)\n"
LOOK_EVERY_S = 0.005
AT_ONCE = 2_000


def look(folder: Path) -> None:
    """Print how many events can be read, counted from the first."""
    online = OnlineFeatures(load(folder))
    seen = 0
    while True:
        try:
            ids = pa.table({"id": range(seen, seen + AT_ONCE)})
            read = online.look_up(online.chosen(NAME), ids)
        except StorageError:  # the stream has not committed yet
            time.sleep(LOOK_EVERY_S)
            continue
        now = int(time.time() * 1e6)
        times = read.event_times["key"].to_pylist()
        count = next((number for number, at in enumerate(times) if at is None), AT_ONCE)
        if count:
            seen += count
            last = int(times[count - 1].replace(tzinfo=UTC).timestamp() * 1e6)
            print(now, last, seen, flush=True)
        if count < AT_ONCE:
            time.sleep(LOOK_EVERY_S)


if __name__ == "__main__":
    try:
        look(Path(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(0)
