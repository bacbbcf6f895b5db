"""Responses that replicas share by a real Valkey: found, computed once, and never another's."""

from __future__ import annotations

import itertools
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from serve.access import shared_cache, shared_server
from serve.access.shared_state import deployment_of
from serve.queries.engine import Engine
from tests.rigs.proofs import SEED, examples
from tests.rigs.streams import valkey as valkey  # noqa: PLC0414 - re-exported fixture
from tests.serve.conftest import open_cafe
from tests.serve.replicas import patient as patient  # noqa: PLC0414 - likewise
from tests.serve.replicas import replicas, share
from tests.serve.test_serve_access import ROWS, make, sent

pytestmark = pytest.mark.usefixtures("patient", "always")
FROM_REPLICAS, FROM_MEMORY = "headwater; hit; detail=replicas", "headwater; hit"
numbers = itertools.count()


@pytest.fixture
def always(monkeypatch):
    """Also what is computed at once is shared."""
    monkeypatch.setattr(shared_cache, "LEAST_S", 0.0)


@pytest.fixture
def redis(valkey):
    """A client of the server, which is empty."""
    with Redis(host=valkey.host, port=valkey.port) as redis:
        redis.flushall()
        yield redis


@pytest.fixture(scope="module")
def cafe(tmp_path_factory, valkey):
    cafe = open_cafe(tmp_path_factory.mktemp("cafe"))
    share(cafe, valkey.port, "cafe cache")
    return cafe


@pytest.fixture(scope="module")
def pair(cafe):
    """Two replicas that are not changed, and patient: they are made before what a single test patches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_server, "TIMEOUT_S", 10.0)
        with replicas(cafe) as clients:
            yield clients


def state(client):
    return client.app.state.backend.shared


def settle(*clients):
    """Wait until what replicas write is written."""
    end = time.monotonic() + 20
    for client in clients:
        while state(client).server._waiting:  # noqa: SLF001 - tests only
            assert time.monotonic() < end
            time.sleep(0.002)


def kept(client, path, headers=None):
    """A response that a replica was asked for twice, so that it is kept."""
    for _ in range(2):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
    settle(client)
    return answer


def path_of(**more):
    """A path that was not asked for before, with all rows of the guests."""
    words = "&".join(f"{name}={value}" for name, value in more.items())
    return f"/v1/tables/guests?limit={1_000 + next(numbers)}&{words}"


def came_from(answer):
    return answer.headers.get("cache-status")


def test_a_replica_finds_the_response_of_another(pair, redis):
    first, second = pair
    path = path_of()
    answer = kept(first, path)
    hits = state(second).cache.hits
    found = second.get(path)
    assert (found.content, found.headers["etag"], came_from(found)) == (
        answer.content,
        answer.headers["etag"],
        FROM_REPLICAS,
    )
    assert found.headers["content-type"] == answer.headers["content-type"]
    again = second.get(path)
    assert (again.content, came_from(again)) == (answer.content, FROM_MEMORY), "and keeps it"
    unchanged = second.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    report = second.get("/health").json()["shared"]["cache"]
    assert (report["hits"], report["rejected"]) == (hits + 1, 0)
    for name in redis.scan_iter():
        assert b"guests" not in name
        assert b"1000" not in name


def test_what_is_not_kept(pair, redis):
    first, second = pair
    once = path_of()
    assert first.get(once).status_code == 200
    settle(first)
    version = first.get(once).json()["version"]
    for path in (path_of(version=version), path_of(order="nothing"), "/v1/tables/nothing"):
        for _ in range(3):
            first.get(path)
    settle(first)
    names = [each for each in redis.scan_iter() if b":response:" in each and each.count(b":") == 3]
    assert len(names) == 1, "neither versions that are named, which may be removed, nor errors"
    assert not [each for each in redis.scan_iter() if each.endswith((b":lock", b":wanted"))]
    alone = path_of()
    assert first.get(alone).status_code == 200
    settle(first)
    assert came_from(second.get(alone)) is None, "asked for once"


@pytest.mark.parametrize("kind", ["tables", "query", "graphql", "odata"])
def test_every_kind_of_response(pair, redis, kind):
    first, second = pair
    number = next(numbers)
    path = {
        "tables": f"/v1/tables/cafe_orders?select=guest,price.sum()&limit={100 + number}",
        "query": f"/v1/query?sql=select guest, orders from guests where orders < {1000 + number} order by all",
        "graphql": f"/v1/graphql?query={{ guests(first: {10 + number}) {{ nodes {{ guest }} }} }}",
        "odata": f"/v1/odata/guests?$top={10 + number}",
    }[kind]
    answer = kept(first, path)
    assert redis.dbsize() >= 1
    found = second.get(path)
    assert (found.content, came_from(found)) == (answer.content, FROM_REPLICAS)


@pytest.mark.usefixtures("redis")
def test_callers_with_other_policies_never_share(tmp_path, valkey):
    shop = make(tmp_path / "shop", ROWS)
    keys = [
        shop.key(scopes=["read"], roles=["sales-eu"], claims={"region": "EU"}),
        shop.key(scopes=["read"], roles=["sales-us"], claims={"region": "US"}),
        shop.key(scopes=["read"], roles=["sales-eu"]),
        shop.key(scopes=["read"], roles=["audit"]),
        shop.key(scopes=["read"], roles=["staff"]),
        shop.key(scopes=["read", "query"], roles=["audit"]),
    ]
    paths = ["/v1/tables/orders", "/v1/tables/orders?select=count()", "/v1/tables/totals", "/v1/tables/plain"]
    with shop.client(key="") as alone:
        expected = {(key, path): alone.get(path, headers=sent(key)) for key in keys for path in paths}
    share(shop, valkey.port, "shop")
    with replicas(shop, 3, key="") as clients:
        for round_number in range(3):
            for number, ((key, path), answer) in enumerate(expected.items()):
                client = clients[(number + round_number) % 3]
                client.get(path, headers=sent(key))
                found = client.get(path, headers=sent(key))
                assert (found.status_code, found.headers.get("etag")) == (
                    answer.status_code,
                    answer.headers.get("etag"),
                )
                if answer.status_code == 200:
                    assert found.content == answer.content, (key, path)
            settle(*clients)
        assert sum(state(client).cache.hits for client in clients) > 0, "of others with the same rights"
        before = deployment_of(shop.project())
    file = shop.root / "shop.py"
    file.write_text(file.read_text().replace("region = claim('region')", "region = claim('region') and id < 3"))
    assert deployment_of(shop.project()) != before
    with replicas(shop, 1, key=keys[0]) as [client]:
        answer = client.get("/v1/tables/orders")
        assert came_from(answer) is None
        assert [row["id"] for row in answer.json()["rows"]] == [1], "the new policy"


def test_damaged_and_foreign_responses_are_not_used(tmp_path, valkey, redis):
    shop = make(tmp_path / "shop", ROWS)
    share(shop, valkey.port, "poisoned")
    sales, audit = shop.key(roles=["sales-eu"], claims={"region": "EU"}), shop.key(roles=["audit"])
    drawn = random.Random(SEED)  # noqa: S311 - a reproducible seed
    path = "/v1/tables/orders"
    with replicas(shop, 1, key="") as [client]:
        right = kept(client, path, sent(sales))
        [name] = redis.keys("*:response:*[0-9a-f]")
        good = redis.get(name)
        kept(client, path, sent(audit))
        [other] = set(redis.keys("*:response:*[0-9a-f]")) - {name}
        foreign = redis.get(other)
    changed = [bytearray(good) for _ in range(examples(6, 400))]
    for each in changed:
        each[drawn.randrange(len(each))] ^= 1 << drawn.randrange(8)
    cut = [good[: drawn.randrange(len(good))] for _ in range(examples(3, 50))]
    grown = [good + b" ", b"x" * 100, b"\0" * 2_000_000]
    with replicas(shop, 1, key=sales) as [client]:
        for value in [foreign, *map(bytes, changed), *cut, *grown]:
            redis.set(name, value)
            rejected = state(client).cache.rejected
            client.app.state.backend.cache._entries.clear()  # noqa: SLF001 - as another replica
            answer = client.get(path)
            assert (answer.content, came_from(answer)) == (right.content, None)
            assert state(client).cache.rejected - rejected == (0 if not value or len(value) > 1 << 20 else 1)
            settle(client)
        redis.set(name, good)
        client.app.state.backend.cache._entries.clear()  # noqa: SLF001 - as above
        assert came_from(client.get(path)) == FROM_REPLICAS, "the whole one is used"
        redis.delete(name)
        redis.rpush(name, "x")
        client.app.state.backend.cache._entries.clear()  # noqa: SLF001 - as above
        assert client.get(path).content == right.content, "of another type"


@pytest.mark.usefixtures("redis")
def test_a_response_of_an_old_version_is_not_used(tmp_path, valkey):
    cafe = open_cafe(tmp_path)
    share(cafe, valkey.port, "cafe old")
    path = "/v1/tables/cafe_orders?select=count()"
    with replicas(cafe, 1) as [first]:
        old = kept(first, path).json()
    cafe.add("more", "6,2026-01-08,2026-01-08T12:00:00Z,New,1,2.00,,false\n")
    cafe.run()
    with replicas(cafe) as [first, second]:
        new = kept(first, path)
        assert new.json()["version"] > old["version"]
        found = second.get(path)
        assert (found.content, came_from(found)) == (new.content, FROM_REPLICAS), "it was replaced"


@pytest.fixture
def slow(monkeypatch):
    """The statements that are computed, each for a while."""
    computed, real = [], Engine.tuples

    def tuples(self, statement):
        if "guests" in statement.sql:
            computed.append(statement)
            time.sleep(0.4)
        return real(self, statement)

    monkeypatch.setattr(Engine, "tuples", tuples)
    return computed


def test_equal_requests_to_replicas_are_computed_once(pair, redis, slow):
    path = path_of()
    with ThreadPoolExecutor(10) as threads:
        answers = [each.result() for each in [threads.submit(pair[n % 2].get, path) for n in range(10)]]
    assert {(each.status_code, each.content) for each in answers} == {(200, answers[0].content)}
    assert len(slow) == 1
    settle(*pair)
    assert not [each for each in redis.scan_iter() if each.endswith((b":lock", b":wanted"))]


@pytest.mark.usefixtures("slow")
def test_what_is_computed_at_once_is_not_shared(pair, redis, monkeypatch):
    monkeypatch.setattr(shared_cache, "LEAST_S", 0.2)
    first, second = pair
    cheap = [path_of(orders="gt.0") for _ in range(3)]
    kept(first, cheap[0])  # of requests like this nothing is known
    asked = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert came_from(kept(first, cheap[1])) is None
    assert came_from(first.get(cheap[1])) == FROM_MEMORY
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] - asked <= 8, "limits only"
    state(first).cache.note(("", "", "/v1/tables/guests", "limit=1&orders=gt.0"), 2.0)
    kept(first, cheap[2])
    assert came_from(second.get(cheap[2])) == FROM_REPLICAS, "they take longer now"


@pytest.mark.parametrize(
    ("one", "other", "is_equal"),
    [
        (("/v1/tables/a", "x=eq.1&limit=2"), ("/v1/tables/a", "x=eq.b&limit=9"), True),
        (("/v1/tables/a", "x=eq.1"), ("/v1/tables/b", "x=eq.1"), False),
        (("/v1/tables/a", "x=eq.1"), ("/v1/tables/a", "y=eq.1"), False),
        (("/v1/query", "sql=select+1"), ("/v1/query", "sql=select+27"), True),
        (("/v1/query", "sql=select+a"), ("/v1/query", "sql=select+b"), False),
    ],
)
def test_requests_of_one_form(one, other, is_equal):
    assert (shared_cache._form(("", "", *one, "")) == shared_cache._form(("", "", *other, ""))) == is_equal  # noqa: SLF001 - tests only


def test_errors_hold_up_nobody_for_long(pair):
    path = path_of(nothing="eq.1")
    begin = time.monotonic()
    with ThreadPoolExecutor(6) as threads:
        answers = [each.result() for each in [threads.submit(pair[n % 2].get, path) for n in range(6)]]
    assert {each.status_code for each in answers} == {400}
    assert time.monotonic() - begin < 5


def test_nobody_waits_for_a_replica_that_was_killed(pair, redis, monkeypatch):
    monkeypatch.setattr(shared_cache, "WAIT_S", 0.5)
    first, second = pair
    path = path_of()
    find, names = type(state(first).cache).find, []

    async def noted(self, key, is_current):
        found, flight = await find(self, key, is_current)
        names.append(flight.names)
        flight.end = lambda *_, **__: None  # as if it was killed
        return found, flight

    with monkeypatch.context() as patch:
        patch.setattr(type(state(first).cache), "find", noted)
        patch.setattr(shared_cache.SharedFlight, "__setattr__", object.__setattr__)
        assert first.get(path).status_code == 200
    assert redis.exists(names[0][1]), "the lock stays"
    begin = time.monotonic()
    answer = second.get(path)
    assert (answer.status_code, came_from(answer)) == (200, None)
    assert 0.05 < time.monotonic() - begin < 5
