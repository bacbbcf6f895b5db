"""Operating streams: leases, requests, and restarts after errors."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConflictError, ExpectationError, RequestError, StorageError
from pipeline.governance import DesiredState, Leases, this_process
from pipeline.streaming.planning.plan import Planner
from pipeline.streaming.runtime.control import request, stream_summaries
from pipeline.streaming.runtime.options import Intervals
from pipeline.streaming.runtime.restart_policy import RestartPolicy
from pipeline.streaming.runtime.start_position import parse_start
from pipeline.streaming.runtime.stream import Stream
from pipeline.streaming.runtime.verify import verify

QUICK = RestartPolicy(first_wait_s=0.01, longest_wait_s=0.02)


def until(condition, what="it"):
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, f"{what} took too long"
        time.sleep(0.01)


# -- leases


def test_a_running_stream_is_rejected_and_can_be_taken_over(plant, streams):
    folder = plant(count=None, speed=2000)
    first = streams.start(folder, "readings")
    with streams.alive(first, fails=True) as at_work:
        until(lambda: first.statuses["readings"].commits > 1)
        with pytest.raises(ConflictError, match=r"stream 'readings' is already running: got process \d+ on"):
            streams.start(folder, "readings").run()
        Leases(first.workspace.catalog).acquire("readings", this_process(), take_over=True)
        until(lambda: first.errors)
    assert isinstance(at_work.error, ConflictError)
    assert "was taken over by another process" in str(at_work.error)
    assert first.statuses["readings"].status == "failed"
    assert verify(streams.opened(folder), "readings").holds


@pytest.mark.proof
def test_lease_holder_survives_a_commit_of_the_previous_owner(plant, streams):
    folder = plant(count=None, speed=2000)
    messages = []
    running = streams.start(
        folder,
        "readings",
        restart_policy=QUICK,
        on_restart=lambda _, text: messages.append(text),
        stream_options={"intervals": Intervals(batch_s=0.02, commit_s=1)},
    )
    workspace = streams.opened(folder)
    plan = Planner(workspace).plan("readings")
    with streams.alive(running):
        until(lambda: running.statuses["readings"].commits > 1)
        while not messages:  # the running stream may win the race
            with suppress(ConflictError), closing(Stream(workspace, plan)) as previous_owner:
                previous_owner.run_micro_batch()
                previous_owner.save()
        commits = running.statuses["readings"].commits
        until(lambda: running.statuses["readings"].commits > commits + 1)
    assert re.search(r"another process has committed to 'readings'; resumes from the last commit", messages[0])
    assert verify(streams.opened(folder), "readings").holds


def test_a_zombie_fails_at_its_commit(plant, streams):
    #  first   batch ─ saved ─────────────────────────────── commit ✗
    #  second              take over ── commits ── goes on
    folder = plant(count=None, speed=2000)
    asleep, awake = threading.Event(), threading.Event()
    steps: list[str] = []

    def sleep(_: str, step: str) -> None:
        steps.append(step)
        if step == "saved" and not asleep.is_set():
            asleep.set()
            awake.wait(30)

    first = streams.start(folder, "readings", on_step=sleep)
    with streams.alive(first, fails=True) as at_work:
        assert asleep.wait(30)
        second = streams.start(folder, "readings", take_over=True)
        with streams.alive(second):
            until(lambda: second.statuses["readings"].commits > 0)
            awake.set()
            until(lambda: first.errors)
    assert isinstance(at_work.error, ConflictError)
    assert "committed" not in steps
    assert verify(streams.opened(folder), "readings").holds


def test_a_stream_survives_a_catalog_outage(plant, streams):
    folder = plant(count=None, speed=2000)
    running = streams.start(folder, "readings")
    with streams.alive(running):
        until(lambda: running.statuses["readings"].commits > 1)
        catalog = next((folder / ".headwater").rglob("catalog.db"))
        catalog.rename(catalog.with_suffix(".away"))
        catalog.mkdir()
        until(lambda: running.trouble, "the trouble")
        before = running.statuses["readings"].commits
        until(lambda: running.statuses["readings"].commits > before + 1, "a commit without the catalog")
        catalog.rmdir()
        catalog.with_suffix(".away").rename(catalog)
        until(lambda: not running.trouble, "the end of the trouble")
    assert running.statuses["readings"].status == "stopped"


# -- requests


def test_pause_resume_and_drain(plant, streams):
    folder = plant(count=None, speed=2000)
    running = streams.start(folder, "readings", "by_minute")
    workspace = streams.opened(folder)
    with streams.alive(running):
        until(lambda: running.statuses["by_minute"].commits > 1)
        request(workspace, "by_minute", DesiredState.PAUSE)
        paused = running.statuses["by_minute"]
        still = workspace.require("by_minute").number
        until(lambda: running.statuses["readings"].commits > 5)
        assert workspace.require("by_minute").number == still
        assert {each.name: each.status for each in stream_summaries(workspace)}["by_minute"] == "paused"
        request(workspace, "by_minute", DesiredState.RUN)
        until(lambda: running.statuses["by_minute"].epoch > paused.epoch)
        request(workspace, "by_minute", DesiredState.DRAIN)
        assert workspace.require("by_minute").manifest.epoch.drained
        request(workspace, "readings", DesiredState.STOP)
        until(lambda: running.statuses["readings"].status == "stopped")
    summaries = {each.name: (each.status, each.is_running) for each in stream_summaries(workspace)}
    assert summaries["by_minute"] == ("ended", False)
    assert summaries["readings"] == ("stopped", False)
    assert summaries["hot"] == ("never run", False)
    with pytest.raises(RequestError, match="stream 'by_minute' is not running"):
        request(workspace, "by_minute", DesiredState.PAUSE)


def test_a_request_that_is_not_reached_in_time_is_reported(plant, streams):
    workspace = streams.opened(plant())
    Leases(workspace.catalog).acquire("hot", this_process())
    with pytest.raises(
        ConflictError, match=r"has not reached the desired state pause yet: got status starting after 0.1 s"
    ):
        request(workspace, "hot", DesiredState.PAUSE, wait_s=0.1)


# -- errors


def failing(times: int, step: str, error: Exception):
    """Return a hook that raises at a step a number of times, and the list of these times."""
    raised: list[str] = []

    def hook(name: str, at: str) -> None:
        if at == step and len(raised) < times:
            raised.append(name)
            raise error

    return hook, raised


@pytest.mark.share(1)
@pytest.mark.parametrize("step", ["staged", "saved", "committed", "settled"])
def test_a_stream_resumes_after_a_transient_error(plant, streams, step):
    folder = plant(count=3000)
    hook, raised = failing(3, step, StorageError("the store is away"))
    restarts: list[str] = []
    running = streams.start(
        folder,
        "readings",
        "by_minute",
        until_caught_up=True,
        restart_policy=QUICK,
        on_step=hook,
        on_restart=lambda name, words: restarts.append(f"{name}: {words}"),
    )
    running.run()
    assert len(raised) >= 2
    assert len(restarts) == sum(facts.restarts for facts in running.statuses.values()) == len(raised)
    assert "the store is away; resumes from the last commit: restart 1 in 0.01 s" in restarts[0]
    for name in ("readings", "by_minute"):
        assert verify(streams.opened(folder), name).holds


def test_a_persistent_error_ends_the_stream_after_some_restarts(plant, streams):
    folder = plant(count=3000)
    hook, raised = failing(100, "staged", StorageError("the store is away"))
    running = streams.start(
        folder, "readings", until_caught_up=True, restart_policy=replace(QUICK, most=2), on_step=hook
    )
    with pytest.raises(StorageError, match="the store is away"):
        running.run()
    assert len(raised) == 3
    assert (running.statuses["readings"].status, running.statuses["readings"].restarts) == ("failed", 2)
    (summary,) = (each for each in stream_summaries(streams.opened(folder)) if each.name == "readings")
    assert (summary.status, summary.lease.facts["error"]) == ("failed", "the store is away")


def test_a_restart_before_the_first_commit_begins_at_the_same_offsets(plant, streams):
    folder = plant(count=3000)
    streams.start(folder, "readings", until_caught_up=True).run()
    hook, _ = failing(1, "staged", StorageError("the store is away"))
    again = streams.start(
        folder, "readings", until_caught_up=True, begin="earliest", restart_policy=QUICK, on_step=hook
    )
    again.run()
    assert len(streams.rows(folder, "readings", "degrees")) == 6000


def test_a_failed_stream_does_not_stop_the_others(plant, streams):
    folder = plant(count=3000)
    hook, _ = failing(1, "staged", ExpectationError("no good"))

    def only_hot(name: str, step: str) -> None:
        if name == "hot":
            hook(name, step)

    running = streams.start(folder, until_caught_up=True, on_step=only_hot)
    with pytest.raises(ExpectationError, match="no good"):
        running.run()
    assert {name: facts.status for name, facts in running.statuses.items()} == {
        "readings": "ended",
        "hot": "failed",
        "by_minute": "ended",
    }


def test_with_fail_fast_all_stop(plant, streams):
    folder = plant(count=None, speed=1000)
    hook, _ = failing(1, "staged", ExpectationError("no good"))
    running = streams.start(
        folder, "readings", "hot", fail_fast=True, on_step=lambda n, s: hook(n, s) if n == "hot" else None
    )
    with pytest.raises(ExpectationError, match="no good"):
        running.run(every_s=0.02)
    assert running.statuses["readings"].status in {"stopped", "starting"}


# -- where it begins


def test_a_savepoint_belongs_to_one_stream(plant, streams):
    with pytest.raises(RequestError, match="a savepoint belongs to one stream"):
        streams.start(plant(), restore="before")


def test_parse_start(tmp_path):
    (tmp_path / "offsets.json").write_text('{"a": 3}')
    assert parse_start("earliest") == "earliest"
    assert parse_start("2024-05-01T12:00").isoformat() == "2024-05-01T12:00:00+00:00"
    assert parse_start("2024-05-01T12:00+02:00").isoformat() == "2024-05-01T12:00:00+02:00"
    assert parse_start('{"a": 3}') == parse_start(str(tmp_path / "offsets.json")) == {"a": 3}
    with pytest.raises(RequestError, match=r"--from cannot be parsed: got 'yesterday'; use committed, earliest"):
        parse_start("yesterday")
    with pytest.raises(RequestError, match="offsets of --from are not JSON"):
        parse_start("{a: 3}")
    with pytest.raises(RequestError, match="must be numbers by partition"):
        parse_start('{"a": "3"}')


def test_begin_at_offsets(plant, streams):
    folder = plant(count=1000)
    workspace = streams.opened(folder)
    uris = sorted(workspace.definition("readings").reader.extents())
    begin = parse_start(json.dumps({uris[0]: 900, uris[1]: 1000}))
    streams.start(folder, "readings", until_caught_up=True, begin=begin).run()
    assert streams.rows(
        folder, "readings", "_source, min(_position) as m, count(*) as n from readings group by 1 --"
    ) == [(uris[0], 900, 100)]
    with pytest.raises(
        RequestError, match="already has commits: starting at other offsets would lose or duplicate rows"
    ):
        streams.start(folder, "readings", until_caught_up=True, begin=begin).run()
    streams.start(folder, "readings", until_caught_up=True, begin={uris[0]: 990}, stream_options={"anew": True}).run()
    assert len(streams.rows(folder, "readings", "degrees")) == 10 + 1000
    with pytest.raises(RequestError, match="has no partition 'elsewhere'"):
        streams.start(folder, "hot", begin={"elsewhere": 1}, stream_options={"anew": True}).run()
    with pytest.raises(RequestError, match="does not contain the start offset: got 2000; it contains 0 to 1000"):
        streams.start(folder, "readings", begin={uris[0]: 2000}, stream_options={"anew": True}).run()


def test_begin_at_a_time(tmp_path, streams):
    folder = tmp_path / "drops"
    (folder / "in").mkdir(parents=True)
    (folder / "headwater.toml").write_text('[project]\nname = "drops"\ndefinitions = "drops.py"\n')
    (folder / "drops.py").write_text(
        "from pathlib import Path\nfrom pipeline import files, source\n"
        "drops = source(files(Path(__file__).parent / 'in/*.csv'), schema={'at': 'timestamp', 'n': 'integer'}, "
        "event_time='at')\n"
    )
    for number in (1, 2):
        file = folder / "in" / f"{number}.csv"
        file.write_text(f"at,n\n2024-01-0{number},{number}\n")
        os_time = 1_700_000_000 + number * 1000
        __import__("os").utime(file, (os_time, os_time))
    streams.start(folder, "drops", until_caught_up=True, begin=parse_start("2023-11-14T22:41:00")).run()
    assert streams.rows(folder, "drops", "n") == [(2,)]
    assert Path(folder / "in" / "1.csv").is_file()
