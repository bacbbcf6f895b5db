"""The HTTP client against a server with faults: retries, limits of responses, addresses, and credentials."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import pickle
import tracemalloc
from datetime import UTC, datetime

import httpx
import pytest

from pipeline import graphql, odata, rest, server_sent_events
from pipeline.connectors.guard import Guard, Guarded, Rate
from pipeline.connectors.guard.calls import CallClock, RetryRule
from pipeline.connectors.http.addresses import checked_addresses, is_public
from pipeline.connectors.http.client import ApiRequest, HttpClient, HttpLimits, Identity
from pipeline.connectors.http.credentials import ApiKey, Basic, Bearer, Hmac, OAuth2
from pipeline.connectors.http.waiting import limit_pause_s, retry_after_s
from pipeline.core.errors import DefinitionError, SettingsError, SourceError, SourceUnavailableError
from tests.rigs.http_faults import HttpServer, Reply, http_server, redirect, too_many, unavailable, zipped
from tests.rigs.simulated_clock import SimulatedClock

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OK = Reply({"ok": True})


@pytest.fixture(scope="module")
def running():
    with http_server() as server:
        yield server


@pytest.fixture
def server(running):
    running.routes, running.script, running.received = {"/items": lambda _: OK}, [], []
    return running


class Calls:
    """A client whose retries take no time; `clock.slept` has the waits."""

    def __init__(
        self, server: HttpServer, identity=None, rate: Rate | None = None, resolve_host=None, **limits
    ) -> None:
        self.clock = SimulatedClock()
        time = CallClock(self.clock, self.clock.sleep, lambda: 0.0)
        guarded = Guarded("api", rate, RetryRule(attempts=4), Guard(self.clock), time)
        more = {} if resolve_host is None else {"resolve_host": resolve_host}
        self.client = HttpClient(server.url, guarded, identity, HttpLimits(**limits), **more)
        self.url = f"{server.url}/items"

    def get(self, **options):
        try:
            return self.client.get(ApiRequest(self.url, **options))
        finally:
            self.client.close()


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (too_many(), [0.25]),
        (too_many("7"), [7]),
        (too_many("0.5"), [0.5]),
        (too_many("Wed, 01 Apr 2026 10:00:20 GMT", Date="Wed, 01 Apr 2026 10:00:00 GMT"), [20]),
        (too_many("nonsense"), [0.25]),
        (too_many(None, X_RateLimit_Remaining="0", X_RateLimit_Reset="11"), [11]),
        (unavailable(), [0.25]),
        (Reply(b"", 503, {"Retry-After": "3"}), [3]),
        (Reply(b"", 500), [0.25]),
        (Reply(b"", 408), [0.25]),
        (Reply(closes=True), [0.25]),
        (Reply({"long": "x" * 1000}, cut_at=100), [0.25]),
        (Reply({"ok": True}, length=1000), [0.25]),
        (Reply(b"not gzip", headers={"Content-Encoding": "gzip"}), [0.25]),
        (Reply({"ok": True}, pause_s=0.1), [0.25]),
    ],
    ids=lambda _: "",
)
def test_temporary_faults_are_retried(server, fault, waits):
    server.script = [fault]
    calls = Calls(server, timeout_s=0.5)
    assert calls.get().body == OK.content
    assert calls.clock.slept == waits
    assert len(server.received) == 2


def test_it_gives_up_after_some_attempts(server):
    server.script = [unavailable()] * 9
    with pytest.raises(
        SourceUnavailableError, match=r"/items could not be read in 4 attempts: got status 503: <html>Service"
    ):
        Calls(server).get()
    assert len(server.received) == 4


def test_nobody_listens():
    calls = Calls(HttpServer(1))
    with pytest.raises(SourceUnavailableError, match="in 4 attempts"):
        calls.get()


@pytest.mark.parametrize("status", [400, 404, 405, 410, 422, 501])
def test_permanent_faults_are_errors_at_once(server, status):
    server.script = [Reply({"error": "no such field"}, status)]
    with pytest.raises(SourceError, match=rf"the request was refused: got status {status}: .*no such field") as raised:
        Calls(server).get()
    assert not isinstance(raised.value, SourceUnavailableError)
    assert len(server.received) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_request_that_is_not_authorized(server, status):
    server.script = [Reply(b"", status), Reply(b"", status)]
    with pytest.raises(SourceError, match=r"not authorized: got status 40\d; pass auth="):
        Calls(server).get()
    with pytest.raises(SourceError, match="check auth="):
        Calls(server, Identity(Bearer("secret-token"))).get()


def test_a_response_that_is_too_large_is_ended(server):
    server.script = [Reply(b"x" * 10_000), zipped(1 << 20), Reply(b"x" * 10_000)]
    for _ in range(2):
        with pytest.raises(SourceError, match=r"a response is too large: got more than 9,999 bytes"):
            Calls(server, most_bytes=9_999).get()
    assert len(Calls(server, most_bytes=10_000).get().body) == 10_000


GZIP = {"Content-Encoding": "gzip"}


def test_a_bomb_takes_no_more_memory_than_the_limit(server):
    server.script = [zipped(64 << 20)]
    calls = Calls(server, most_bytes=1 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="a response is too large"):
            calls.get()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["gzip, gzip", "zstd", "br", "deflate", "gzip, zstd", "identity, gzip"])
def test_an_encoding_that_was_not_asked_for_is_refused(server, encoding):
    body = gzip.compress(gzip.compress(b"[]"))
    server.script = [Reply(body, headers={"Content-Encoding": encoding})]
    with pytest.raises(SourceError, match=rf"has an encoding that is not read: got '{encoding}'"):
        Calls(server).get()
    assert len(server.received) == 1
    assert server.received[0].headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize(
    "body",
    [b"", gzip.compress(b"x" * 1_000_000), gzip.compress(b"a") + gzip.compress(b"b"), gzip.compress(b"a") + b"\0" * 512, gzip.compress(b"")],
    ids=["nothing", "long", "two members", "padded", "empty"],
)  # fmt: skip
def test_gzip_is_read(server, body):
    server.script = [Reply(body, headers=GZIP)]
    assert Calls(server, most_bytes=1_000_000).get().body == gzip.decompress(body)


def test_gzip_that_ends_early_is_asked_for_again(server):
    server.script = [Reply(gzip.compress(b"x" * 100)[:-9], headers={"Content-Encoding": "x-gzip"})]
    assert Calls(server).get().body == OK.content


def test_the_rate_is_kept(server):
    calls = Calls(server, rate=Rate(10, 1))
    for _ in range(4):
        calls.client.get(ApiRequest(calls.url))
    assert calls.clock.now == pytest.approx(0.3)
    calls.client.close()


def test_a_used_up_limit_makes_the_next_call_wait(server):
    server.script = [Reply({"ok": True}, headers={"RateLimit-Remaining": "0", "RateLimit-Reset": "9"})]
    calls = Calls(server)
    calls.client.get(ApiRequest(calls.url))
    assert calls.get().status == 200
    assert calls.clock.slept == [9]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "60"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, 60),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp()) + 90)}, 90),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW.timestamp() * 1000) + 90_000)}, 90),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "0"}, 0),
        ({"x-ratelimit-remaining": "0"}, None),
        ({"x-ratelimit-remaining": "few", "x-ratelimit-reset": "60"}, None),
        ({"ratelimit": '"default";r=0;t=30'}, 30),
        ({"ratelimit": '"default";t=30;r=0'}, 30),
        ({"ratelimit": '"default";r=10;t=30'}, None),
    ],
)
def test_waits_of_rate_limits(headers, seconds):
    assert limit_pause_s(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        ("Sun, 01 Mar 2026 12:01:00 GMT", 60),
        ("Sun, 01 Mar 2026 11:00:00 GMT", 0),
        ("Sunday", None),
        ("-5", None),
        ("", None),
        ("nan", None),
    ],
)
def test_waits_of_retry_after(text, seconds):
    assert retry_after_s({"retry-after": text}, NOW) == seconds


def test_redirects_are_followed(server):
    server.routes["/new"] = lambda r: Reply({"moved": r.params})
    server.script = [redirect("/items"), redirect(f"{server.url}/new?a=1")]
    assert Calls(server).get().body == Reply({"moved": {"a": "1"}}).content


def test_a_redirect_to_an_invalid_address(server):
    server.script = [redirect("http://a:port/")]
    with pytest.raises(SourceError, match="a request failed: got Invalid URL in location header: Invalid port"):
        Calls(server).get()


def test_redirects_without_end(server):
    server.routes["/items"] = lambda _: redirect("/items")
    with pytest.raises(SourceError, match="more than 5 redirects"):
        Calls(server).get()


def test_a_redirect_to_a_file(server):
    server.script = [redirect("file:///etc/passwd")]
    with pytest.raises(SourceError, match=r"a redirect has no HTTP address: got file:/+etc/passwd"):
        Calls(server).get()


@pytest.mark.parametrize("host", ["localhost", "169.254.169.254", "10.0.0.1", "[::1]", "[::ffff:127.0.0.1]"])
def test_a_redirect_to_a_private_address_is_refused(server, host):
    server.script = [redirect(f"http://{host}:1/latest/meta-data")]
    with pytest.raises(
        SourceError, match=r"a response refers to .* which has a private address: got .*; name .* in allowed_hosts"
    ):
        Calls(server).get()
    assert len(server.received) == 1


def test_an_allowed_host_may_be_private_and_gets_no_credentials(server, monkeypatch):
    with http_server() as other:
        other.routes["/items"] = lambda r: Reply(sorted(r.headers))
        server.script = [redirect(other.url.replace("127.0.0.1", "localhost") + "/items")]
        identity = Identity(Bearer("secret-token"), {"X-Team": "env:TEAM"})
        monkeypatch.setenv("TEAM", "blue")
        body = Calls(server, identity, allowed_hosts=("localhost",)).get().body
        assert server.received[0].headers["authorization"] == "Bearer secret-token"
        assert server.received[0].headers["x-team"] == "blue"
        assert b"authorization" not in body
        assert b"x-team" not in body
        # another port of the same host is another origin too
        server.script = [redirect(other.url + "/items")]
        assert b"authorization" not in Calls(server, identity).get().body


def test_a_name_that_resolves_to_a_private_address_later_is_not_connected(server):
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    assert checked_addresses("rebind.example.com", 80, (), lambda *_: answers.pop(0)) == ["93.184.216.34"]
    with pytest.raises(SourceError, match=r"private address: got 127.0.0.1"):
        checked_addresses("rebind.example.com", 80, (), lambda *_: answers.pop(0))
    server.script = [redirect("http://rebind.example.com/items")]
    calls = Calls(server, resolve_host=lambda *_: ["93.184.216.34", "127.0.0.1"])
    with pytest.raises(SourceError, match=r"'rebind.example.com', which has a private address"):
        calls.get()


def test_an_unknown_host(server):
    def unknown(*_):
        raise OSError(-2, "Name or service not known")

    server.script = [redirect("http://unknown.example.com/")]
    server.routes["/items"] = lambda _: redirect("http://unknown.example.com/")
    with pytest.raises(SourceUnavailableError, match=r"the host 'unknown.example.com' is unknown: Name or service"):
        Calls(server, resolve_host=unknown).get()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("10.1.2.3", False),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("2606:4700::1111", True),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_public_addresses(address, expected):
    assert is_public(address) is expected


@pytest.mark.parametrize(
    ("credentials", "header", "value"),
    [
        (Bearer("env:KEY"), "authorization", "Bearer s3cret"),
        (Basic("ann", "env:KEY"), "authorization", "Basic YW5uOnMzY3JldA=="),
        (ApiKey("env:KEY"), "x-api-key", "s3cret"),
        (ApiKey("env:KEY", header="Api-Token"), "api-token", "s3cret"),
    ],
)
def test_credentials(server, monkeypatch, credentials, header, value):
    monkeypatch.setenv("KEY", "s3cret")
    Calls(server, Identity(credentials)).get()
    assert server.received[0].headers[header] == value
    assert "s3cret" not in repr(credentials)
    assert pickle.loads(pickle.dumps(credentials)) == credentials  # noqa: S301 - our own


def test_a_key_in_a_parameter_is_not_shown(server, monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")
    server.script = [OK, Reply({"error": "bad key s3cret"}, 400)]
    response = Calls(server, Identity(ApiKey("env:KEY", parameter="key"))).get(params={"a": "1"})
    assert server.received[0].params == {"a": "1", "key": "s3cret"}
    assert response.url == f"{server.url}/items?a=1"
    with pytest.raises(SourceError, match=r"bad key \*\*\*") as raised:
        Calls(server, Identity(ApiKey("env:KEY", parameter="key"))).get()
    assert "s3cret" not in str(raised.value)


def test_a_credential_that_is_not_set(server):
    with pytest.raises(SettingsError, match="'HEADWATER_NO_KEY' with the token is not set"):
        Calls(server, Identity(Bearer("env:HEADWATER_NO_KEY"))).get()


def test_signatures(server):
    signed = Hmac(
        "key", message="{method} {path} {timestamp} {nonce} {body_sha256}", nonce_header="X-Nonce", prefix="v1="
    )
    Calls(server, Identity(signed)).get(params={"b": "2"}, method="POST", body={"q": 1})
    received = server.received[0]
    digest = hashlib.sha256(received.body).hexdigest()
    text = f"POST /items?b=2 {received.headers['x-timestamp']} {received.headers['x-nonce']} {digest}"
    assert received.headers["x-signature"] == "v1=" + hmac.new(b"key", text.encode(), "sha256").hexdigest()
    Calls(server, Identity(Hmac("key", message="{body}{url}", encoding="base64"))).get()
    assert server.received[1].headers["x-signature"].endswith("=")


def test_signatures_that_are_not_known():
    with pytest.raises(DefinitionError, match="unknown kind of signature: got digest='md5'"):
        Hmac("key", digest="md5")
    with pytest.raises(DefinitionError, match="message= has an unknown placeholder: got 'host'"):
        Hmac("key", message="{host}")


class TokenServer:
    """Issues tokens, each of which is valid for some requests."""

    def __init__(self, server: HttpServer, uses: int = 99, **fields) -> None:
        self.issued, self.uses, self.left, self.fields = 0, uses, 0, fields
        server.routes |= {"/token": self.token, "/items": self.items}

    def token(self, received) -> Reply:
        del received
        self.issued, self.left = self.issued + 1, self.uses
        return Reply({"access_token": f"token-{self.issued}", "expires_in": 3600, **self.fields})

    def items(self, received) -> Reply:
        self.left -= 1
        is_valid = received.headers.get("authorization") == f"Bearer token-{self.issued}" and self.left >= 0
        return OK if is_valid else Reply(b"", 401)


def test_oauth_by_client_credentials(server, monkeypatch):
    monkeypatch.setenv("SECRET", "p@ss")
    tokens = TokenServer(server, uses=2)
    oauth = OAuth2(f"{server.url}/token", "me", "env:SECRET", scope="read", parameters_of_request={"audience": "api"})
    calls = Calls(server, Identity(oauth))
    for _ in range(5):
        assert calls.client.get(ApiRequest(calls.url)).status == 200
    calls.client.close()
    assert tokens.issued == 3  # also after a token that was revoked early
    asked = server.received[0]
    assert asked.body == b"grant_type=client_credentials&scope=read&audience=api"
    assert asked.headers["authorization"] == "Basic bWU6cEBzcw=="


def test_oauth_by_refresh_token_which_is_replaced(server):
    tokens = TokenServer(server, uses=1, refresh_token="second")  # noqa: S106 - not a secret
    oauth = OAuth2(f"{server.url}/token", "me", client_in_body=True, refresh_token="first")  # noqa: S106 - likewise
    calls = Calls(server, Identity(oauth))
    for _ in range(2):
        calls.client.get(ApiRequest(calls.url))
    calls.client.close()
    asked = [received.body for received in server.received if received.path == "/token"]
    assert asked[0] == b"grant_type=refresh_token&refresh_token=first&client_id=me"
    assert asked[1] == b"grant_type=refresh_token&refresh_token=second&client_id=me"
    assert tokens.issued == 2


def test_a_token_that_has_expired_is_renewed(server):
    tokens = TokenServer(server, expires_in="1")
    calls = Calls(server, Identity(OAuth2(f"{server.url}/token", "me", "x")))
    calls.client.get(ApiRequest(calls.url))
    calls.client._token.valid_until -= 60  # noqa: SLF001 - time passes
    calls.client.get(ApiRequest(calls.url))
    calls.client.close()
    assert tokens.issued == 2


def test_no_token_is_issued(server):
    oauth = OAuth2(f"{server.url}/token", "me", "hidden-secret")
    server.routes["/token"] = lambda _: Reply({"error": "invalid_client"}, 401)
    with pytest.raises(SourceError, match=r"no token was issued: got status 401 invalid_client; check the client"):
        Calls(server, Identity(oauth)).get()
    server.routes["/token"] = lambda _: Reply({"token": 1})
    with pytest.raises(DefinitionError, match=r"answered without a token: got fields \['token'\]"):
        Calls(server, Identity(oauth)).get()
    server.routes["/token"] = lambda _: Reply(b"<html>")
    with pytest.raises(SourceError, match="no token was issued: got status 200"):
        Calls(server, Identity(oauth)).get()
    server.routes["/token"] = lambda _: unavailable()
    with pytest.raises(SourceUnavailableError, match="in 4 attempts"):
        Calls(server, Identity(oauth)).get()


def test_the_client_of_oauth_cannot_sign_alone():
    with pytest.raises(DefinitionError, match="OAuth2 can only be used by rest"):
        OAuth2("https://id.example.com", "me").sign(httpx.Request("GET", "https://api.example.com"))


def test_an_invalid_address(server):
    calls = Calls(server)
    calls.url = f"{server.url}/items:port\x00"
    with pytest.raises(SourceError, match="an address is invalid"):
        calls.get()


@pytest.mark.parametrize(
    "read",
    [
        lambda auth: rest("https://api.example.com/x", auth=auth),
        lambda auth: graphql("https://api.example.com/x", "{ items }", auth=auth),
        lambda auth: odata("https://api.example.com/x", "Items", auth=auth),
        lambda auth: server_sent_events("https://api.example.com/x", auth=auth),
    ],
)
def test_a_text_is_no_credentials(read):
    with pytest.raises(
        DefinitionError, match=r"auth= must be credentials such as Bearer.*: got str; for a token"
    ) as raised:
        read("s3cret")
    assert "s3cret" not in str(raised.value)
    read(Bearer("env:TOKEN"))
