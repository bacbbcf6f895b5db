"""New columns of a stream: at its start, while it runs, and for streams that read its table."""

from __future__ import annotations

import time

import pytest

from pipeline.core.errors import SchemaError, StorageError
from pipeline.project import contracts
from pipeline.project.readers import log_of
from pipeline.streaming.runtime.verify import verify
from tests.rigs.proofs import PROOFS

TEXT = """
from pipeline import files, source, sql

raw = source(files("data/*.csv"), event_time="at", NEW)
rows = sql("select * exclude (_source, _position, _ingested_at) from raw")
named = sql("select id, v from raw where v > 0")
by_minute = sql("select tumble(at, interval '1 minute') as minute, sum(v) as v from raw group by all", key="minute")
"""
OLD = "at,id,v\n2024-01-01 00:00:00,1,1\n"
NEW = "id,b,v,at\n2,x,2,2024-01-01 00:10:00\n"
LAST = "at,id,v\n2024-01-01 00:20:00,3,3\n"


@pytest.fixture
def grown(plant):
    """The folder of a project, and a function that adds a file to it."""

    def project(new='new_columns="evolve"', text=TEXT):
        folder = plant(text=text.replace("NEW", new))
        (folder / "data").mkdir(exist_ok=True)
        return folder

    return project


def put(folder, name, text):
    (folder / "data" / f".{name}").write_text(text)
    (folder / "data" / f".{name}").rename(folder / "data" / name)


def holds(folder, streams):
    for name in ("raw", "rows", "named", "by_minute"):
        result = verify(streams.opened(folder), name)
        assert result.holds, (name, result)


@pytest.mark.proof
def test_a_new_column_is_added_at_the_next_start(grown, streams):
    folder = grown()
    put(folder, "f1.csv", OLD)
    streams.start(folder, until_caught_up=True).run()
    put(folder, "f2.csv", NEW)
    put(folder, "f3.csv", LAST)
    streams.start(folder, until_caught_up=True).run()

    assert streams.rows(folder, "raw", "id, b") == [(1, None), (2, "x"), (3, None)]
    assert streams.rows(folder, "rows", "id, b") == [(1, None), (2, "x"), (3, None)]
    assert streams.rows(folder, "named", "id, v") == [(1, 1), (2, 2), (3, 3)]
    holds(folder, streams)


def test_a_new_column_is_added_while_the_stream_runs(grown, streams):
    folder = grown()
    put(folder, "f1.csv", OLD)
    restarts = []
    with streams.alive(streams.start(folder, on_restart=lambda name, words: restarts.append((name, words)))):
        wait_for(lambda: count(streams, folder, "rows") == 1)
        put(folder, "f2.csv", NEW)
        wait_for(lambda: count(streams, folder, "rows") == 2)
        put(folder, "f3.csv", LAST)
        wait_for(lambda: count(streams, folder, "rows") == 3)

    assert streams.rows(folder, "rows", "id, b") == [(1, None), (2, "x"), (3, None)]
    assert {name for name, words in restarts if "'b'" in words or "new columns" in words} == {"raw", "rows"}
    holds(folder, streams)


def test_only_unread_records_are_searched_for_new_columns(grown, streams, monkeypatch):
    folder = grown()
    put(folder, "f1.csv", OLD)
    streams.start(folder, "raw", until_caught_up=True).run()
    put(folder, "f2.csv", NEW)
    workspace, searched = streams.opened(folder), []
    source = workspace.definition("raw")
    monkeypatch.setattr(contracts, "grown", lambda _, __, contract, splits: (searched.extend(splits), contract)[1])

    assert contracts.stream_contract(workspace, source, log_of(workspace, source)).names == ("at", "id", "v")
    assert [split.source_object.uri for split in searched] == ["data/f2.csv"]


COUNT = 8 if PROOFS else 3


@pytest.mark.proof
def test_any_number_of_columns_may_be_added_while_a_stream_runs(grown, streams):
    folder = grown()
    put(folder, "f00.csv", OLD)
    with streams.alive(streams.start(folder, "raw")):
        for number in range(COUNT):
            put(folder, f"f1{number}.csv", f"at,id,v,c{number}\n2024-01-01 00:00:0{number},1,1,x\n")
            wait_for(lambda rows=number + 2: count(streams, folder, "raw") == rows)

    assert streams.rows(folder, "raw", ", ".join(f"count(c{n})" for n in range(COUNT))) == [(1,) * COUNT]


@pytest.mark.proof
def test_rows_with_unexpected_values_are_quarantined_as_in_batch(grown, streams):
    folder = grown('new_columns="discard_row"')
    put(folder, "f1.csv", OLD)
    put(folder, "f2.csv", NEW + "4,,2,2024-01-01 00:10:01\n")
    streams.start(folder, until_caught_up=True).run()

    assert streams.rows(folder, "raw", "id") == [(1,), (4,)]
    holds(folder, streams)


def test_a_rejected_column_ends_the_stream_with_advice(grown, streams):
    folder = grown('new_columns="freeze"')
    put(folder, "f1.csv", OLD)
    put(folder, "f2.csv", NEW)

    with pytest.raises(SchemaError, match=r"new column 'b'; source\(…, new_columns=\"evolve\"\) adds new columns"):
        streams.start(folder, "raw", until_caught_up=True).run()

    grown('new_columns="evolve"')
    streams.start(folder, until_caught_up=True).run()
    assert streams.rows(folder, "raw", "id, b") == [(1, None), (2, "x")]


@pytest.mark.parametrize(("name", "rows"), [("raw", 1), ("by_minute", 0)])  # the window is still open
def test_a_frozen_type_ends_the_stream_before_its_commit(grown, streams, name, rows):
    options = 'schema={"at": "timestamp", "id": "bigint", "v": "bigint"}, new_types="freeze"'
    stored = ", stored=False" if name == "by_minute" else ""
    folder = grown(options + stored)
    put(folder, "f1.csv", OLD)
    streams.start(folder, name, until_caught_up=True).run()
    put(folder, "f2.csv", "at,id,v\n2024-01-01 00:10:00,2,x\n")

    with pytest.raises(SchemaError, match=r"a row does not match the contract: got column 'v' is not BIGINT: x"):
        streams.start(folder, name, until_caught_up=True).run()
    assert count(streams, folder, name) == rows


@pytest.mark.parametrize("name", ["raw", "named", "by_minute"])
def test_a_value_of_another_type_is_null_and_counted(grown, streams, name):
    stored = "" if name == "raw" else ", stored=False"
    options = f'schema={{"at": "timestamp", "id": "bigint", "v": "bigint"}}, new_types="discard_value"{stored}'
    folder = grown(options, TEXT.replace("where v > 0", "where v is null or v > 0"))
    put(folder, "f1.csv", OLD + "2024-01-01 00:00:01,2,x\n2024-01-01 00:00:02,3,4\n")
    put(folder, "f2.csv", "at,id,v\n2024-01-01 00:20:00,4,y\n2024-01-01 00:40:00,5,5\n")
    streams.start(folder, name, until_caught_up=True).run()

    workspace = streams.opened(folder)
    checks = {}
    for epoch in range(workspace.version(name).number + 1):
        for check, violations in workspace.table(name).version(epoch).manifest.checks.items():
            checks[check] = checks.get(check, 0) + violations
    assert checks["v_fits_its_type"] == 2
    if name != "by_minute":
        assert [v for _, v in streams.rows(folder, name, "id, v")] == [1, None, 4, None, 5]
    assert workspace.lake.quarantine(name).version() is None


@pytest.mark.proof
def test_state_of_a_star_is_rejected_and_can_be_rebuilt(grown, streams):
    text = TEXT.replace("import files", "import deduplicate, files")
    text += 'once = deduplicate("raw", key="id", event_time="at", within="1 hour")\n'
    folder = grown(text=text)
    put(folder, "f1.csv", OLD)
    streams.start(folder, until_caught_up=True).run()
    put(folder, "f2.csv", NEW)
    put(folder, "f3.csv", LAST)  # its time closes the windows of the earlier rows

    restarts = []
    with pytest.raises(StorageError, match=r"once' cannot resume.*headwater stream once --from earliest"):
        streams.start(folder, until_caught_up=True, on_restart=lambda name, words: restarts.append((name, words))).run()
    assert sum(name == "once" and "goes on" in words for name, words in restarts) <= 1

    streams.start(folder, "once", until_caught_up=True, begin="earliest").run()
    assert streams.rows(folder, "once", "id, b") == [(1, None), (2, "x")]


def count(streams, folder, name):
    version = streams.opened(folder).version(name)
    return 0 if version is None else version.rows


def wait_for(what):
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)
