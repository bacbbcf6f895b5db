"""The two jobs of every contestant: windows, counted and summed over a backlog, and rows, passed on as they arrive."""

from __future__ import annotations

from pathlib import Path

import duckdb

from benchmarks.interleaved_runs import Answer, Contestant, Ran
from benchmarks.measure import Measured
from benchmarks.peer import Script, peer
from benchmarks.project import Project, written
from benchmarks.stream.events import END, SCHEMA, WINDOWS, Events
from benchmarks.stream.landed import commits

IMPORTS = "from pipeline import kafka\n"
HEADWATER = "headwater"
ROWS = "select happened_at, id, key, value from events"
HOMES = {"spark_streams": "-streams", "flink": "-flink", "quix": "-streams", "bytewax": "-streams"}
"""The peers and their environments."""
FORMS = {"spark_streams": "parquet", "flink": "csv", "quix": "json", "bytewax": "json"}
GUARANTEES = {
    HEADWATER: "exactly once into Delta: offsets, state and rows in one commit",
    "spark_streams": "exactly once into Parquet, by its checkpoint and the file sink's log",
    "flink": "exactly once into files that a checkpoint makes visible",
    "quix": "exactly once into a topic, by Kafka's transactions",
    "bytewax": "exactly once into files after a restart; readers can see uncommitted rows",
}
_MADE = {
    "parquet": "read_parquet('{folder}/made/*.parquet')",
    "csv": "(from read_csv('{folder}/made/part-*', header = false, names = ['window_start', 'key', 'events', 'total']))",
    "json": "read_json('{folder}/made/*', format = 'newline_delimited')",
}
_ANSWER = f"""select window_start::timestamp as window_start, key, events::bigint as events, total::double as total
from {{}} where key <> '{END}' order by all"""


def source(brokers: str, topic: str) -> str:
    """Return the definition of the events."""
    return (
        f"{IMPORTS}events = source(kafka({topic!r}, servers={brokers!r}), schema={SCHEMA!r}, "
        "event_time='happened_at', stored=False)\n"
    )


def ours(brokers: str, topic: str) -> Contestant:
    """Return Headwater with the windows job."""

    def run(folder: Path) -> Ran:
        project = Project(written(folder, source(brokers, topic) + f"counts = sql({WINDOWS!r})\n"))
        result, _ = project.stream("counts")
        rows = project.rows(_ANSWER.format("counts"))
        return Ran(result.seconds, result.seconds, result.peak_bytes, rows, _between(project, result))

    return Contestant(HEADWATER, run, is_ours=True)


def theirs(name: str, brokers: str, topic: str) -> Contestant:
    """Return a peer with the windows job."""

    def answer(folder: Path) -> Answer:
        with duckdb.connect() as con:
            return con.sql(_ANSWER.format(_MADE[FORMS[name]].format(folder=folder))).fetchall()

    return peer(Script(name, "windows", [brokers, topic], answer, "parts", HOMES[name]))


def expected(events: Events) -> Answer:
    """Return the expected windows."""
    return events.windows()


def _between(project: Project, result: Measured) -> dict[str, float]:
    """Return seconds and events between the first and the last commit, and the seconds of the entire process."""
    versions = commits(project.table("counts"))
    first, last = versions[0], versions[-1]
    return {
        "whole_process": result.seconds,
        "commits": float(len(versions)),
        "between_s": (last.at_us - first.at_us) / 1e6,
        "between_events": float(last.rows_in - first.rows_in),
    }
