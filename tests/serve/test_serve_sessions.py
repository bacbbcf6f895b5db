"""Signing in with a browser: what a session allows, how it ends, and what pages of other origins cannot do with it."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager

import httpx
import pytest

from cluster.local.ports import unused_port
from pipeline.core.serve_settings import ServeSettings
from pipeline.governance.api_keys import SCOPES, ApiKeys
from pipeline.governance.audit_records import records
from pipeline.governance.catalog import Catalog
from pipeline.governance.sessions import SessionStore, StoredSession
from pipeline.project.workspace import Workspace
from serve import create_app
from serve.access.authentication import KeyRing
from serve.access.caller import Caller
from serve.access.sessions import BrowserSessions, cookies_of
from serve.deployment.direct import DirectServer
from tests.serve.conftest import TestClient, open_cafe, problem_of

SECURE = "__Host-headwater-session"


@pytest.fixture(scope="module")
def cafe(tmp_path_factory):
    return open_cafe(tmp_path_factory.mktemp("cafe"))


@contextmanager
def browser(cafe, scheme="https", app=None):
    with TestClient(app or create_app(cafe.project()), base_url=f"{scheme}://testserver") as client:
        client.follow_redirects = False
        yield client


@pytest.fixture(scope="module")
def page(cafe):
    with browser(cafe) as client:
        yield client


@pytest.fixture(autouse=True)
def nobody(page):
    page.cookies.clear()


def sign_in(client, key, **fields):
    token = re.search(r'name="form_token" value="([^"]+)"', client.get("/login").text)[1]
    return client.post("/login", data={"form_token": token, "key": key, **fields})


def csrf(client):
    return {"X-CSRF-Token": client.get("/session").json()["csrf_token"]}


def cookie_of(answer, name=SECURE):
    (header,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(f"{name}=")]
    value, *attributes = header.split("; ")
    return value.partition("=")[2], {each.lower() for each in attributes}


def test_a_session_stands_for_its_key(cafe, page):
    assert page.get("/v1/tables/cafe_orders").status_code == 404
    assert page.get("/session").json() == {"signed_in": False}
    answer = sign_in(page, cafe.key(scopes=["read", "query"]))
    assert (answer.status_code, answer.headers["location"]) == (303, "docs")
    value, attributes = cookie_of(answer)
    assert attributes == {"path=/", "httponly", "secure", "samesite=lax"}, "and neither Domain nor Max-Age"
    assert len(value) == 43
    assert page.get("/v1/tables/cafe_orders").status_code == 200
    told = page.get("/session").json()
    assert told["signed_in"]
    assert told["name"] == "a test"
    assert abs(told["expires_at"] - time.time() - 12 * 3600) < 60
    assert value not in page.get("/session").text
    query = {"json": {"sql": "select 1 as x"}}
    assert page.post("/v1/query", **query, headers=csrf(page)).json()["rows"] == [{"x": 1}]
    assert page.post("/v1/models/mood/predict", json={"rows": [{}]}, headers=csrf(page)).status_code == 403, (
        "its scopes"
    )


def test_without_tls_the_cookie_has_another_name(cafe):
    with browser(cafe, "http") as client:
        _, attributes = cookie_of(sign_in(client, cafe.key()), "headwater-session")
        assert attributes == {"path=/", "httponly", "samesite=lax"}
        assert client.get("/v1/tables/cafe_orders").status_code == 200
        client.cookies.set(SECURE, client.cookies["headwater-session"])
        client.cookies.delete("headwater-session")
        assert client.get("/v1/tables/cafe_orders").status_code == 404, "a prefix is for TLS"


def test_what_changes_something_needs_the_token_of_the_session(cafe, page):
    sign_in(page, cafe.key())
    query = {"json": {"sql": "select 1 as x"}}
    token = csrf(page)["X-CSRF-Token"]
    for headers in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": token[:-1]}, {"X-CSRF-Token": "ü".encode()}):
        refused = page.post("/v1/query", **query, headers=headers)
        assert refused.status_code == 403
        assert problem_of(refused)["problem"] == "the request lacks the token of its session"
    first = token
    sign_in(page, cafe.key())
    assert page.post("/v1/query", **query, headers={"X-CSRF-Token": first}).status_code == 403, (
        "that of another session"
    )
    assert page.post("/logout").status_code == 403
    assert page.get("/v1/tables/cafe_orders").status_code == 200, "still signed in"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_of_other_origins_cannot_use_what_browsers_send_by_themselves(cafe, page, site):
    key = cafe.key()
    query = {"json": {"sql": "select 1 as x"}}
    foreign = {"Sec-Fetch-Site": site}
    assert page.post("/v1/query", **query, headers={"Authorization": f"Bearer {key}", **foreign}).status_code == 200
    assert page.post("/v1/query", **query, headers=foreign, auth=("any", key)).status_code == 403
    assert page.post("/v1/query", **query, auth=("any", key)).status_code == 200
    token = re.search(r'name="form_token" value="([^"]+)"', page.get("/login").text)[1]
    assert page.post("/login", data={"form_token": token, "key": key}, headers=foreign).status_code == 403
    sign_in(page, key)
    assert page.post("/v1/query", **query, headers={**csrf(page), **foreign}).status_code == 403
    same = {"Sec-Fetch-Site": "same-origin"}
    assert page.post("/v1/query", **query, headers={**csrf(page), **same}).status_code == 200


def test_signing_out_ends_the_session_everywhere(cafe, page):
    sign_in(page, cafe.key())
    stolen = page.cookies[SECURE]
    answer = page.post("/logout", headers=csrf(page))
    assert answer.status_code == 204
    assert answer.headers["clear-site-data"] == '"cache", "storage"'
    value, attributes = cookie_of(answer)
    assert value in {"", '""'}
    assert "max-age=0" in attributes
    page.cookies.clear()
    page.cookies.set(SECURE, stolen)
    assert page.get("/v1/tables/cafe_orders").status_code == 404
    assert page.get("/session").json() == {"signed_in": False}
    assert page.get("/login").status_code == 200, "who was signed out can sign in again"


def test_a_session_is_new_and_replaces_the_one_before(cafe, page):
    page.cookies.set(SECURE, "x" * 43, domain="testserver.local")  # what an attacker has given to the browser
    first, _ = cookie_of(sign_in(page, cafe.key()))
    assert first != "x" * 43
    second, _ = cookie_of(sign_in(page, cafe.key(scopes=["query"])))
    assert second != first
    for token, status in ((first, 404), ("x" * 43, 404), (second, 404)):
        page.cookies.clear()
        page.cookies.set(SECURE, token)
        assert page.get("/v1/tables/cafe_orders").status_code == status, "the last key may not read"
    assert page.get("/session").json()["signed_in"]


def test_a_key_that_is_revoked_ends_its_sessions(cafe, page):
    key = cafe.key()
    sign_in(page, key)
    assert page.get("/v1/tables/cafe_orders").status_code == 200
    project = cafe.project()
    ApiKeys(Workspace(project).catalog, "dev").revoke(key.split("_")[1])
    time.sleep(1.1)
    assert page.get("/v1/tables/cafe_orders").status_code == 404
    assert page.get("/session").json() == {"signed_in": False}


def test_event_streams_end_with_the_session(cafe):
    app, port = create_app(cafe.project()), unused_port()
    server = DirectServer(app, "127.0.0.1", port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        sign_in(client, cafe.key())
        with client.stream("GET", "/v1/tables/guests/events", headers={"Accept": "text/event-stream"}) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("id: ")
            client.post("/logout", headers=csrf(client))
            assert 'data: {"detail": "the session has ended"}' in list(lines)
    server.close()
    app.state.backend.close()


def test_replicas_share_sessions(cafe, page):
    sign_in(page, cafe.key())
    with browser(cafe) as other:
        other.cookies.set(SECURE, page.cookies[SECURE])
        assert other.get("/v1/tables/cafe_orders").status_code == 200
        assert other.post("/v1/query", json={"sql": "select 1 as x"}, headers=csrf(page)).status_code == 200
        page.post("/logout", headers=csrf(page))
        time.sleep(1.1)
        assert other.get("/v1/tables/cafe_orders").status_code == 404


@pytest.mark.parametrize("key", ["", "x", "hw_", "Basic eDp5", "é" * 50, "a.b.c", "<script>alert(1)</script>"])
def test_what_is_no_key_is_refused(page, key):
    answer = sign_in(page, key)
    assert answer.status_code == 403
    assert "The key is not valid." in answer.text
    assert "alert(1)" not in answer.text
    assert "www-authenticate" not in answer.headers, "or browsers ask for a password"
    assert SECURE not in page.cookies


@pytest.mark.parametrize("change", [{"form_token": ""}, {"form_token": "x" * 43}, None])
def test_forms_of_other_sites_sign_nobody_in(cafe, page, change):
    """Otherwise someone would work in the session of an attacker."""
    if change is None:
        answer = page.post("/login", data={"key": cafe.key(), "form_token": "x" * 43})  # without the page's cookie
    else:
        answer = sign_in(page, cafe.key(), **change)
    assert (answer.status_code, SECURE in page.cookies) == (403, False)


def test_no_parameter_names_where_to_go(cafe, page):
    for path in ("/login?next=https://evil.example", "/login?next=//evil.example"):
        token = re.search(r'name="form_token" value="([^"]+)"', page.get(path).text)[1]
        answer = page.post(path, data={"form_token": token, "key": cafe.key(), "next": "//evil.example"})
        assert answer.headers["location"] == "docs"
        assert "evil" not in page.get(path).text


def test_bodies_that_are_no_form(page):
    page.get("/login")
    assert page.post("/login", content=b"\xff").status_code == 400
    assert page.post("/login", content=b"a" * 5000).status_code == 413
    assert page.post("/login", content=b"&".join(b"a=1" for _ in range(50))).status_code == 400


def test_a_key_in_the_header_counts_more(cafe, page):
    sign_in(page, cafe.key())
    assert page.get("/v1/tables/cafe_orders", headers={"Authorization": "Bearer x"}).status_code == 401
    bare = {"Authorization": f"Bearer {cafe.key(scopes=['query'])}"}
    assert page.get("/v1/tables/cafe_orders", headers=bare).status_code == 404


def test_many_cookies_take_no_time():
    """Anyone can send them, and they are read before anything is known of the caller."""
    begun = time.perf_counter()
    cookies = cookies_of({b"cookie": b";".join(b"c%d=1" % number for number in range(50_000))})
    assert len(cookies) == 50_000
    assert time.perf_counter() - begun < 2


def test_two_cookies_of_one_name_count_as_none(cafe, page):
    sign_in(page, cafe.key())
    token = page.cookies[SECURE]
    page.cookies.clear()
    for cookies, status in (
        (f"{SECURE}={token}", 200),
        (f"{SECURE}={token}; {SECURE}=x", 404),
        (f"{SECURE}={token}x", 404),
    ):
        assert page.get("/v1/tables/cafe_orders", headers={"Cookie": cookies}).status_code == status


def test_the_audit_log_tells_of_sessions_and_never_has_their_tokens(cafe):
    key = cafe.key()
    with browser(cafe) as client:
        sign_in(client, "hw_wrong")
        sign_in(client, key)
        token, secret = client.cookies[SECURE], csrf(client)["X-CSRF-Token"]
        client.get("/v1/tables/cafe_orders")
        client.post("/logout", headers=csrf(client))
    folder = cafe.root / ".headwater" / "audit" / "dev"
    every = "".join(path.read_text() for path in folder.rglob("*.jsonl"))
    assert token not in every
    assert secret not in every
    assert key not in every
    mine = [each for each in records(folder) if each.get("caller") == key.split("_")[1]]
    told = [(each["method"], each["path"], each["status"], each.get("why")) for each in mine]
    assert told[0] == ("POST", "/login", 303, "signed in")
    assert ("GET", "/v1/tables/cafe_orders", 200, "no policy names the table") in told
    assert told[-1] == ("POST", "/logout", 204, "signed out")
    assert len({each["session"] for each in mine}) == 1
    failed = [each for each in records(folder) if each["path"] == "/login" and each["status"] == 403]
    assert failed
    assert failed[-1]["caller_kind"] == "anonymous"


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def timed(tmp_path):
    """Sessions of two replicas, whose clock a test moves."""
    clock, catalog = Clock(), Catalog(f"sqlite:///{tmp_path}/catalog.db")
    keys = ApiKeys(catalog, "dev", clock=clock)
    _, key = keys.create("a person", scopes=SCOPES)
    settings = ServeSettings(session_seconds=7200, session_idle_seconds=600)
    replicas = [
        BrowserSessions(SessionStore(catalog, "dev", clock=clock), KeyRing(keys, clock), settings, clock)
        for _ in range(2)
    ]
    yield clock, catalog, replicas, Caller(key.id, "key", key.name, frozenset(), SCOPES)
    catalog.close()


def test_sessions_end_by_time(timed):
    """
    begin   +9 min each: used        +120 min
      |-----x-----x-----x- ... -----x--|        ends although it is used
      |-----x-----------|                       +10 min unused: ends
    """
    clock, catalog, (one, two), caller = timed
    begun, used = clock.now, one.begin(caller)
    while clock.now - begun < 7200 - 540:
        clock.now += 540
        assert (one.known(used.token) or one.find(used.token)).caller == caller
        assert two.find(used.token) is not None, "the other replica sees that it is used"
    clock.now = begun + 7200
    assert one.known(used.token) is None
    assert one.find(used.token) is None
    idle = one.begin(caller)
    assert [one.find(idle.token), two.find(idle.token)] != [None, None]
    clock.now += 600
    assert [one.known(idle.token), one.find(idle.token), two.find(idle.token)] == [None, None, None]
    one.begin(caller)
    with catalog.transaction() as connection:
        assert connection.exec_driver_sql("select count(*) from sessions").scalar() == 1, "those that ended are removed"
        stored = connection.exec_driver_sql("select * from sessions").one()
    assert used.token not in str(stored)
    assert idle.token not in str(stored)


def test_a_session_is_seen_while_it_is_used_without_reading(timed):
    clock, _, (one, two), caller = timed
    signed_in = one.begin(caller)
    for _ in range(900):  # each within the second after the last reading, so that few are written
        clock.now += 1.0
        assert one.known(signed_in.token) or one.find(signed_in.token)
    assert two.find(signed_in.token) is not None


def test_sessions_of_tokens_keep_what_the_token_said(timed):
    clock, _, (one, two), _ = timed
    caller = Caller("ann", "token", "Ann", frozenset({"staff"}), ("read",), {"region": ("EU", "US"), "team": "a"})
    signed_in = one.begin(caller, ends_at=clock.now + 300)
    assert two.find(signed_in.token).caller == caller
    clock.now += 300
    assert two.find(signed_in.token) is None, "as its token"


def test_an_environment_does_not_know_those_of_another(timed):
    clock, catalog, (one, _), caller = timed
    signed_in = one.begin(caller)
    other = SessionStore(catalog, "prod", clock=clock)
    assert other.find(signed_in.digest) is None
    other.begin(StoredSession("x", "", "{}", clock.now, clock.now + 1, clock.now), 600)
    assert one.find(signed_in.token) is not None
