"""Replicas that share limits by a real Valkey: how much they grant together, and what happens when it fails."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.local.kafka.certificates import CertificateAuthority
from pipeline.core.errors import SettingsError
from serve import tables as tables_module
from serve.access import shared_cache
from serve.access.rate_limits import Charge, Limit
from serve.access.shared_limits import SharedLimits, largest_batch
from serve.access.shared_server import SharedServer
from tests.rigs.held_proxy import held_proxy
from tests.rigs.proofs import examples
from tests.rigs.streams import VALKEY, started, valkey_program
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - re-exported fixture
from tests.rigs.tls_proxy import tls_proxy
from tests.serve.conftest import open_cafe
from tests.serve.replicas import patient as patient  # noqa: PLC0414 - likewise
from tests.serve.replicas import replicas, share

SECRET = b"0123456789abcdef"


def url_of(server):
    return f"redis://{server.host}:{server.port}/0"


@pytest.fixture(scope="module")
def members(valkey):
    """Three replicas that count together."""
    servers = [SharedServer(url_of(valkey), "limits", SECRET, timeout_s=10) for _ in range(3)]
    yield [SharedLimits(server) for server in servers]
    for server in servers:
        server.close()


def new(name="requests", capacity=20, per_second=1e-6):
    return Limit(name, uuid.uuid4().hex, capacity, per_second)


CALLS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=60)


@settings(max_examples=examples(15, 300), deadline=None)
@given(calls=CALLS, capacity=st.integers(1, 30), quota=st.integers(1, 30))
def test_replicas_together_grant_what_one_would(members, calls, capacity, quota):
    bucket, day = new(capacity=capacity), new("day", quota, 0.0)
    granted = 0
    for replica, amount in calls:
        allowance = members[replica].take([Charge(bucket, amount), Charge(day, amount)])
        granted += amount if allowance.is_granted else 0
        assert granted <= min(capacity, quota)
    wanted = sum(amount for _, amount in calls)
    kept = len(members) * (max(largest_batch(bucket), largest_batch(day)) + 4)
    assert granted >= min(wanted, capacity - kept, quota - kept), "and no less, but for what replicas hold"
    assert all(each.counted_alone == 0 for each in members)


def hammer(url, caller, capacity, per_second, seconds):
    """Take for a while as often as possible; return the times of what was granted."""
    server = SharedServer(url, "hammered", SECRET, timeout_s=10)
    limits, charges = SharedLimits(server), [Charge(Limit("requests", caller, capacity, per_second), 1)]
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        allowance = limits.try_take(charges) or limits.take(charges)
        if allowance.is_granted:
            times.append(time.monotonic())
        else:
            time.sleep(0.001)
    server.close()
    return times, limits.counted_alone


def assert_bounded(grants, capacity, per_second, count):
    """In each interval, no more was granted than the bound of `shared_limits` says."""
    times = sorted(each for member, _ in grants for each in member)
    limit = Limit("requests", "x", capacity, per_second)
    more = count * (largest_batch(limit) + 2)  # one request of each may be between the server and its clock
    for first in range(0, len(times), max(1, len(times) // 300)):
        for last in range(first, len(times)):
            most = capacity + (times[last] - times[first]) * per_second + more
            assert last - first + 1 <= most, (first, last)
    assert [alone for _, alone in grants] == [0] * count


def test_in_each_interval_replicas_grant_at_most_the_bound(valkey):
    with ThreadPoolExecutor(3) as threads:
        asked = [url_of(valkey), uuid.uuid4().hex, 20, 100.0, 1.0]
        grants = [each.result() for each in [threads.submit(hammer, *asked) for _ in range(3)]]
    assert_bounded(grants, 20, 100.0, 3)
    assert 60 <= sum(len(times) for times, _ in grants) <= 20 + 100 * 1.5 + 36


@pytest.mark.proof
@pytest.mark.parametrize(("capacity", "per_second"), [(20, 100.0), (500, 5_000.0), (3, 1.5)])
def test_in_each_interval_processes_grant_at_most_the_bound(valkey, capacity, per_second):
    asked = [url_of(valkey), uuid.uuid4().hex, capacity, per_second, 6.0]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        grants = [each.get(120) for each in [pool.apply_async(hammer, asked) for _ in range(4)]]
    assert_bounded(grants, capacity, per_second, 4)
    assert sum(len(times) for times, _ in grants) >= 0.5 * (capacity + 6.0 * per_second)


def test_most_requests_ask_no_server(valkey):
    server = SharedServer(url_of(valkey), "batches", SECRET, timeout_s=10)
    limits, charges = SharedLimits(server), [Charge(new(capacity=100_000, per_second=100_000.0), 1)]
    asked = 0
    for _ in range(20_000):
        if limits.try_take(charges) is None:
            asked += 1
            assert limits.take(charges).is_granted
    server.close()
    assert asked < 100


def test_a_refusal_asks_no_server_until_there_is_more(members):
    charges = [Charge(new(capacity=1, per_second=0.01), 1)]
    assert members[0].take(charges).is_granted
    refused = members[1].take(charges)
    assert (refused.is_granted, round(refused.retry_after_s)) == (False, 100)
    assert members[1].try_take(charges) == refused or not members[1].try_take(charges).is_granted


def test_a_debt_at_one_replica_is_one_at_all(members):
    limit = new(capacity=10, per_second=0.01)
    assert members[0].take([Charge(limit, 1)]).is_granted
    members[0].charge([Charge(limit, 1_000)])
    end = time.monotonic() + 10
    while members[1].take([Charge(limit, 1)]).is_granted:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_another_secret_shares_nothing_and_says_so(valkey):
    servers = [SharedServer(url_of(valkey), "secrets", SECRET + tail, timeout_s=10) for tail in (b"a", b"b")]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.close)
            server.watch("versions", lambda _: None)
        end = time.monotonic() + 10
        while not any(server.has_other_secret for server in servers):
            assert time.monotonic() < end
            time.sleep(0.02)
    assert servers[0].name("limit", "a") != servers[1].name("limit", "a")
    assert b"key abc" not in servers[0].name("limit", "requests", "key abc")
    sealed = servers[0].sealed(b"name", b"rows")
    assert servers[0].opened(b"name", sealed) == b"rows"
    assert servers[1].opened(b"name", sealed) is None
    assert servers[0].opened(b"other", sealed) is None
    assert [servers[0].opened(b"name", sealed[:cut]) for cut in (0, 5, 32, len(sealed) - 1)] == [None] * 4


def test_over_tls_and_over_a_socket(tmp_path, valkey):
    authority, charges = CertificateAuthority(tmp_path), [Charge(new(capacity=10), 1)]
    with tls_proxy(valkey.port, authority.issue("server", ("127.0.0.1",))) as port:
        for words, is_trusted in ((f"?ssl_ca_certs={authority.file}", True), ("", False)):
            server = SharedServer(f"rediss://127.0.0.1:{port}/0{words}", "tls", SECRET, timeout_s=10)
            limits = SharedLimits(server)
            assert limits.take(charges).is_granted
            assert (limits.counted_alone, server.is_up) == ((0, True) if is_trusted else (1, False))
            server.close()
    path = tmp_path / "valkey.sock"
    with started([valkey_program(), *VALKEY, "--unixsocket", str(path)]):
        server = SharedServer(f"unix://{path}?db=1", "socket", SECRET, timeout_s=10)
        limits = SharedLimits(server)
        assert limits.take(charges).is_granted
        assert limits.counted_alone == 0
        server.close()


def test_a_url_that_is_none_is_an_error():
    with pytest.raises(SettingsError, match=r"'serve\.redis_url' is not a URL of Redis: got "):
        SharedServer("redis://host:port/x", "x", SECRET)


@pytest.mark.usefixtures("patient")
def test_limits_are_those_of_all_replicas(tmp_path, valkey):
    cafe = open_cafe(tmp_path)
    share(cafe, valkey.port, "cafe limits")
    file = cafe.root / "headwater.toml"
    file.write_text(
        file.read_text().replace("requests_per_second = 10000\nburst = 10000", "requests_per_second = 0.01\nburst = 6")
    )
    with replicas(cafe) as clients:
        statuses = [clients[number % 2].get("/v1/tables/guests").status_code for number in range(8)]
        assert statuses == [200] * 6 + [429] * 2
        with cafe.client() as other:
            assert other.get("/v1/tables/guests").status_code == 200


@pytest.mark.usefixtures("patient")
def test_guessed_sessions_are_limited_by_address(tmp_path, valkey):
    """A replica counts guesses itself, also if requests are counted with others: each would be looked up in the catalog."""
    cafe = open_cafe(tmp_path)
    share(cafe, valkey.port, "cafe guesses")
    file = cafe.root / "headwater.toml"
    text = file.read_text().replace("burst = 10000", "burst = 6")
    file.write_text(text.replace("anonymous_requests_per_second = 10000", "anonymous_requests_per_second = 0.01"))
    with replicas(cafe) as clients:
        client = clients[0]
        del client.headers["Authorization"]
        details = [client.get("/v1/tables", headers={"Cookie": f"headwater-session={n:043}"}) for n in range(9)]
        assert details[-1].status_code == 429
        assert details[-1].json()["detail"] == "there are too many requests without a valid key"


@pytest.mark.usefixtures("patient")
def test_a_new_version_is_told_to_other_replicas(tmp_path, valkey, monkeypatch):
    monkeypatch.setattr(tables_module, "FRESH_S", 600.0)
    cafe = open_cafe(tmp_path)
    share(cafe, valkey.port, "cafe versions")
    with replicas(cafe) as clients:
        first, second = (client.app.state.backend.tables for client in clients)
        path = "/v1/tables/cafe_orders?select=count()"
        before = [client.get(path).json()["version"] for client in clients]
        cafe.add("more", "6,2026-01-08,2026-01-08T12:00:00Z,New,1,2.00,,false\n")
        cafe.run()
        assert [client.get(path).json()["version"] for client in clients] == before, "they read once in ten minutes"
        first.expect("cafe_orders", "another")  # as if its ten minutes were over
        time.sleep(0.02)
        told_at = time.monotonic()
        assert clients[0].get(path).json()["version"] > before[0]
        while clients[1].get(path).json()["version"] == before[1]:
            assert time.monotonic() < told_at + 10
            time.sleep(0.002)
        assert second.known("cafe_orders") == first.known("cafe_orders")


@pytest.mark.parametrize("fault", ["killed", "slow"])
def test_a_server_that_fails_fails_no_request(tmp_path, fault, monkeypatch):
    monkeypatch.setattr(shared_cache, "LEAST_S", 0.0)
    cafe = open_cafe(tmp_path)
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        server = running.enter_context(started([valkey_program(), *VALKEY]))
        proxy = stack.enter_context(held_proxy(server.port))
        share(cafe, proxy.port, "cafe faults")
        clients = stack.enter_context(replicas(cafe))
        answers, stop = [], threading.Event()

        def ask(client):
            for number in itertools.count():
                if stop.is_set():
                    return
                begin = time.monotonic()
                status = client.get(f"/v1/tables/guests?limit={1 + number // 3}").status_code
                answers.append((status, begin, time.monotonic() - begin))

        threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        try:
            time.sleep(0.3)
            if fault == "killed":
                running.close()
            else:
                proxy.passes.clear()
            time.sleep(0.8)
            shared = [client.get("/health").json()["shared"] for client in clients]
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert {status for status, _, _ in answers} == {200}
        assert [each["is_shared"] for each in shared] == [False, False]
        assert min(each["counted_alone"] for each in shared) > 0
        assert max(seconds for _, _, seconds in answers) < 3.0
        if fault == "slow":
            proxy.passes.set()
        else:
            running.enter_context(started([valkey_program(), *VALKEY], server.port))
        end = time.monotonic() + 20
        while not all(client.get("/health").json()["shared"]["is_shared"] for client in clients):
            assert time.monotonic() < end
            time.sleep(0.1)


def test_without_a_server_limits_hold_all_the_same(tmp_path):
    cafe = open_cafe(tmp_path)
    share(cafe, 1, "cafe alone")  # nothing listens there
    file = cafe.root / "headwater.toml"
    file.write_text(
        file.read_text().replace("requests_per_second = 10000\nburst = 10000", "requests_per_second = 0.01\nburst = 3")
    )
    with replicas(cafe, 1) as [client]:
        statuses = [client.get("/v1/tables/guests").status_code for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
    with cafe.client() as client:
        health = client.get("/health").json()
    assert (health["status"], health["shared"]["is_shared"]) == ("degraded", False)
    assert "the Redis server does not answer: each replica counts and computes alone" in health["reasons"]
