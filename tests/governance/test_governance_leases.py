from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.governance import Catalog, DesiredState, Leases, this_process
from pipeline.governance.leases import LASTS_S


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def url(tmp_path) -> str:
    return f"sqlite:///{tmp_path}/catalog.db"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(url, clock) -> Leases:
    return Leases(Catalog(url), clock=clock)


def test_a_lease_is_one_holders_until_it_runs_out(leases, clock):
    first, second = this_process(), this_process()
    leases.acquire("delays", first)
    with pytest.raises(
        ConflictError, match=r"stream 'delays' is already running: got process \d+ on .*, since 1970-01-12"
    ):
        leases.acquire("delays", second)
    clock.now += LASTS_S - 1
    assert leases.renew(first, {"delays": {"status": "running"}}) == {"delays": "run"}
    clock.now += LASTS_S - 1
    with pytest.raises(ConflictError, match="stop it with"):
        leases.acquire("delays", second)
    clock.now += 2
    leases.acquire("delays", second)
    assert leases.renew(first, {"delays": {}}) == {"delays": None}
    assert leases.get("delays").holder == second.token


def test_a_lease_is_free_once_it_is_given_back_and_keeps_the_last_word(leases):
    first = this_process()
    leases.acquire("delays", first)
    leases.release("delays", first, {"status": "ended", "epoch": 7})
    assert leases.get("delays").facts == {"status": "ended", "epoch": 7}
    leases.acquire("delays", this_process())


@pytest.mark.parametrize("is_looked_after", [True, False])
def test_a_lease_is_free_when_its_process_is_gone(leases, is_looked_after):
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    process.stdout.read()
    if is_looked_after:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    leases.acquire("delays", replace(this_process(), pid=process.pid))
    leases.acquire("delays", this_process())
    assert leases.get("delays").pid == os.getpid()
    process.stdout.close()
    process.wait()


def test_of_a_process_on_another_machine_nothing_is_known(leases):
    leases.acquire("delays", replace(this_process(), machine="elsewhere", host="far"))
    with pytest.raises(ConflictError, match="on far"):
        leases.acquire("delays", this_process())


def test_a_lease_that_was_taken_over_is_lost(leases):
    first, second = this_process(), this_process()
    leases.acquire("delays", first)
    leases.acquire("delays", second, take_over=True)
    assert leases.renew(first, {"delays": {}}) == {"delays": None}
    leases.release("delays", first, {"status": "failed"})
    assert leases.get("delays").holder == second.token, "who lost it does not give it back"
    with pytest.raises(ConflictError):
        leases.acquire("delays", this_process())


def test_a_desired_state_is_heard_by_who_renews(leases):
    me = this_process()
    with pytest.raises(RequestError, match="stream 'delays' is not running; start it"):
        leases.request("delays", DesiredState.PAUSE)
    leases.acquire("delays", me)
    leases.request("delays", DesiredState.PAUSE)
    assert leases.renew(me, {"delays": {"status": "running"}}) == {"delays": "pause"}
    leases.release("delays", me, {})
    leases.acquire("delays", me)
    assert leases.renew(me, {"delays": {}}) == {"delays": "run"}, "a wish is for who ran it then"


def test_a_catalog_that_was_made_anew_gets_the_lease_again(url, leases):
    me = this_process()
    leases.acquire("delays", me)
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("delete from leases"))
    assert leases.renew(me, {"delays": {"status": "running"}}) == {"delays": "run"}
    assert leases.get("delays").facts == {"status": "running"}


def test_of_twenty_at_once_one_gets_it(url):
    def attempt(_: int) -> bool:
        try:
            Leases(Catalog(url)).acquire("delays", this_process())
        except ConflictError:
            return False
        return True

    Leases(Catalog(url)).all()
    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


def test_a_catalog_that_cannot_be_used(tmp_path):
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        Leases(Catalog(f"sqlite:///{tmp_path}/catalog.db")).all()
