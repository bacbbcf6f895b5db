"""One process maintains a table at a time, killed and suspended ones keep nobody waiting, and holders wait for the others."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConflictError
from pipeline.core.lake_policy import LakePolicy
from pipeline.core.processes import started
from pipeline.core.scratch import Owner
from pipeline.lake import Storage, vacuum
from pipeline.lake.log_files import LogFiles
from pipeline.lake.log_maintenance import tidy
from pipeline.lake.maintenance_claims import FOLDER, maintaining, wait_for_maintenance

NOW = dt.datetime.now(dt.UTC)
HOUR = dt.timedelta(hours=1)


def claim(storage: Storage, until: dt.datetime, owner: str = "", number: int = 0) -> str:
    """Write the claim of another process, and return its name."""
    name = f"{FOLDER}{number:08}.json"
    storage.write_text(
        name, json.dumps({"by": "process 1 on a", "owner": owner, "token": "x", "until": until.isoformat()})
    )
    return name


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.proof)])
def storage(request, tmp_path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path))
    return request.getfixturevalue("s3").storage(uuid.uuid4().hex)


def test_one_process_maintains_a_table_at_a_time(storage):
    with maintaining(storage, HOUR):
        with pytest.raises(ConflictError, match=rf"is being maintained: got process {os.getpid()} on .*; try again"):
            maintaining(storage, HOUR).__enter__()
        assert len(storage.names(FOLDER)) == 1
    assert storage.names(FOLDER) == ()


def test_of_processes_that_begin_together_at_most_one_goes_on(storage):
    together, inside, most = threading.Barrier(8), [], []

    def work() -> None:
        together.wait()
        try:
            with maintaining(storage, HOUR):
                inside.append(1)
                most.append(len(inside))
                inside.pop()
        except ConflictError:
            return

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) <= {1}
    assert storage.names(FOLDER) == ()


def test_a_claim_ends_with_its_time_and_with_its_process(storage):
    me = Owner.of_process(os.getpid())
    killed, elsewhere = replace(me, pid=2**22 - 1).folder, replace(me, machine="0" * 8, pid=2**22 - 1).folder
    for until, owner, is_over in (
        (NOW - HOUR, "", True),
        (NOW + HOUR, killed, True),
        (NOW + HOUR, elsewhere, False),
        (NOW + HOUR, replace(me, pid=os.getppid(), started=started(os.getppid())).folder, False),
        (NOW + HOUR, me.folder, True),  # this process could not remove it
    ):
        name = claim(storage, until, owner)
        if is_over:
            wait_for_maintenance(storage)
            with maintaining(storage, HOUR):
                assert not storage.has(name)
        else:
            with pytest.raises(ConflictError, match="got process 1 on a, until"):
                maintaining(storage, HOUR).__enter__()
            assert storage.names(FOLDER) == (name,)
        storage.remove([each for each in storage.names(FOLDER) if each == name])


def test_a_process_whose_time_is_over_removes_nothing_more(storage):
    now = NOW
    with maintaining(storage, HOUR, lambda: now) as late:
        late.require()
        now = NOW + 2 * HOUR
        with maintaining(storage, HOUR, lambda: now) as next_one:
            with pytest.raises(ConflictError, match="took too long; run it again"):
                late.require()
            next_one.require()
            [name] = storage.names(FOLDER)
            assert name.endswith("1.json")
    claim(storage, NOW + 3 * HOUR)  # another one, under the number of the one that was late
    with pytest.raises(ConflictError):
        maintaining(storage, HOUR, lambda: now).__enter__()


def test_a_holder_waits_for_the_maintenance_that_may_not_know_its_hold(storage, monkeypatch):
    name = claim(storage, NOW + HOUR)
    timer = threading.Timer(0.3, lambda: storage.remove([name]))
    timer.start()
    wait_for_maintenance(storage)
    assert not storage.has(name)
    timer.join()
    claim(storage, NOW + HOUR)
    monkeypatch.setattr("pipeline.lake.maintenance_claims._WAIT_S", 0.0)
    with pytest.raises(ConflictError, match=r"is being maintained: got process 1 on a, until .*; try again later"):
        wait_for_maintenance(storage)


def test_vacuum_and_clean_up_of_a_log_keep_out_of_each_others_way(writer):
    w = writer()
    w.table = replace(w.table, policy=LakePolicy(history=dt.timedelta()))
    for number in range(6):
        w.write(f"select {number} as a", f"r{number}", "overwrite", w.table.version() if number else None)
        if number == 2:
            tidy(w.table.place)  # a checkpoint, which a later one can shorten the log to
    before = w.table.storage.names("part-")
    name = claim(w.table.storage, NOW + HOUR)
    for maintain in (lambda: vacuum(w.table), lambda: tidy(w.table.place, versions=2)):
        with pytest.raises(ConflictError, match="is being maintained"):
            maintain()
    assert w.table.tidy()  # it has nothing to remove: a checkpoint can always be written
    assert LogFiles.of(w.table.storage).checkpoints == (2, 5)
    assert LogFiles.of(w.table.storage).readable() == tuple(range(6))
    assert w.table.storage.names("part-") == before
    w.table.storage.remove([name])
    now = dt.datetime.now(dt.UTC)
    times = iter([now, now])
    with pytest.raises(ConflictError, match="took too long; run it again"):
        vacuum(w.table, clock=lambda: next(times, now + 2 * HOUR))
    assert w.table.storage.names("part-") == before
    assert len(vacuum(w.table).files) == 5
    assert Path(w.table.storage.uri, FOLDER).is_dir()
    assert w.table.version().rows == 1
