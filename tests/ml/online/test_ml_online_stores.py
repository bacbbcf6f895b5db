"""One test suite for all online stores: the contract of `ml.features.online.store.FeatureStore`."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pytest

from ml.features.online import redis_store
from ml.features.online.opening import open_store
from ml.features.online.store import StoredValue, ViewState, schema_text
from pipeline.core.errors import ConflictError, SettingsError, SinkError, StorageError, StorageUnavailableError

SCHEMA = schema_text(pa.schema({"e": pa.string(), "t": pa.timestamp("us"), "x": pa.int64()}))
FIRST = ViewState("v", "f1", "g1", SCHEMA, ("e",), "t", '{"version": 1, "mark": 2}', 5, 6, 7)


@pytest.fixture
def store(address):
    with closing(address.open()) as opened:
        yield opened


def of(values):
    return {key: None if value is None else StoredValue(value) for key, value in values.items()}


def write(store, state, values, based_on=None, view="v"):
    with closing(store.begin(view, based_on, state.generation)) as writer:
        writer.put(of(values))
        writer.commit(state)


def read(store, *keys, view="v"):
    answer = store.read({view: list(keys)})[view]
    return answer.state, list(answer.values)


def test_an_empty_store_has_nothing(store):
    assert store.states() == {}
    assert read(store, b"a") == (None, [None])
    assert store.read({}) == {}


def test_a_file_that_another_process_is_creating_is_an_empty_store(tmp_path):
    with (
        closing(sqlite3.connect(tmp_path / "features.db")) as other,
        closing(open_store(f"sqlite:///{tmp_path}/features.db", "p", "dev")) as store,
    ):
        other.execute("pragma journal_mode = wal")
        assert store.states() == {}
        assert read(store, b"a") == (None, [None])
        write(store, FIRST, {b"a": b"1"})
        assert read(store, b"a") == (FIRST, [b"1"])


def test_values_are_shown_by_the_commit_with_the_state(store):
    with closing(store.begin("v", None, "g1")) as writer:
        writer.put(of({b"a": b"1", b"b": b"\x00\xff"}))
        assert writer.get([b"b", b"c"]) == [b"\x00\xff", None]
        assert read(store, b"a") == (None, [None])
        writer.commit(FIRST)
    assert read(store, b"b", b"c", b"a", b"b") == (FIRST, [b"\x00\xff", None, b"1", b"\x00\xff"])
    assert store.states() == {"v": FIRST}


def test_what_is_not_committed_changes_nothing(store, address):
    write(store, FIRST, {b"a": b"1", b"b": b"2"})
    with closing(store.begin("v", FIRST, "g1")) as writer:
        writer.put(of({b"a": b"3", b"b": None}))
    with closing(store.begin("v", FIRST, "g2")) as writer:
        writer.put(of({b"a": b"4"}))
    with closing(address.open()) as other:
        assert read(other, b"a", b"b") == (FIRST, [b"1", b"2"])


def test_a_change_replaces_and_removes_keys(store):
    write(store, FIRST, {b"a": b"1", b"b": b"2", b"": b"3"})
    second = replace(FIRST, position='{"version": 2, "mark": 3}')
    write(store, second, {b"a": None, b"b": b"4"}, based_on=FIRST)
    assert read(store, b"a", b"b", b"") == (second, [None, b"4", b"3"])


def test_a_new_generation_replaces_the_other_in_one_step(store, address):
    write(store, FIRST, {b"a": b"1", b"b": b"2"})
    with closing(address.open()) as other:
        assert read(other, b"a")[1] == [b"1"]
        second = replace(FIRST, generation="g2", fingerprint="f2")
        with closing(store.begin("v", FIRST, "g2")) as writer:
            writer.put(of({b"a": b"9"}))
            assert read(other, b"a", b"b") == (FIRST, [b"1", b"2"])
            writer.commit(second)
        assert read(other, b"a", b"b") == (second, [b"9", None])


def test_a_killed_load_leaves_nothing_behind(store):
    with closing(store.begin("v", None, "g0")) as writer:
        writer.put(of({b"a": b"1"}))
    write(store, FIRST, {b"b": b"2"})
    with closing(store.begin("v", None, "g0")) as writer:
        assert writer.get([b"a"]) == [None]


def test_values_are_removed_when_they_are_never_shown_again(store, address):
    """In Redis by the server, one minute later."""
    with closing(store.begin("v", None, "g1")) as writer:
        writer.put(
            {
                b"a": StoredValue(b"1", 5, 0),
                b"b": StoredValue(b"2", 6, 0),
                b"c": StoredValue(b"3", 9_000_006, 9_000_000),
                b"d": StoredValue(b"4"),
            }
        )
        writer.commit(FIRST)
    if address.url.startswith("sqlite"):
        assert read(store, b"a", b"b", b"c", b"d")[1] == [None, b"2", b"3", b"4"]
        return
    assert read(store, b"a", b"b", b"c", b"d")[1] == [b"1", b"2", b"3", b"4"]
    server = store._redis  # noqa: SLF001 - what remains is no part of a store
    left = [server.pttl(store._name("v", "g1", key)) for key in (b"a", b"c", b"d")]  # noqa: SLF001 - likewise
    assert 50_000 < left[0] <= 60_000 < left[1] <= 69_000
    assert left[2] == -1


def test_readers_see_all_of_a_version_or_nothing_while_it_is_written(store, address):
    """A version has one value for all keys; every third version is a new generation."""
    keys, wrong, reads, ends = [bytes([n]) for n in range(50)], [], [], threading.Event()

    def follow():
        with closing(address.open()) as reader:
            while not ends.is_set():
                state, values = read(reader, *keys)
                reads.append(state.written_at)
                if set(values) != {str(state.written_at).encode()}:
                    wrong.append((state, values))

    state = replace(FIRST, written_at=0)
    write(store, state, dict.fromkeys(keys, b"0"))
    threads = [threading.Thread(target=follow) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(1, 31):
        generation = f"g{number}" if number % 3 == 0 else state.generation
        following = replace(state, written_at=number, generation=generation)
        write(store, following, dict.fromkeys(keys, str(number).encode()), based_on=state)
        state = following
    ends.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(set(reads)) > 1


def test_the_second_of_two_writers_fails(store, address):
    write(store, FIRST, {b"a": b"1"})
    second = replace(FIRST, position='{"version": 2, "mark": 3}')
    with closing(address.open()) as other:
        write(other, second, {b"a": b"2"}, based_on=FIRST)
    with pytest.raises(ConflictError, match="another process has written this view"):
        write(store, replace(second, written_at=9), {b"a": b"3"}, based_on=FIRST)
    assert read(store, b"a") == (second, [b"2"])


def test_views_and_namespaces_do_not_see_each_other(store, address):
    other_view = replace(FIRST, view="w")
    write(store, FIRST, {b"a": b"1"})
    write(store, other_view, {b"a": b"2"}, view="w")
    with closing(open_store(address.url, address.project, "dev2")) as other:
        assert other.states() == {}
        write(other, FIRST, {b"a": b"3"})
        other.forget("v")
        assert read(other, b"a") == (None, [None])
    answers = store.read({"w": [b"a"], "v": [b"a", b"b"], "x": [b"a"]})
    assert {view: list(answer.values) for view, answer in answers.items()} == {
        "w": [b"2"],
        "v": [b"1", None],
        "x": [None],
    }
    store.forget("v")
    assert set(store.states()) == {"w"}
    assert read(store, b"a", view="w")[1] == [b"2"]


def test_a_later_format_is_rejected():
    text = replace(FIRST, format_version=9).to_json()
    with pytest.raises(
        StorageError, match=r"view 'v' of the online store was written by a later version.*got format 9"
    ):
        ViewState.from_json(text)


def test_a_large_change_in_redis_is_incomplete_until_its_commit(address, monkeypatch):
    if address.url.startswith("sqlite"):
        pytest.skip("SQLite has transactions of any size")
    monkeypatch.setattr(redis_store, "MOST_KEYS", 3)
    with closing(address.open()) as store:
        write(store, FIRST, {bytes([n]): b"1" for n in range(10)})
        assert store.states()["v"].reached is not None
        second = replace(FIRST, written_at=9)
        with closing(store.begin("v", FIRST, "g1")) as writer:
            writer.put(of({bytes([n]): b"2" for n in range(4)}))
        assert store.states()["v"].reached is None
        marked = store.states()["v"]
        with closing(store.begin("v", marked, "g1")) as writer:
            writer.put(of({bytes([n]): b"3" for n in range(4)}))
            writer.put(of({b"\x05": b"3"}))
            writer.commit(second)
        assert read(store, b"\x00", b"\x05", b"\x09") == (second, [b"3", b"3", b"1"])


def test_a_server_that_evicts_keys_is_rejected(valkey):
    with closing(open_store(f"redis://{valkey.host}:{valkey.port}/0", "evicting", "dev")) as store:
        server = store._redis  # noqa: SLF001 - the server's configuration is no part of a store
        server.config_set("maxmemory", "100mb")
        server.config_set("maxmemory-policy", "allkeys-lru")
        try:
            with pytest.raises(
                StorageError, match=r"removes keys when its memory is full.*got maxmemory-policy allkeys-lru"
            ):
                store.begin("v", None, "g1")
        finally:
            server.config_set("maxmemory", "0")
            server.config_set("maxmemory-policy", "noeviction")


def test_places_that_cannot_be_are_errors(tmp_path):
    with pytest.raises(
        SettingsError, match=r"there is no online store of this kind: got online = mysql://…; use sqlite:///FILE"
    ):
        open_store("mysql://me:secret@host/db", "p", "dev")
    with pytest.raises(
        SettingsError, match=r"cannot be in memory, because other processes read it; use sqlite:///FILE"
    ):
        open_store("sqlite:///:memory:", "p", "dev")
    with pytest.raises(SettingsError, match=r"`online` is not a URL of Redis"):
        open_store("redis://host:port/0", "p", "dev")
    with (
        closing(open_store("redis://127.0.0.1:1/0", "p", "dev")) as store,
        pytest.raises(StorageUnavailableError, match=r"the online store does not answer"),
    ):
        store.states()
    (tmp_path / "file").write_text("not a database, however long it may be " * 100)
    with closing(open_store(f"sqlite:///{tmp_path}/file", "p", "dev")) as store:
        with pytest.raises(StorageError, match=r"the online store .*file cannot be read"):
            store.states()
        with pytest.raises(SinkError, match=r"the online store .*file cannot be written"):
            store.begin("v", None, "g1")
