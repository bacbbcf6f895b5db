"""Streams and killed processes: the online store is complete after the next delivery, and never shows a part of one."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import pytest

from ml.features.materialization import materialize, store_of
from ml.features.online.sqlite_store import SqliteWriter
from ml.features.online_features import OnlineFeatures
from ml.features.verification import verify
from pipeline.core.errors import SinkError, StorageError
from pipeline.project import Workspace, load
from pipeline.runner.dry_run import RunOptions
from pipeline.runner.runner import Runner
from tests.rigs import proofs
from tests.streaming.runtime.conftest import streams as streams  # noqa: PLC0414 - re-exported fixture

PLANT = """
from ml import feature_view
from pipeline import files, source

raw = source(
    files("rows/*.csv"), schema={"e": "varchar", "t": "timestamp", "known": "timestamp", "x": "bigint", "gone": "boolean"},
    event_time="t", lateness="1 day",
)
shown = feature_view(
    "select e, t, known, x, gone from raw", entity="e", event_time="t", known_at="known", deleted_when="gone",
    ttl="8 minutes", delay="1 minute", online=True,
)
"""
START = datetime(2024, 1, 1, tzinfo=UTC)


def at(minutes):
    return START + timedelta(minutes=minutes)


def put(folder, name, rows):
    (folder / "rows").mkdir(exist_ok=True)
    lines = [f"{e},{at(t):%F %T},{at(known):%F %T},{'' if x is None else x},{gone}" for e, t, known, x, gone in rows]
    (folder / "rows" / f"{name}.csv").write_text("e,t,known,x,gone\n" + "\n".join(lines) + "\n")


def brute_force(rows, entity, t):
    known = [row for row in rows if row[0] == entity and max(row[1] + 1, row[2]) <= t]
    newest = max(known, key=lambda row: row[1:3], default=None)
    return None if newest is None or newest[4] or t > newest[1] + 8 else newest[3]


def deliver(streams, folder):
    """Run the stream, again if its sink has failed."""
    for _ in range(3):
        try:
            streams.start(folder, until_caught_up=True).run()
        except SinkError:
            continue
        return


@pytest.mark.parametrize("seed", range(proofs.examples(1, 20)))
def test_a_stream_equals_a_loop_after_each_epoch_and_failure(seed, tmp_path, streams, monkeypatch):
    rng = random.Random(seed)  # noqa: S311 - a reproducible seed
    (tmp_path / "headwater.toml").write_text('[project]\nname = "plant"\ndefinitions = "plant.py"\n')
    (tmp_path / "plant.py").write_text(PLANT)
    fails = [True, False]
    commit = SqliteWriter.commit

    def failing(self, state):
        fail = fails.pop() if fails else None
        if fail is True:
            raise SinkError("the disk is full")
        commit(self, state)
        if fail is False:
            raise SinkError("the connection was lost")

    monkeypatch.setattr(SqliteWriter, "commit", failing)
    rows, keys, now = [], set(), 0
    for turn in range(proofs.examples(2, 4)):
        now += 6
        new = []
        for _ in range(rng.randint(3, 20)):
            t = now + rng.randint(-9, 3)
            key = (rng.choice("abc"), t, max(t, now) + rng.choice([0, 0, 2]))
            if key not in keys:
                keys.add(key)
                new.append((*key, rng.choice([None, *range(9)]), rng.random() < 0.15))
        rows += new
        put(tmp_path, f"{turn}", new)
        deliver(streams, tmp_path)
        online = OnlineFeatures(load(tmp_path))
        with closing(store_of(load(tmp_path).settings)) as store:
            horizon = store.states()["shown"].horizon
        first = next(t for t in range(now + 20) if at(t).timestamp() * 1e6 >= horizon)
        for t in range(first, first + 12):
            read = online.get("shown", [{"e": e} for e in "abcd"], at=at(t))["x"].to_pylist()
            assert read == [brute_force(rows, e, t) for e in "abcd"], t
        online.close()
    assert fails == []


LOAD = """
import sys
from ml.features.materialization import materialize
from pipeline.project import Workspace, load

materialize(Workspace(load(sys.argv[1])), [])
"""


@pytest.mark.proof
def test_a_killed_materialisation_is_completed_by_the_next(tmp_path):
    """Killed at random times; what is read meanwhile is of one version, and at the end online equals offline."""
    (tmp_path / "headwater.toml").write_text('[project]\nname = "plant"\ndefinitions = "plant.py"\n')
    (tmp_path / "plant.py").write_text(
        PLANT.replace('    event_time="t", lateness="1 day",\n', "").replace('ttl="8 minutes", ', "")
    )
    rng = random.Random(3)  # noqa: S311 - a reproducible seed
    entities = 60_000
    for version in range(6):
        put(tmp_path, f"{version}", [(f"e{n}", version, version, version, False) for n in range(entities)])
        Runner(load(tmp_path), RunOptions(select=("raw", "shown"))).run()
        if version % 3 == 0:
            text = (tmp_path / "plant.py").read_text()
            (tmp_path / "plant.py").write_text(re.sub(r'delay="[^"]*"', f'delay="{version + 1} seconds"', text))
        for _ in range(4):
            process = subprocess.Popen([sys.executable, "-c", LOAD, str(tmp_path)], env=os.environ)
            time.sleep(rng.uniform(1.0, 4.0))
            process.send_signal(signal.SIGKILL)
            process.wait()
            with (
                closing(OnlineFeatures(load(tmp_path))) as online,
                suppress(StorageError),
            ):  # not loaded yet, as defined now
                read = online.get("shown", [{"e": f"e{n}"} for n in range(0, entities, 97)])["x"].to_pylist()
                assert len(set(read)) == 1
        materialize(Workspace(load(tmp_path)), [])
        (view,) = verify(Workspace(load(tmp_path)))
        assert (view.holds, view.online_version) == (True, view.lake_version)
