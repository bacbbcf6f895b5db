"""Concurrent work on a stream's table, and many writers of one table: no one waits forever, and nothing is lost."""

from __future__ import annotations

import os
import random
import resource
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest

from pipeline.core.errors import ConflictError, StorageError
from pipeline.core.lake_policy import LakePolicy
from pipeline.core.schema import Schema
from pipeline.core.staging import Manifest
from pipeline.kernel.engine import connect
from pipeline.lake import Lake, Storage, compact, vacuum
from tests.faults.streams import PROCESSES, TOML, Clicks, Follower, Orders, oracle, run, start
from tests.faults.test_fault_streams import driven_by_the_log

ROW = Schema.of({"writer": "INTEGER", "number": "INTEGER"})


@pytest.mark.proof
@pytest.mark.fault(29)
@pytest.mark.parametrize("seed", range(10))
def test_compaction_and_vacuum_while_streams_run(tmp_path, undisturbed, seed):
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    clicks = Clicks(tmp_path / "project", step=10).write()
    names = ("kept", "minutes", "below")
    workspace = clicks.workspace()
    together = 0
    with Follower(clicks, names), start(Orders(str(clicks.folder), names)) as child:
        while child.process.is_alive():
            table = workspace.table(dice.choice(names))
            with suppress(ConflictError, StorageError):  # the stream was first, or the table does not exist yet
                together += compact(table, table.head()) is not None
            if dice.random() < 0.3 and table.number() is not None:
                vacuum(replace(table, policy=LakePolicy(history=timedelta(seconds=30))))
        ended = child.wait()
    assert not isinstance(ended, BaseException), ended
    assert together
    run(Orders(str(clicks.folder), names))
    assert oracle(clicks, names)["kept"] == driven_by_the_log(undisturbed)["kept"]


def _writer(folder: str, writer: int, commits: int, wait_s: float) -> None:
    os.nice(15)  # ten writers would slow down the brokers and clusters of other tests
    table = Lake(Storage(folder)).table("silver", "t")
    head, dice = table.head(), random.Random(writer)  # noqa: S311 - a seed for waiting times
    for number in range(commits):
        run_id = f"w{writer}-{number}"
        with connect() as con:
            files = table.stager(run_id).stage(
                con, f"select {writer}::integer as writer, {number}::integer as number", 0
            )
        while True:
            try:
                version = head.commit(Manifest("t", run_id, "f", "append"), files, ROW)
                break
            except ConflictError:
                time.sleep(dice.uniform(0, wait_s))  # otherwise, ten writers need four times the attempts and CPU time
                head = table.head()
        if version and version % 50 == 0:  # as streams do: otherwise, a commit takes longer with each file and version
            with suppress(ConflictError):
                compact(table, table.head())
            table.tidy()


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("writers", "commits"), [(3, 6), pytest.param(10, 2000, marks=[pytest.mark.proof, pytest.mark.timeout(7200)])]
)
def test_no_commit_of_concurrent_writers_is_lost(tmp_path, writers, commits):
    wait_s = 0.3 * writers
    running = [
        PROCESSES.Process(target=_writer, args=(str(tmp_path), number, commits, wait_s)) for number in range(writers)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0] * writers
    lake = Lake(Storage(str(tmp_path)))
    rows = lake.rows(lake.table("silver", "t"))
    written = sorted(zip(rows["writer"].to_pylist(), rows["number"].to_pylist(), strict=True))
    assert written == [(writer, number) for writer in range(writers) for number in range(commits)]


KEYS = """\
from pipeline import source, sql
from tests.faults.streams import dripping

ticks = source(
    dripping(
        {{"key": "{key}", "happened": "timestamp '2026-01-01' + to_milliseconds(i)"}}, partitions=2, count={count}, step=200000
    ),
    schema={{"key": "bigint", "happened": "timestamp"}}, event_time="happened", stored=False,
)
days = sql("select tumble(happened, interval '1 day') as day, key, count(*) as n from ticks group by all")
"""


def _heavy(folder: str, pipe) -> None:
    from tests.faults.streams import _child  # noqa: PLC0415 - what a child does

    _child(Orders(folder, ("days",), shards=2), pipe)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.fault(27)
@pytest.mark.parametrize(
    ("key", "keys"),
    [("p * 5000000 + i", 10_000_000), ("case when i % 10 < 9 then 0 else p * 5000000 + i end", 1_000_001)],
    ids=["ten million keys", "one hot key"],
)
def test_many_keys_and_a_skewed_key_stay_within_memory(tmp_path, key, keys, record_property):
    (tmp_path / "headwater.toml").write_text(TOML + "\n[env.dev]\nmemory_bytes = 2000000000\n")
    (tmp_path / "clicks.py").write_text(KEYS.format(key=key, count=5_000_000))
    parent, child = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_heavy, args=(str(tmp_path), child))
    process.start()
    child.close()
    ended, most = parent.recv(), parent.recv()
    process.join()
    assert not isinstance(ended, BaseException), ended
    lake = Lake(Storage(str(tmp_path / ".headwater" / "lake")))
    rows = lake.rows(lake.table("silver", "days"))
    assert (rows.num_rows, sum(rows["n"].to_pylist())) == (keys, 10_000_000)
    record_property(f"peak memory with {keys:,} keys", f"{most / 1e9:.1f} GB")
    assert most < 6e9
