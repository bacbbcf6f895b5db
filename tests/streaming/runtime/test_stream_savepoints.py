"""Savepoints, and definitions that change between a commit and the next start."""

from __future__ import annotations

import pytest

from pipeline.core.errors import RequestError, StorageError
from pipeline.lake.history import history
from pipeline.lake.holds import holds
from pipeline.lake.storage import Storage
from pipeline.project.holds import release_holds
from pipeline.reprocessing.quarantine import quarantined_rows
from pipeline.streaming.runtime.job import catch_up
from pipeline.streaming.runtime.savepoints import delete_savepoint, pinned, save, savepoints
from pipeline.streaming.runtime.verify import verify

PLANT = '''\
from pathlib import Path

from pipeline import files, quarantine, source, sql

readings = source(
    files(Path(__file__).parent / "in/*.csv"),
    schema={"time": "timestamp", "sensor": "varchar", "degrees": "integer"},
    event_time="time",
    stored=False,
)
by_minute = sql(
    """
    select tumble(time, interval '1 minute') as minute, sensor, SELECTED
    from readings group by all HAVING
    """,
    key=("minute", "sensor"),
    expect=[quarantine("is_possible", "POSSIBLE")],
)
'''


def arrive(folder, number: int) -> None:
    """Add a file with 120 readings of two minutes, some of them invalid."""
    rows = [f"2024-01-01 {number:02}:{i // 60:02}:{i % 60:02},s{i % 3},{(i * 7 + number) % 50}" for i in range(120)]
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / f"{number:02}.csv").write_text("time,sensor,degrees\n" + "\n".join(rows) + "\n")


def change(
    folder, selected="count(*) as readings, max(degrees) as hottest", having="", possible="hottest < 49"
) -> None:
    text = PLANT.replace("SELECTED", selected).replace("HAVING", having).replace("POSSIBLE", possible)
    (folder / "plant.py").write_text(text)


@pytest.fixture
def drops(tmp_path):
    folder = tmp_path / "drops"
    folder.mkdir()
    (folder / "headwater.toml").write_text('[project]\nname = "drops"\ndefinitions = "plant.py"\n')
    change(folder)
    return folder


def run(streams, folder, *numbers: int, **wanted) -> None:
    for number in numbers:
        arrive(folder, number)
        streams.start(folder, "by_minute", until_caught_up=True, **wanted).run()


def quarantine_of(streams, folder):
    return sorted(quarantined_rows(streams.opened(folder), "by_minute")["row"].to_pylist())


@pytest.mark.proof
def test_restoring_and_resuming_equals_an_uninterrupted_run(drops, streams):
    #  files    1   2   |   3   4              |   3   4
    #               savepoint            restore
    run(streams, drops, 1, 2)
    workspace = streams.opened(drops)
    kept, kept_quarantine = streams.rows(drops, "by_minute"), quarantine_of(streams, drops)
    savepoint = save(workspace, "by_minute", "before")
    assert (savepoint.epoch, savepoint.rows) == (workspace.require("by_minute").manifest.epoch.number, len(kept))
    run(streams, drops, 3, 4)
    uninterrupted, whole_quarantine = streams.rows(drops, "by_minute"), quarantine_of(streams, drops)
    assert len(uninterrupted) > len(kept)
    assert len(whole_quarantine) > len(kept_quarantine) > 0

    for number in (3, 4):
        (drops / "in" / f"{number:02}.csv").rename(drops / f"{number:02}.csv")
    streams.start(drops, "by_minute", until_caught_up=True, restore="before").run()
    assert streams.rows(drops, "by_minute") == kept
    assert quarantine_of(streams, drops) == kept_quarantine
    for number in (3, 4):
        (drops / f"{number:02}.csv").rename(drops / "in" / f"{number:02}.csv")
    streams.start(drops, "by_minute", until_caught_up=True, stream_options={"shards": 3}).run()
    assert streams.rows(drops, "by_minute") == uninterrupted
    assert quarantine_of(streams, drops) == whole_quarantine
    assert verify(streams.opened(drops), "by_minute").holds
    streams.start(drops, "by_minute", until_caught_up=True, restore="before").run()
    assert streams.rows(drops, "by_minute") == uninterrupted, "a savepoint can be restored again"


def test_savepoints_have_labels_and_name_what_they_need(drops, streams):
    run(streams, drops, 1)
    workspace = streams.opened(drops)
    first, second = save(workspace, "by_minute"), save(workspace, "by_minute", "nightly.1")
    assert [each.label for each in savepoints(workspace, "by_minute")] == [first.label, "nightly.1"]
    assert first.label == f"epoch-{second.epoch}"
    table, quarantined = pinned(workspace, "by_minute")
    assert all(workspace.table("by_minute").storage.has(path) for path in table)
    assert quarantined
    with pytest.raises(RequestError, match=r"already has a savepoint 'nightly.1'"):
        save(workspace, "by_minute", "nightly.1")
    with pytest.raises(RequestError, match="a label must start with a letter or digit"):
        save(workspace, "by_minute", "../elsewhere")


def test_a_savepoint_that_cannot_be_restored_is_rejected(drops, streams):
    run(streams, drops, 1, 2)
    workspace = streams.opened(drops)
    savepoint = save(workspace, "by_minute", "before")
    before = streams.rows(drops, "by_minute")
    with pytest.raises(RequestError, match=r"no savepoint 'befor'; did you mean 'before'\?"):
        streams.start(drops, "by_minute", restore="befor").run()
    assert streams.rows(drops, "by_minute") == before
    storage = workspace.table("by_minute").storage
    storage.remove([savepoint.files[0].path])
    with pytest.raises(StorageError, match=r"savepoint 'before' cannot be restored: files of 'by_minute' are missing"):
        streams.start(drops, "by_minute", restore="before").run()


@pytest.mark.parametrize("by", ["deletion", "maintenance", "saving again"])
def test_a_savepoint_whose_process_was_killed_holds_nothing_forever(drops, streams, monkeypatch, by):
    run(streams, drops, 1)
    workspace = streams.opened(drops)
    table = workspace.table("by_minute")
    real = Storage.write_text

    def killed(storage: Storage, name: str, text: str) -> None:
        if name.endswith("savepoint.json"):
            raise KeyboardInterrupt
        real(storage, name, text)

    monkeypatch.setattr(Storage, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        save(workspace, "by_minute", "before")
    monkeypatch.undo()
    assert [hold.id for hold in holds(table.storage)] == ["savepoint-before"]

    if by == "maintenance":
        release_holds(workspace, "by_minute")
    else:
        if by == "saving again":
            save(workspace, "by_minute", "before")
            release_holds(workspace, "by_minute")
            assert [hold.id for hold in holds(table.storage)] == ["savepoint-before"]
        delete_savepoint(workspace, "by_minute", "before")
        assert table.storage.names("_headwater/savepoints/") == ()
    assert holds(table.storage) == ()
    with pytest.raises(RequestError, match="no savepoint 'before'"):
        delete_savepoint(workspace, "by_minute", "before")


def test_a_hold_that_was_released_before_the_savepoint_was_complete_is_placed_again(drops, streams, monkeypatch):
    run(streams, drops, 1)
    workspace = streams.opened(drops)
    real = Storage.write_text

    def write(storage: Storage, name: str, text: str) -> None:
        if name.endswith("savepoint.json"):
            release_holds(workspace, "by_minute")  # as another process does
        real(storage, name, text)

    monkeypatch.setattr(Storage, "write_text", write)
    save(workspace, "by_minute", "before")
    assert [hold.id for hold in holds(workspace.table("by_minute").storage)] == ["savepoint-before"]


def test_a_savepoint_holds_its_version_until_it_is_deleted(drops, streams):
    run(streams, drops, 1)
    workspace = streams.opened(drops)
    storage = workspace.table("by_minute").storage
    saved = save(workspace, "by_minute", "before")
    assert [(hold.version, hold.reason) for hold in holds(storage)] == [(saved.version, "savepoint before")]
    assert history(storage, 1)[0].held_by == ("savepoint before",)
    with pytest.raises(RequestError, match=r"no savepoint 'befor'; did you mean 'before'\?"):
        delete_savepoint(workspace, "by_minute", "befor")
    streams.start(drops, "by_minute", until_caught_up=True, restore="before").run()
    with pytest.raises(RequestError, match="the last commit of stream 'by_minute' uses the state in savepoint"):
        delete_savepoint(workspace, "by_minute", "before")
    run(streams, drops, 2, stream_options={"shards": 3})
    delete_savepoint(workspace, "by_minute", "before")
    assert holds(storage) == savepoints(workspace, "by_minute") == ()
    assert not [name for name in storage.names("_headwater/") if "savepoints" in name]
    run(streams, drops, 3)


def test_savepoints_are_of_streams(drops, streams):
    workspace = streams.opened(drops)
    assert savepoints(workspace, "by_minute") == ()
    with pytest.raises(StorageError, match="does not exist yet"):
        save(workspace, "by_minute")


# -- definitions that change


def test_a_change_that_does_not_affect_the_state_keeps_it(drops, streams):
    run(streams, drops, 1)
    before = streams.rows(drops, "by_minute")
    change(drops, having="having count(*) > 1", possible="hottest < 100")
    run(streams, drops, 2)
    after = streams.rows(drops, "by_minute")
    assert set(before) < set(after)
    assert len({minute for minute, *_ in after}) == 3, "the window that was open was emitted with all its rows"
    assert {count for _, _, count, _ in after} == {20}


def test_a_change_that_affects_the_state_is_rejected(drops, streams):
    run(streams, drops, 1)
    before = streams.rows(drops, "by_minute")
    change(drops, selected="count(*) as readings, min(degrees) as hottest")
    with pytest.raises(
        StorageError, match=r"its aggregates changed: .*MAX.* before, .*MIN.* now.*--rebuild-state.*--from earliest"
    ):
        streams.start(drops, "by_minute", until_caught_up=True).run()
    assert streams.rows(drops, "by_minute") == before
    streams.start(drops, "by_minute", until_caught_up=True, begin="earliest").run()
    assert verify(streams.opened(drops), "by_minute").holds


def test_catch_up_runs_streams_once(drops, streams):
    arrive(drops, 1)
    assert catch_up(streams.opened(drops)).statuses["by_minute"].status == "ended"
