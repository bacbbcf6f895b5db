"""Streams are killed at every step, from inside and outside, and resumed with a different number of shards."""

from __future__ import annotations

import itertools
import random
import shutil
from pathlib import Path

import pytest
from deltalake import DeltaTable

from pipeline.streaming.runtime.verify import verify
from tests.faults.streams import (
    PROJECT,
    Clicks,
    Follower,
    Kill,
    Orders,
    committed_once_each,
    oracle,
    quarantine_of,
    run,
    start,
)
from tests.rigs.proofs import some

STEPS = ("staged", "saved", "committed", "settled")


@pytest.fixture
def clicks(tmp_path):
    return Clicks(tmp_path / "project").write()


def driven_by_the_log(tables):
    """The epochs of downstream tables depend on when their inputs commit, so only the oracle can check them."""
    return {name: rows for name, rows in tables.items() if name in {"kept", "minutes"}}


@pytest.mark.fault(1, 2, 3, 26)
def test_killed_at_every_point_of_an_epoch(clicks, undisturbed):
    """Killed repeatedly, each time at another step, and resumed with other shards: equal to an uninterrupted run."""
    names = ("kept", "minutes")
    with Follower(clicks, names) as follower:
        for number, (table, step) in enumerate(some(itertools.product(names, STEPS), 2)):
            orders = Orders(str(clicks.folder), names, shards=1 + number % 3, kill=Kill(1, table, step))
            assert run(orders) is None, f"not killed at {table} {step}"
        assert run(Orders(str(clicks.folder), names, shards=2)) is not None
    assert follower.versions
    assert oracle(clicks, names) == driven_by_the_log(undisturbed)


@pytest.mark.proof
@pytest.mark.fault(1, 2, 3, 26)
@pytest.mark.parametrize("files", [False, True], ids=["steps", "files"])
def test_killed_at_every_single_point(clicks, undisturbed, files):
    """Killed at each step of a complete run, one per run, then resumed; with `files`, also at each file operation."""
    points = run(Orders(str(clicks.folder), files=files))
    seen = list(
        dict.fromkeys((table, step, points[:n].count((table, step)) + 1) for n, (table, step) in enumerate(points))
    )
    for number, (table, step, nth) in enumerate(seen):
        if nth > 2:
            continue
        shutil.rmtree(clicks.folder)
        clicks.write()
        run(Orders(str(clicks.folder), shards=1 + number % 3, files=files, kill=Kill(nth, table, step)))
        run(Orders(str(clicks.folder), shards=1 + number // 3 % 3))
        assert driven_by_the_log(oracle(clicks)) == driven_by_the_log(undisturbed), f"{table} {step} {nth}"


@pytest.mark.proof
@pytest.mark.fault(1, 2, 3, 26)
@pytest.mark.parametrize("seed", range(40))
def test_killed_at_random_from_outside(clicks, undisturbed, seed):
    """A parent process kills it at any time, also while DuckDB writes or during a commit."""
    dice = random.Random(seed)  # noqa: S311 - a seed for faults
    with Follower(clicks):
        for _ in range(4):
            with start(Orders(str(clicks.folder), shards=dice.randint(1, 4), source_tasks=dice.randint(1, 3))) as child:
                child.process.join(dice.uniform(0.3, 2.5))
        run(Orders(str(clicks.folder), shards=dice.randint(1, 4)))
    assert driven_by_the_log(oracle(clicks)) == driven_by_the_log(undisturbed)


@pytest.mark.proof
@pytest.mark.fault(3)
def test_orphans_are_invisible_and_the_next_run_removes_only_them(clicks, undisturbed):
    names = ("minutes",)
    assert run(Orders(str(clicks.folder), names, kill=Kill(4, step="saved"))) is None
    table = clicks.workspace().table("minutes")
    folder = Path(table.storage.uri)
    known = {Path(file.uri) for file in table.version().files}
    orphans = set(folder.glob("*.parquet")) - known
    assert orphans
    saved = {
        path for path in (folder / "_headwater/state").iterdir() if path.name[:25] in {o.name[5:30] for o in orphans}
    }
    assert saved
    assert run(Orders(str(clicks.folder), names, drain=False)) is not None
    state = {file.path for file in committed_once_each(clicks.workspace(), "minutes").last.state}
    removed = DeltaTable(table.storage.uri).vacuum(0, dry_run=False, full=True, enforce_retention_duration=False)
    assert not removed
    assert not any(path.exists() for path in orphans | saved)
    assert all((folder / path).is_file() for path in state)
    run(Orders(str(clicks.folder), names))
    assert oracle(clicks, names)["minutes"] == undisturbed["minutes"]


PLAIN = """
plain = sql("select id, happened, key from clicks")
seconds = sql("select tumble(happened, interval '10 seconds') as ten, count(*) as n from plain group by all")
"""


@pytest.mark.proof
def test_verify_knows_late_rows_of_a_table_without_positions(tmp_path):
    clicks = Clicks(tmp_path / "project", step=10).write()
    (clicks.folder / "clicks.py").write_text(PROJECT.format(partitions=3, count=160, step=10) + PLAIN)
    run(Orders(str(clicks.folder), ("plain", "seconds")))
    workspace = clicks.workspace()
    late = quarantine_of(workspace, "seconds")
    assert late.num_rows
    assert not any(late["_position"].to_pylist())
    result = verify(workspace, "seconds")
    assert result.holds
    assert result.rows_aside == late.num_rows
