"""Leases of runs: one process at a time computes a table, and nobody waits for a run that was killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
import sqlalchemy as sa

from pipeline.core.errors import ConflictError
from pipeline.governance import Catalog, Leases
from pipeline.governance import run_leases as module
from pipeline.governance.leases import LASTS_S
from pipeline.governance.run_leases import RunLease, holding
from pipeline.project.project import load
from tests.rigs.command import environment
from tests.rigs.postgres import PostgresDatabase
from tests.rigs.postgres import postgres as postgres  # noqa: PLC0414 - the fixture
from tests.rigs.proofs import some

FIRST = RunLease("a", "s3://lake", ["raw", "orders"])
SECOND = RunLease("b", "s3://lake", ["orders", "sales"])


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.proof)])
def catalog(request, tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.db"
    if request.param != "sqlite":
        database = PostgresDatabase(request.getfixturevalue("postgres"))
        url = database.url.replace("postgresql:", "postgresql+psycopg:")
    with closing(Catalog(url)) as catalog:
        yield catalog


def test_a_second_run_of_a_table_says_who_computes_it(catalog):
    with holding(catalog, FIRST, clock=lambda: 1e6):
        with (
            pytest.raises(
                ConflictError,
                match=r"another run computes 'orders': got process \d+ on .*, since 1970-01-12 13:46:40 UTC; .*--wait",
            ),
            holding(catalog, SECOND, clock=lambda: 1e6 + 1),
        ):
            pass
        for other in (replace(SECOND, tables=["sales"]), replace(SECOND, lake="s3://other")):
            with holding(catalog, other, clock=lambda: 1e6 + 1):
                pass
        assert Leases(catalog).all() == ()  # it has no stream
    with holding(catalog, SECOND, clock=lambda: 1e6 + 2):
        pass


def held(catalog):
    """The names of the leases of runs."""
    with catalog.transaction() as connection:
        return connection.execute(sa.text("select name from leases order by name")).scalars().all()


class CountingClock:
    """A clock that moves by hand. It tells when renewals have been completed, each of which asks for the time once."""

    def __init__(self):
        self.now = 1e6
        self._asked = threading.Semaphore(0)

    def __call__(self):
        self._asked.release()
        return self.now

    def wait_for_renewal(self):
        """Wait for a renewal that began after this call: until the next but one begins."""
        while self._asked.acquire(blocking=False):
            pass
        for _ in range(2):
            assert self._asked.acquire(timeout=20)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    return CountingClock()


def test_a_lease_that_is_not_renewed_expires(catalog):
    with holding(catalog, FIRST, clock=lambda: 1e6):
        at_the_end = 1e6 + LASTS_S
        with pytest.raises(ConflictError), holding(catalog, SECOND, clock=lambda: at_the_end - 1):
            pass
        with holding(catalog, SECOND, clock=lambda: at_the_end + 1):
            assert held(catalog) == ["run b"]
    assert held(catalog) == []


def test_a_lease_is_renewed_while_its_run_lasts(catalog, clock):
    with holding(catalog, FIRST, clock=clock):
        clock.now += LASTS_S + 1
        clock.wait_for_renewal()
        with pytest.raises(ConflictError, match="'orders'"), holding(catalog, SECOND, clock=lambda: clock.now):
            pass
        assert held(catalog) == ["run a"]


def test_a_lease_that_was_removed_is_added_again(catalog, clock):
    with holding(catalog, FIRST, clock=clock):
        with catalog.transaction() as connection:
            connection.execute(sa.text("delete from leases"))
        clock.wait_for_renewal()
        assert held(catalog) == ["run a"]
        with pytest.raises(ConflictError, match="'orders'"), holding(catalog, SECOND, clock=lambda: clock.now):
            pass


def test_the_lease_of_a_killed_process_ends_at_once(catalog):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with ExitStack() as stack:
        stack.enter_context(holding(catalog, FIRST))
        with catalog.transaction() as connection:
            connection.execute(sa.text("update leases set pid = :pid"), {"pid": ended.pid})
        stack.enter_context(holding(catalog, SECOND))
        assert held(catalog) == ["run b"]


def test_a_run_waits_for_another_and_not_longer_than_it_may(catalog):
    said: list[str] = []
    begun = threading.Event()

    def other() -> None:
        with holding(catalog, FIRST):
            begun.set()
            time.sleep(0.3)

    thread = threading.Thread(target=other)
    thread.start()
    begun.wait()
    with holding(catalog, SECOND, wait_s=20, on_wait=lambda error: said.append(error.problem)):
        assert said == ["another run computes 'orders'"]
    thread.join()
    with holding(catalog, FIRST):
        start = time.monotonic()
        with pytest.raises(ConflictError), holding(catalog, SECOND, wait_s=0.1):
            pass
        assert time.monotonic() - start < 5


def test_a_run_survives_a_catalog_that_does_not_answer_any_more(catalog, clock, caplog):
    with holding(catalog, FIRST, clock=clock):
        with catalog.transaction() as connection:
            connection.execute(sa.text("drop table leases"))
        clock.wait_for_renewal()
        clock.wait_for_renewal()
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "the lease of the run cannot be renewed now",
        "the lease of the run was not released: it expires",
    ]


def test_runs_begin_at_the_same_time_and_one_of_them_goes_on(catalog):
    """Each thread is another process as far as the catalog is concerned."""
    outcomes: list[bool] = []
    start, end = threading.Barrier(4), threading.Barrier(4)

    def run(number: int) -> None:
        start.wait()
        try:
            with holding(catalog, replace(FIRST, run_id=str(number))):
                outcomes.append(True)
                end.wait()
        except ConflictError:
            outcomes.append(False)
            end.wait()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False, False, False, True]


def test_commands_hold_leases(tmp_path, headwater_command):
    (tmp_path / "headwater.toml").write_text('[project]\nname = "p"\ndefinitions = "p.py"\n')
    (tmp_path / "p.py").write_text(
        "from pipeline import generate, source, sql\n"
        'raw = source(generate({"id": "i", "day": "i % 2"}, count=4), schema={"id": "bigint", "day": "bigint"})\n'
        'other = sql("select id from raw")\n'
        'days = sql("select id, day from raw", partition_by="day")\n'
    )

    def run(*words):
        done = headwater_command.run(*words, cwd=tmp_path, env=environment(), timeout=60)
        return done.returncode, done.stdout + done.stderr

    assert run("run", "--no-summary")[0] == 0
    project = load(tmp_path)
    catalog = Catalog(project.settings.catalog)
    with holding(catalog, RunLease("x", project.settings.lake, ["days"])):
        code, shown = run("run", "--wait", "1s")
        assert code == 1
        assert "waiting: another run computes 'days' (process " in shown
        assert "error: another run computes 'days': got process " in shown
        others = [
            ("backfill", "days"),
            ("quarantine", "replay", "days"),
            ("lake", "restore", "days", "--to", "0", "--yes"),
        ]
        for words in some(others, 1):
            assert "error: another run computes 'days'" in run(*words)[1]
        assert run("run", "--select", "other", "--no-summary")[0] == 0
    with catalog.transaction() as connection:
        assert connection.execute(sa.text("select count(*) from leases")).scalar_one() == 0
