"""Reuse of DuckDB instances: users are isolated from each other, and no stale data is read."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.kernel import pool
from pipeline.kernel.engine import connect
from pipeline.kernel.pool import DATABASE, Limits, configure
from tests.rigs.proofs import examples

ONE = Limits(threads=1)
LEFT = {
    "table": "create table t as select 1 as a",
    "temporary table": "create temp table t as select 1 as a",
    "view": "create view t as select 1 as a",
    "temporary view": "create temp view t as select 1 as a",
    "macro": "create macro t() as table select 1 as a",
    "schema": "create schema t; create table t.t as select 1 as a",
    "open transaction": "begin; create table t as select 1 as a",
    "profile": "pragma enable_profiling = 'no_output'; create table t as select 1 as a",
}


@pytest.fixture(autouse=True)
def _no_idle_instances():
    pool.close_idle()
    yield
    pool.close_idle()


def instance_of(con):
    return pool._used[id(con)]  # noqa: SLF001 - the test checks the identity of the instance


@pytest.mark.parametrize("what", LEFT)
def test_objects_of_the_previous_user_are_removed(what):
    with connect(ONE) as con:
        con.execute(LEFT[what])
        first = instance_of(con)
    with connect(ONE) as con:
        assert instance_of(con) is first
        for relation in ("t", "t()", "t.t", f"{DATABASE}.main.t"):
            with pytest.raises(duckdb.Error, match=r"does not exist|not found"):
                con.execute(f"from {relation}")
        assert con.execute("select count(*) from duckdb_tables()").fetchone() == (0,)
        assert con.execute("select current_setting('enable_profiling')").fetchone() == (None,)


def test_registered_tables_of_the_previous_user_are_removed():
    with connect(ONE) as con:
        con.register("rows_here", pa.table({"a": [1]}))
        assert con.execute("from rows_here").fetchall() == [(1,)]
    with connect(ONE) as con, pytest.raises(duckdb.CatalogException):
        con.execute("from rows_here")


def test_changed_settings_are_reset():
    names = ("disabled_optimizers", "preserve_insertion_order", "partitioned_write_max_open_files")
    query = "select " + ", ".join(f"current_setting('{name}')" for name in names)
    with connect(ONE) as con:
        before = con.execute(query).fetchone()
        configure(con, "disabled_optimizers", "'statistics_propagation'")
        configure(con, "preserve_insertion_order", "false")
        configure(con, "partitioned_write_max_open_files", 7)
        assert con.execute(query).fetchone() != before
    with connect(ONE) as con:
        assert con.execute(query).fetchone() == before


def test_an_instance_has_one_user_at_a_time():
    with connect(ONE) as first, connect(ONE) as second:
        assert instance_of(first) is not instance_of(second)
        first.execute("create table t as select 1 as a")
        with pytest.raises(duckdb.CatalogException):
            second.execute("from t")


def test_concurrent_users_are_isolated():
    wrong = []

    def work(number):
        for attempt in range(20):
            with connect(ONE) as con:
                con.execute(f"create table mine as select {number} as n, {attempt} as t")
                if con.execute("from mine").fetchall() != [(number, attempt)]:
                    wrong.append((number, attempt))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(pool._idle) <= pool.MAX_IDLE  # noqa: SLF001


LIMITS = (Limits(), Limits(threads=1), Limits(memory_bytes=300 << 20), Limits(1 << 30, 2), Limits(), ONE)


def settings_of(con):
    return con.execute("select current_setting('threads'), current_setting('memory_limit')").fetchone()


def test_an_idle_instance_gets_the_limits_of_its_next_user():
    expected = []
    for limits in LIMITS:
        with connect(limits, keep=False) as con:
            expected.append(settings_of(con))
    assert len(set(expected)) == 4
    with connect(LIMITS[-1]) as con:
        first = instance_of(con)
    for limits, known in zip(LIMITS, expected, strict=True):
        with connect(limits) as con:
            assert instance_of(con) is first
            assert settings_of(con) == known


def test_an_instance_with_the_same_limits_is_preferred():
    with connect(ONE) as one, connect(Limits(threads=2)) as two:
        expected = instance_of(one), instance_of(two)
    for _ in range(2):
        with connect(Limits(threads=2)) as two, connect(ONE) as one:
            assert (instance_of(one), instance_of(two)) == expected


def test_a_query_of_the_catalog_uses_an_idle_instance_and_creates_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_TMP", str(tmp_path / "tmp"))
    assert pool.catalog_rows("select 1") == [(1,)]
    assert not (tmp_path / "tmp").exists()
    (idle,) = pool._idle  # noqa: SLF001
    with connect(Limits(1 << 30, 2)) as con:
        assert instance_of(con) is idle
        folder = con.execute("select current_setting('temp_directory')").fetchone()[0]
        assert folder.startswith(str(tmp_path / "tmp"))


def test_an_instance_that_is_not_kept_is_closed():
    with connect(ONE, keep=False) as con:
        con.execute("create table t as select 1 as a; set lock_configuration = true")
    with pytest.raises(duckdb.ConnectionException):
        con.execute("select 1")
    with connect(ONE) as con:
        con.execute("set enable_progress_bar = true")


def test_an_instance_that_spilled_is_not_used_again_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADWATER_TMP", str(tmp_path))
    small = Limits(memory_bytes=64 << 20, threads=1)
    with connect(small) as con:
        con.execute("create temp table t as select range as i, repeat('x', 90) || range as s from range(2_000_000)")
        first = instance_of(con)
        assert any(path.is_file() for path in tmp_path.rglob("*"))
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    with connect(small) as con:
        assert instance_of(con) is not first
        assert con.execute("select 1").fetchone() == (1,)


def test_each_user_has_its_own_spill_folder(tmp_path, monkeypatch):
    """A project is removed and recreated in one process."""
    for name in ("a", "b"):
        monkeypatch.setenv("HEADWATER_TMP", str(tmp_path / name))
        with connect(ONE) as con:
            assert (
                con.execute("select current_setting('temp_directory')").fetchone()[0].startswith(str(tmp_path / name))
            )


def test_after_an_error_and_after_an_interrupt_the_next_user_works():
    with pytest.raises(duckdb.ConversionException), connect(ONE) as con:
        con.execute("begin; create table t as select 'x'::integer")
    with connect(ONE) as con:
        con.execute("create table t as select 1 as a")
    with connect(ONE) as con:
        threading.Timer(0.2, con.interrupt).start()
        with pytest.raises(duckdb.InterruptException):
            con.execute("select count(*) from range(100_000_000_000)")
    with connect(ONE) as con:
        assert con.execute("select 1").fetchone() == (1,)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_does_not_use_an_instance_of_its_parent():
    with connect(ONE):
        pass
    key = pool._idle[-1].key  # noqa: SLF001
    pid = os.fork()
    if pid == 0:
        os._exit(0 if pool._reused(pool._Key(None, os.getpid()), ONE, "/tmp") is None else 1)  # noqa: S108, SLF001
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert key.process == os.getpid()


@settings(max_examples=examples(5, 40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    versions=st.lists(
        st.tuples(st.sampled_from([3, 3, 5000]), st.sampled_from("ab"), st.booleans()), min_size=2, max_size=8
    )
)
def test_a_rewritten_file_is_reread(tmp_path: Path, versions):
    """A retried task overwrites its files, so an instance must not use cached metadata of the previous file."""
    path = tmp_path / "a.parquet"
    for number, (rows, letter, same_time) in enumerate(versions):
        pq.write_table(pa.table({"n": [number] * rows, "s": [letter] * rows}), path)
        if same_time:
            os.utime(path, ns=(10**18, 10**18))
        with connect(ONE) as con:
            row = con.execute(f"select min(n), max(n), count(*), min(s) from read_parquet('{path}')").fetchone()
        assert row == (number, number, rows, letter)
