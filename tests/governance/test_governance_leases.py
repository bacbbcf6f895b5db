from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import sqlalchemy as sa

from pipeline.core.errors import ConflictError, RequestError, StorageError
from pipeline.governance import Catalog, DesiredState, Leases, StreamRequest, this_process
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


def test_lease_has_one_holder_until_it_expires(leases, clock):
    first, second = this_process(), this_process()
    leases.acquire("delays", first)
    with pytest.raises(
        ConflictError, match=r"stream 'delays' is already running: got process \d+ on .*, since 1970-01-12"
    ):
        leases.acquire("delays", second)
    clock.now += LASTS_S - 1
    assert leases.renew(first, {"delays": {"status": "running"}}) == {"delays": StreamRequest()}
    clock.now += LASTS_S - 1
    with pytest.raises(ConflictError, match="stop it with"):
        leases.acquire("delays", second)
    clock.now += 2
    leases.acquire("delays", second)
    assert leases.renew(first, {"delays": {}}) == {"delays": None}
    assert leases.get("delays").holder == second.token


def test_released_lease_is_free_and_keeps_its_last_status(leases):
    first = this_process()
    leases.acquire("delays", first)
    leases.release("delays", first, {"status": "ended", "epoch": 7})
    assert leases.get("delays").facts == {"status": "ended", "epoch": 7}
    leases.acquire("delays", this_process())


@pytest.mark.parametrize("is_looked_after", [True, False])
def test_lease_of_a_dead_process_is_free(leases, is_looked_after):
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


def test_lease_of_a_process_on_another_machine_is_kept(leases):
    leases.acquire("delays", replace(this_process(), machine="elsewhere", host="far"))
    with pytest.raises(ConflictError, match="on far"):
        leases.acquire("delays", this_process())


def test_lease_that_was_taken_over_is_lost(leases):
    first, second = this_process(), this_process()
    leases.acquire("delays", first)
    leases.acquire("delays", second, take_over=True)
    assert leases.renew(first, {"delays": {}}) == {"delays": None}
    leases.release("delays", first, {"status": "failed"})
    assert leases.get("delays").holder == second.token, "a process that lost the lease does not release it"
    with pytest.raises(ConflictError):
        leases.acquire("delays", this_process())


def test_renewal_returns_the_desired_state(leases):
    me = this_process()
    with pytest.raises(RequestError, match="stream 'delays' is not running; start it"):
        leases.request("delays", DesiredState.PAUSE)
    leases.acquire("delays", me)
    leases.request("delays", DesiredState.PAUSE)
    assert leases.renew(me, {"delays": {"status": "running"}}) == {"delays": StreamRequest(DesiredState.PAUSE)}
    leases.release("delays", me, {})
    leases.acquire("delays", me)
    assert leases.renew(me, {"delays": {}}) == {"delays": StreamRequest()}, (
        "a desired state is for the holder at the time of the request"
    )


def test_renewal_recreates_a_lease_that_was_deleted(url, leases):
    me = this_process()
    leases.acquire("delays", me)
    with sa.create_engine(url).begin() as connection:
        connection.execute(sa.text("delete from leases"))
    assert leases.renew(me, {"delays": {"status": "running"}}) == {"delays": StreamRequest()}
    assert leases.get("delays").facts == {"status": "running"}


def test_one_of_twenty_concurrent_processes_gets_the_lease(url):
    def attempt(_: int) -> bool:
        try:
            Leases(Catalog(url)).acquire("delays", this_process())
        except ConflictError:
            return False
        return True

    Leases(Catalog(url)).all()
    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(attempt, range(20))) == 1


def test_unusable_catalog_is_an_error(tmp_path):
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(StorageError, match="cannot be used"):
        Leases(Catalog(f"sqlite:///{tmp_path}/catalog.db")).all()


def test_a_requested_number_of_shards_and_a_state_are_kept_together(leases):
    me = this_process()
    leases.acquire("delays", me)
    leases.request("delays", shards=3)
    assert leases.renew(me, {"delays": {}}) == {"delays": StreamRequest(DesiredState.RUN, 3)}
    leases.request("delays", DesiredState.PAUSE)
    assert leases.get("delays").request == StreamRequest(DesiredState.PAUSE, 3)
    leases.release("delays", me, {})
    leases.acquire("delays", this_process())
    assert leases.get("delays").request == StreamRequest(), "a request ends with the process that it was for"


@pytest.mark.parametrize(
    "request_", [StreamRequest(state, shards) for state in DesiredState for shards in (None, 1, 12)]
)
def test_requests_survive_being_stored(request_):
    assert StreamRequest.from_text(request_.to_text()) == request_
