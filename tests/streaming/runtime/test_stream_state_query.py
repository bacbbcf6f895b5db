"""Queries of state and dead letters, and replay of rejected rows."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.core.epochs import END
from pipeline.core.errors import ConflictError, RequestError
from pipeline.governance import Leases, this_process
from pipeline.reprocessing.dead_letters import dead_letters, replay_letters
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.options import Intervals, StreamOptions
from pipeline.streaming.runtime.state_query import committed_state, live, readable, where
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

SOURCE = """\
from pipeline import generate, quarantine, source, sql

readings = source(
    generate({"at": "case when i % 10 < 9 then timestamp '2024-01-01' + to_seconds(i) end", "n": "i % 7"}, count=100),
    schema={"at": "timestamp", "n": "integer"},
    event_time="at",
    expect=[quarantine("is_small", "n < LIMIT")],
    stored=STORED,
)
small = sql("select at, n, n * 2 as twice from readings", expect=[quarantine("is_tiny", "n < LIMIT")])
"""


@pytest.fixture
def limited(tmp_path):
    """A function that writes a project whose expectations reject values above a limit."""
    folder = tmp_path / "limited"
    folder.mkdir()
    (folder / "headwater.toml").write_text('[project]\nname = "limited"\ndefinitions = "limited.py"\n')

    def written(limit: int) -> Path:
        (folder / "limited.py").write_text(SOURCE.replace("LIMIT", str(limit)).replace("STORED", "True"))
        return folder

    return written


def unstored(folder: Path, limit: int) -> Path:
    lines = [line for line in SOURCE.splitlines() if "is_small" not in line]
    (folder / "limited.py").write_text("\n".join(lines).replace("LIMIT", str(limit)).replace("STORED", "False"))
    return folder


# -- state


def test_open_windows_are_shown_with_their_values_so_far(plant, streams):
    folder = plant(count=None, speed=4000)
    running = streams.start(folder, "readings", "by_minute")
    with streams.alive(running):
        give_up = time.monotonic() + 60
        while not running.statuses["by_minute"].totals.get("rows_in"):
            assert time.monotonic() < give_up
            time.sleep(0.01)
    workspace = streams.opened(folder)
    view = committed_state(workspace, "by_minute")
    assert list(view.tables) == ["open", "states"]
    assert view.table().column_names == ["minute", "sensor", "readings", "mean"]
    assert {"key_1", "key_2", "from", "until"} <= set(view.table("states").column_names)
    (row,) = where(view.table(), {"sensor": "s3"}, 1).to_pylist()
    assert row["sensor"] == "s3"
    assert row["readings"] > 0
    with pytest.raises(RequestError, match=r"no column 'sensors'; did you mean 'sensor'\?"):
        where(view.table(), {"sensors": "s3"})
    with pytest.raises(RequestError, match="has no table 'closed'"):
        view.table("closed")
    with pytest.raises(RequestError, match="has no state"):
        committed_state(workspace, "readings")


def test_the_state_of_a_running_stream(plant, streams):
    folder = plant(count=500)
    workspace = streams.opened(folder)
    few = StreamOptions(
        intervals=Intervals(batch_offsets=200)
    )  # not to the end, which would close the windows of downstream streams
    with closing(Stream(workspace, Planner(workspace).plan("readings"), few)) as readings:
        readings.run_micro_batch()
        readings.save()
    stream = Stream(workspace, Planner(workspace).plan("by_minute"))
    try:
        stream.run_micro_batch()
        assert live(stream)["states"].num_rows > 0
    finally:
        stream.close()


def test_state_is_readable():
    kept = pa.table({"_k0": [1], "_from": [0], "_until": [END], "_level": [1], "user": ["a"], "_s0": [{"x": 1}]})
    assert readable(kept).to_pylist()[0].keys() == {"key_1", "from", "until", "user"}
    assert readable(kept).to_pylist()[0]["until"] is None


# -- dead letters


def test_dead_letters_are_counted_by_reason(limited, streams):
    folder = limited(5)
    streams.start(folder, "readings", until_caught_up=True).run()
    counts = {each.reasons: each.rows for each in dead_letters(streams.opened(folder))}
    assert counts == {"no event time": 10, "is_small": sum(i % 7 >= 5 and i % 10 < 9 for i in range(100))}


@pytest.mark.share(1)
@pytest.mark.parametrize("stored", [True, False])
def test_dead_letters_are_replayed_once_with_the_current_definition(limited, streams, stored):
    name = "readings" if stored else "small"
    folder = limited(5) if stored else unstored(limited(5), 5)
    streams.start(folder, name, until_caught_up=True).run()
    before, version = len(streams.rows(folder, name)), streams.opened(folder).require(name)
    _ = limited(6) if stored else unstored(folder, 6)
    flow = replay_letters(streams.opened(folder), name)
    came_back = sum(i % 7 == 5 and i % 10 < 9 for i in range(100))
    assert (flow.rows_out, flow.quarantined) == (came_back, flow.rows_in - came_back)
    assert len(streams.rows(folder, name)) == before + came_back
    again = replay_letters(streams.opened(folder), name)
    assert (again.rows_out, again.quarantined) == (0, flow.quarantined)
    epoch = streams.opened(folder).require(name).manifest.epoch
    assert epoch.number == version.manifest.epoch.number + 2  # each replay is a separate epoch
    assert epoch.offsets == version.manifest.epoch.offsets
    totals = epoch.totals
    assert totals["rows_in"] == totals["rows_out"] + totals["quarantined"] == 100
    streams.start(folder, name, until_caught_up=True).run()
    assert len(streams.rows(folder, name)) == before + came_back
    assert verify(streams.opened(folder), name).holds


def test_dead_letters_of_a_table_are_replayed_from_its_input(limited, streams):
    folder = limited(5)
    streams.start(folder, until_caught_up=True).run()
    (folder / "limited.py").write_text(
        (folder / "limited.py").read_text().replace('"is_small", "n < 5"', '"is_small", "n < 9"')
    )
    assert replay_letters(streams.opened(folder), "readings").rows_out > 0
    streams.start(folder, until_caught_up=True).run()
    quarantined = {each.stream: each.rows for each in dead_letters(streams.opened(folder)) if each.reasons == "is_tiny"}
    (folder / "limited.py").write_text(
        (folder / "limited.py").read_text().replace('"is_tiny", "n < 5"', '"is_tiny", "n < 9"')
    )
    assert replay_letters(streams.opened(folder), "small").rows_out == quarantined["small"] > 0
    assert verify(streams.opened(folder), "small").holds


def test_dead_letters_that_cannot_be_replayed(plant, streams):
    folder = plant(count=300)
    workspace = streams.opened(folder)
    with pytest.raises(RequestError, match=r"rows that stream 'by_minute' rejected cannot be replayed individually"):
        replay_letters(workspace, "by_minute")
    streams.start(folder, "readings", until_caught_up=True).run()
    with pytest.raises(RequestError, match="has no rejected rows"):
        replay_letters(workspace, "readings")
    Leases(workspace.catalog).acquire("readings", this_process())
    with pytest.raises(ConflictError, match="is already running"):
        replay_letters(workspace, "readings")
